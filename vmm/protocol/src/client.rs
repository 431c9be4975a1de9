//! A blocking client of the control socket.

use std::{
    io::{self, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{
    control::{Refusal, Reply, Request, Status},
    line::{LineError, read_line, write_line},
};

/// How long [`Control::request`] waits for the reply. Loading a kernel is the longest thing a VMM does before it
/// answers; a slow disk may take seconds over it.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Error)]
pub enum ControlError {
    #[error("cannot reach the VMM at {path:?}")]
    Connect { path: PathBuf, source: io::Error },
    #[error("the VMM did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("cannot talk to the VMM")]
    Line(#[source] LineError),
    #[error("the VMM refused ({:?}): {}", .0.code, .0.message)]
    Refused(Refusal),
}

/// A connection to one VMM. After any error but [`ControlError::Refused`] it is closed and each later request
/// fails: a late reply must not be taken for the answer to another request.
#[derive(Debug)]
pub struct Control {
    connection: BufReader<Bounded>,
}

impl Control {
    /// Connects to the socket at [`crate::MachineConfig::control_socket`].
    pub fn connect(path: &Path) -> Result<Self, ControlError> {
        let stream = UnixStream::connect(path)
            .map_err(|source| ControlError::Connect { path: path.to_owned(), source })?;
        Ok(Self { connection: BufReader::new(Bounded { stream, deadline: None }) })
    }

    /// Sends one request and waits [`REPLY_TIMEOUT`] for its answer. For [`Request::Wait`] use
    /// [`Control::request_within`].
    pub fn request(&mut self, request: &Request) -> Result<Status, ControlError> {
        self.request_within(request, Some(REPLY_TIMEOUT))
    }

    /// Sends one request and waits as long as `timeout` says, or for ever.
    pub fn request_within(
        &mut self,
        request: &Request,
        timeout: Option<Duration>,
    ) -> Result<Status, ControlError> {
        self.connection.get_mut().deadline = timeout.map(|timeout| Instant::now() + timeout);
        match self.exchange(request) {
            Ok(Reply::Status(status)) => Ok(status),
            Ok(Reply::Refused(refusal)) => Err(ControlError::Refused(refusal)),
            Err(error) => {
                // Closed already when the other side was faster; either way nothing more is said here.
                let _ = self.connection.get_ref().stream.shutdown(Shutdown::Both);
                Err(match (error, timeout) {
                    (LineError::Io(e), Some(timeout)) if timed_out(&e) => ControlError::TimedOut(timeout),
                    (error, _) => ControlError::Line(error),
                })
            }
        }
    }

    fn exchange(&mut self, request: &Request) -> Result<Reply, LineError> {
        write_line(self.connection.get_mut(), request)?;
        read_line(&mut self.connection)
    }
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A stream whose every read and write ends by one deadline, however slowly the bytes come.
#[derive(Debug)]
struct Bounded {
    stream: UnixStream,
    deadline: Option<Instant>,
}

impl Bounded {
    /// What is left until the deadline; never zero, which to the socket means "for ever".
    fn left(&self) -> io::Result<Option<Duration>> {
        let Some(deadline) = self.deadline else { return Ok(None) };
        match deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

impl Read for Bounded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(into)
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;
    use crate::{MachineState, PROTOCOL_VERSION, RefusalCode};

    const STATUS: Request = Request::Status { version: PROTOCOL_VERSION };

    fn prepared() -> Status {
        Status {
            version: PROTOCOL_VERSION,
            name: "p1".into(),
            generation: 1,
            state: MachineState::Prepared,
            process: 7,
            vcpus: vec![],
            disks: vec![],
            stop_at_boottime_ns: None,
        }
    }

    /// Serves one connection: each request read is answered with the next of `replies`.
    fn connected_to_a_server_with(replies: Vec<Reply>) -> (tempfile::TempDir, Control) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            for reply in replies {
                let _: Request = read_line(&mut reader).unwrap();
                write_line(reader.get_mut(), &reply).unwrap();
            }
            // Holds the connection open until the client is done with it.
            let _ = reader.read_to_end(&mut Vec::new());
        });
        let control = Control::connect(&path).unwrap();
        (directory, control)
    }

    #[test]
    fn a_request_is_answered_with_a_status() {
        let (_directory, mut control) = connected_to_a_server_with(vec![Reply::Status(prepared())]);
        assert_eq!(control.request(&STATUS).unwrap(), prepared());
    }

    #[test]
    fn a_refusal_is_told_and_the_connection_goes_on() {
        let refusal = Refusal { code: RefusalCode::NotAllowedNow, message: "no".into() };
        let replies = vec![Reply::Refused(refusal.clone()), Reply::Status(prepared())];
        let (_directory, mut control) = connected_to_a_server_with(replies);
        assert!(
            matches!(control.request(&STATUS), Err(ControlError::Refused(refused)) if refused == refusal)
        );
        assert_eq!(control.request(&STATUS).unwrap(), prepared());
    }

    #[test]
    fn a_silent_vmm_is_given_up_on_and_its_late_reply_never_read() {
        let (_directory, mut control) = connected_to_a_server_with(vec![]);
        let timeout = Duration::from_millis(20);
        assert!(matches!(
            control.request_within(&STATUS, Some(timeout)),
            Err(ControlError::TimedOut(waited)) if waited == timeout
        ));
        assert!(matches!(control.request(&STATUS), Err(ControlError::Line(_))));
    }

    #[test]
    fn a_missing_socket_is_named() {
        let missing = Path::new("/nonexistent/control");
        let error = Control::connect(missing).unwrap_err();
        assert_eq!(error.to_string(), r#"cannot reach the VMM at "/nonexistent/control""#);
    }
}
