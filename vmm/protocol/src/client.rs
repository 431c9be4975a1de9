//! A blocking client of the control socket.

use std::{
    io::{self, BufReader, IoSlice, Read, Write},
    mem::MaybeUninit,
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt::socket_peercred};
use thiserror::Error;

use crate::{
    PROTOCOL_VERSION,
    boot::{BOOT_FILES_MAX, BootFiles},
    config::BootSource,
    control::{Refusal, Reply, Request, Status, Wanted},
    line::{LineError, read_line, to_line},
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
    #[error("the VMM answered something else than was asked")]
    Unexpected,
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

    /// The VMM's process, by its id on this host. The kernel says so: the VMM cannot pass for another one.
    pub fn process(&self) -> io::Result<u32> {
        let peer = socket_peercred(&self.connection.get_ref().stream)?;
        Ok(peer.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Boots the machine from these files, whose descriptors go along.
    pub fn boot(&mut self, files: &BootFiles, command_line: String) -> Result<Status, ControlError> {
        let base = files.base.as_ref().map(|(source, _)| source.clone());
        let source = BootSource { has_initrd: files.initrd.is_some(), command_line, base };
        let request = Request::Boot { version: PROTOCOL_VERSION, source };
        status(self.converse(&request, &files.descriptors(), Some(REPLY_TIMEOUT))?)
    }

    /// Waits until the guest wants more of what lies under its disk than it did at generation `after`.
    pub fn wanted(&mut self, after: u64) -> Result<Wanted, ControlError> {
        match self.converse(&Request::Wanted { version: PROTOCOL_VERSION, after }, &[], None)? {
            Reply::Wanted(wanted) => Ok(wanted),
            _ => Err(ControlError::Unexpected),
        }
    }

    /// Sends one request and waits [`REPLY_TIMEOUT`] for its answer. For [`Request::Boot`] use [`Control::boot`], for [`Request::Wait`] use
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
        status(self.converse(request, &[], timeout)?)
    }

    fn converse(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
        timeout: Option<Duration>,
    ) -> Result<Reply, ControlError> {
        self.connection.get_mut().deadline = timeout.map(|timeout| Instant::now() + timeout);
        match self.exchange(request, descriptors) {
            Ok(Reply::Refused(refusal)) => Err(ControlError::Refused(refusal)),
            Ok(reply) => Ok(reply),
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

    fn exchange(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Reply, LineError> {
        let line = to_line(request)?;
        let connection = self.connection.get_mut();
        let sent = connection.send_with(descriptors, &line).map_err(LineError::Io)?;
        connection.write_all(&line[sent..]).map_err(LineError::Io)?;
        read_line(&mut self.connection)
    }
}

fn status(reply: Reply) -> Result<Status, ControlError> {
    match reply {
        Reply::Status(status) => Ok(status),
        _ => Err(ControlError::Unexpected),
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

    /// Sends some of `bytes`; the descriptors go with the first of them.
    fn send_with(&self, descriptors: &[BorrowedFd<'_>], bytes: &[u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BOOT_FILES_MAX))];
        let mut along = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !along.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.stream.set_write_timeout(self.left()?)?;
        let sent = sendmsg(self.stream.as_fd(), &[IoSlice::new(bytes)], &mut along, SendFlags::NOSIGNAL)?;
        Ok(sent)
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
    use std::{io::IoSliceMut, os::unix::net::UnixListener, thread};

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;
    use crate::{MachineState, RefusalCode, line::write_line};

    const STATUS: Request = Request::Status { version: PROTOCOL_VERSION };

    fn prepared() -> Status {
        Status {
            version: PROTOCOL_VERSION,
            name: "p1".into(),
            generation: 1,
            state: MachineState::Prepared,
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
    fn a_boot_takes_its_files_along_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("vmlinux"), "the kernel").unwrap();
        std::fs::write(path("initrd"), "the initrd").unwrap();
        let listener = UnixListener::bind(path("control")).unwrap();
        let mut control = Control::connect(&path("control")).unwrap();
        let files = BootFiles::open(&path("vmlinux"), Some(&path("initrd"))).unwrap();
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BOOT_FILES_MAX))];
            let mut along = RecvAncillaryBuffer::new(&mut space);
            let mut line = [0; 4096];
            let received =
                recvmsg(&stream, &mut [IoSliceMut::new(&mut line)], &mut along, RecvFlags::empty()).unwrap();
            write_line(&mut &stream, &Reply::Status(prepared())).unwrap();
            let descriptors = along.drain().flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
                _ => vec![],
            });
            let texts = descriptors.map(|file| io::read_to_string(std::fs::File::from(file)).unwrap());
            (read_line(&mut &line[..received.bytes]).unwrap(), texts.collect::<Vec<_>>())
        });
        assert_eq!(control.boot(&files, "quiet".into()).unwrap(), prepared());
        let (request, texts): (Request, _) = server.join().unwrap();
        let source = BootSource { has_initrd: true, command_line: "quiet".into(), base: None };
        assert_eq!(request, Request::Boot { version: PROTOCOL_VERSION, source });
        assert_eq!(texts, ["the kernel", "the initrd"]);
    }

    #[test]
    fn the_kernel_says_which_process_is_spoken_to() {
        let (_directory, control) = connected_to_a_server_with(vec![]);
        assert_eq!(control.process().unwrap(), std::process::id());
    }

    #[test]
    fn a_missing_socket_is_named() {
        let missing = Path::new("/nonexistent/control");
        let error = Control::connect(missing).unwrap_err();
        assert_eq!(error.to_string(), r#"cannot reach the VMM at "/nonexistent/control""#);
    }
}
