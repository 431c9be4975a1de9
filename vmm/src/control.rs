//! The control socket's connections: lines in, lines out, never waiting for the other side.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::{
            fs::FileTypeExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use serde::Deserialize;
use sublet_vmm_protocol::{
    LINE_LIMIT, LineError, PROTOCOL_VERSION, Refusal, RefusalCode, Reply, Request, write_line,
};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum ListenError {
    #[error("control_socket {path:?} is there already and is not a socket")]
    NotASocket { path: PathBuf },
    #[error("control_socket {path:?} belongs to a VMM that is alive")]
    InUse { path: PathBuf },
    #[error("cannot listen at control_socket {path:?}")]
    Listen { path: PathBuf, source: io::Error },
}

/// The socket that others connect to.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`, in the place of a socket that a dead VMM left there.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Listen { path: path.to_owned(), source };
        if let Ok(there) = fs::symlink_metadata(path) {
            if !there.file_type().is_socket() {
                return Err(ListenError::NotASocket { path: path.to_owned() });
            }
            if UnixStream::connect(path).is_ok() {
                return Err(ListenError::InUse { path: path.to_owned() });
            }
            fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// The next connection, if one is waiting.
    pub fn accept(&self) -> io::Result<Option<Connection>> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                Ok(Some(Connection::new(stream)))
            }
            // The other side may have gone before it was accepted.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Gone already is as good; anything else is found and replaced by the next VMM.
        let _ = fs::remove_file(&self.path);
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// Generation after which a `wait` is to be answered.
    waits_after: Option<u64>,
}

/// What a line asks for, or why it is refused.
pub type Asked = Result<Request, Refusal>;

impl Connection {
    /// Over a stream that does not block.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, incoming: vec![], outgoing: vec![], waits_after: None }
    }

    /// Takes in what has arrived. An error, the other side's end, and more than one line's worth that nobody waits
    /// for are all the end of the connection.
    pub fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.incoming.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.incoming.len() > LINE_LIMIT {
                return Err(ErrorKind::InvalidData.into());
            }
        }
    }

    /// The next request, once the one before it has been answered in full.
    pub fn next_request(&mut self) -> Option<Asked> {
        if self.waits_after.is_some() || self.has_unsent() {
            return None;
        }
        let end = self.incoming.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.incoming.drain(..=end).collect();
        Some(parse(&line))
    }

    /// Leaves the request unanswered until the generation is greater than `after`.
    pub fn wait_after(&mut self, after: u64) {
        self.waits_after = Some(after);
    }

    /// Whether a wait is due now.
    pub fn is_due(&self, generation: u64) -> bool {
        self.waits_after.is_some_and(|after| generation > after)
    }

    /// Answers.
    pub fn reply(&mut self, reply: &Reply) -> io::Result<()> {
        self.waits_after = None;
        write_line(&mut self.outgoing, reply).map_err(|error| match error {
            LineError::Io(error) => error,
            other => io::Error::other(other),
        })?;
        self.send()
    }

    /// Sends as much as the other side takes.
    pub fn send(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub fn has_unsent(&self) -> bool {
        !self.outgoing.is_empty()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

/// What every version of every request says of itself.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

fn parse(line: &[u8]) -> Asked {
    let malformed =
        |error: serde_json::Error| refusal(RefusalCode::Malformed, format!("not a request: {error}"));
    let Versioned { version } = serde_json::from_slice(line).map_err(malformed)?;
    if version != PROTOCOL_VERSION {
        let message =
            format!("this VMM speaks version {PROTOCOL_VERSION}, the request is of version {version}");
        return Err(refusal(RefusalCode::UnsupportedVersion, message));
    }
    serde_json::from_slice(line).map_err(malformed)
}

pub fn refusal(code: RefusalCode, message: String) -> Refusal {
    Refusal { code, message }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use sublet_vmm_protocol::read_line;

    use super::*;

    fn connected() -> (tempfile::TempDir, Connection, UnixStream) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let listener = Listener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let connection = listener.accept().unwrap().unwrap();
        (directory, connection, client)
    }

    fn asked(line: &str) -> Asked {
        parse(line.as_bytes())
    }

    #[test]
    fn a_request_is_read_however_it_is_cut() {
        let (_directory, mut connection, mut client) = connected();
        for part in [r#"{"request":"status","#, r#""version":1}"#, "\n{"] {
            assert!(connection.next_request().is_none());
            client.write_all(part.as_bytes()).unwrap();
            connection.receive().unwrap();
        }
        assert_eq!(connection.next_request(), Some(Ok(Request::Status { version: 1 })));
        assert!(connection.next_request().is_none());
    }

    #[test]
    fn a_later_request_waits_for_the_answer_to_the_one_before() {
        let (_directory, mut connection, mut client) = connected();
        client.write_all(b"{\"request\":\"stop\",\"version\":1}\n").unwrap();
        connection.receive().unwrap();
        connection.wait_after(3);
        assert!(connection.next_request().is_none());
        assert!(!connection.is_due(3) && connection.is_due(4));
        connection.reply(&Reply::Refused(refusal(RefusalCode::NotAllowedNow, "no".into()))).unwrap();
        assert!(matches!(connection.next_request(), Some(Ok(Request::Stop { .. }))));
        let _: Reply = read_line(&mut BufReader::new(client)).unwrap();
    }

    #[test]
    fn a_client_that_floods_without_a_line_is_dropped() {
        let (_directory, mut connection, client) = connected();
        client.set_nonblocking(true).unwrap();
        let ended = (0..64).any(|_| {
            let _ = (&client).write(&[b'x'; 8192]);
            connection.receive().is_err()
        });
        assert!(ended);
    }

    #[test]
    fn a_client_that_does_not_read_keeps_nobody_waiting() {
        let (_directory, mut connection, client) = connected();
        let long = Reply::Refused(refusal(RefusalCode::Malformed, "x".repeat(4 << 20)));
        connection.reply(&long).unwrap();
        assert!(connection.has_unsent());
        let mut reader = BufReader::new(client);
        let mut line = String::new();
        while !line.ends_with('\n') {
            let arrived = reader.fill_buf().unwrap();
            let count = arrived.len();
            line.push_str(std::str::from_utf8(arrived).unwrap());
            reader.consume(count);
            connection.send().unwrap();
        }
        assert!(!connection.has_unsent());
    }

    #[test]
    fn what_is_no_request_is_told_so() {
        let code = |line| asked(line).unwrap_err().code;
        assert_eq!(code("nonsense"), RefusalCode::Malformed);
        assert_eq!(code(r#"{"request":"fly","version":1}"#), RefusalCode::Malformed);
        assert_eq!(code(r#"{"request":"status","version":1,"more":2}"#), RefusalCode::Malformed);
    }

    #[test]
    fn a_request_of_another_version_is_told_which_one_is_spoken() {
        let refused = asked(r#"{"request":"not_yet_known","version":2,"more":2}"#).unwrap_err();
        assert_eq!(refused.code, RefusalCode::UnsupportedVersion);
        assert!(refused.message.contains("version 1"), "{}", refused.message);
    }

    #[test]
    fn only_a_socket_that_nobody_listens_at_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        drop(UnixListener::bind(&path).unwrap());
        let alive = Listener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(ListenError::InUse { .. })));
        drop(alive);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&path), Err(ListenError::NotASocket { .. })));
    }
}
