//! The control socket's connections: lines in, lines out, never waiting for the other side. Descriptors belong to the
//! line that they were sent along with.

use std::{
    io::{self, ErrorKind, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketFlags, accept_with, recvmsg,
    },
};
use serde::Deserialize;
use sublet_vmm_protocol::{
    BOOT_FILES_MAX, LINE_LIMIT, LineError, PROTOCOL_VERSION, Refusal, RefusalCode, Reply, Request, write_line,
};

use crate::socket::{ListenError, listen};

/// The socket that others connect to.
#[derive(Debug)]
pub struct Listener(UnixListener);

impl Listener {
    /// See [`crate::socket::listen`].
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        listen(path).map(Self)
    }

    /// The next connection, if one is waiting.
    pub fn accept(&self) -> io::Result<Option<Connection>> {
        match accept_with(&self.0, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(stream) => Ok(Some(Connection::new(stream.into()))),
            // The other side may have gone before it was accepted.
            Err(Errno::AGAIN | Errno::CONNABORTED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    incoming: Vec<u8>,
    /// Each with the place in `incoming` of the last byte that came with it.
    descriptors: Vec<(usize, OwnedFd)>,
    outgoing: Vec<u8>,
    /// What its request waits for.
    waits_for: Option<WaitsFor>,
}

/// What a request that is not answered yet waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    /// A generation of the machine's state greater than this.
    State(u64),
    /// The same of what is wanted of what lies under its disk.
    Wanted(u64),
}

/// One line.
#[derive(Debug)]
pub struct Asked {
    /// What it asks for, or why it is refused.
    pub request: Result<Request, Refusal>,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Connection {
    /// Over a stream that does not block.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, incoming: vec![], descriptors: vec![], outgoing: vec![], waits_for: None }
    }

    /// Takes in what has arrived. An error, the other side's end, and more than one line's worth or one boot's
    /// descriptors that nobody waits for are all the end of the connection.
    pub fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.receive_some(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.incoming.extend_from_slice(&buffer[..count]),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if self.incoming.len() > LINE_LIMIT || self.descriptors.len() > BOOT_FILES_MAX {
                return Err(ErrorKind::InvalidData.into());
            }
        }
    }

    /// One system call's worth. It ends with the message that brings descriptors, but may begin with one before it.
    fn receive_some(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BOOT_FILES_MAX))];
        let mut along = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = recvmsg(&self.stream, &mut [IoSliceMut::new(buffer)], &mut along, flags)?;
        for message in along.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                let place = (self.incoming.len() + received.bytes).saturating_sub(1);
                self.descriptors.extend(descriptors.map(|descriptor| (place, descriptor)));
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) { Err(Errno::TOOBIG) } else { Ok(received.bytes) }
    }

    /// The next request, once the one before it has been answered in full.
    pub fn next_request(&mut self) -> Option<Asked> {
        if self.waits_for.is_some() || self.has_unsent() {
            return None;
        }
        let end = self.incoming.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.incoming.drain(..=end).collect();
        Some(Asked { request: parse(&line), descriptors: self.descriptors_until(end) })
    }

    /// What came with bytes up to and with number `end`, which are no longer incoming.
    fn descriptors_until(&mut self, end: usize) -> Vec<OwnedFd> {
        let later = self.descriptors.iter().position(|(place, _)| *place > end);
        let rest = self.descriptors.split_off(later.unwrap_or(self.descriptors.len()));
        let these = std::mem::replace(&mut self.descriptors, rest);
        self.descriptors.iter_mut().for_each(|(place, _)| *place -= end + 1);
        these.into_iter().map(|(_, descriptor)| descriptor).collect()
    }

    /// Leaves the request unanswered until this has come.
    pub fn wait_for(&mut self, what: WaitsFor) {
        self.waits_for = Some(what);
    }

    /// What the request waits for, if there is one that does.
    pub fn waits_for(&self) -> Option<WaitsFor> {
        self.waits_for
    }

    /// Answers.
    pub fn reply(&mut self, reply: &Reply) -> io::Result<()> {
        self.waits_for = None;
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

fn parse(line: &[u8]) -> Result<Request, Refusal> {
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
    use std::{
        io::{BufRead, BufReader, IoSlice},
        os::fd::AsFd,
    };

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
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

    fn asked(line: &str) -> Result<Request, Refusal> {
        parse(line.as_bytes())
    }

    #[test]
    fn a_request_is_read_however_it_is_cut() {
        let (_directory, mut connection, mut client) = connected();
        for part in [r#"{"request":"status","#, r#""version":2}"#, "\n{"] {
            assert!(connection.next_request().is_none());
            client.write_all(part.as_bytes()).unwrap();
            connection.receive().unwrap();
        }
        let asked = connection.next_request().unwrap();
        assert_eq!(asked.request, Ok(Request::Status { version: 2 }));
        assert!(connection.next_request().is_none());
    }

    #[test]
    fn a_later_request_waits_for_the_answer_to_the_one_before() {
        let (_directory, mut connection, mut client) = connected();
        client.write_all(b"{\"request\":\"stop\",\"version\":2}\n").unwrap();
        connection.receive().unwrap();
        connection.wait_for(WaitsFor::State(3));
        assert!(connection.next_request().is_none());
        assert_eq!(connection.waits_for(), Some(WaitsFor::State(3)));
        connection.reply(&Reply::Refused(refusal(RefusalCode::NotAllowedNow, "no".into()))).unwrap();
        assert!(matches!(connection.next_request().unwrap().request, Ok(Request::Stop { .. })));
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

    /// Sends a line with this many descriptors along.
    fn send_with(client: &UnixStream, count: usize, line: &str) {
        let file = std::fs::File::open("/dev/null").unwrap();
        let descriptors = vec![file.as_fd(); count];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut along = SendAncillaryBuffer::new(&mut space);
        assert!(along.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(client, &[IoSlice::new(line.as_bytes())], &mut along, SendFlags::empty()).unwrap();
    }

    #[test]
    fn descriptors_belong_to_the_line_that_they_came_with() {
        let (_directory, mut connection, mut client) = connected();
        client.write_all(b"{\"request\":\"status\",\"version\":2}\n").unwrap();
        send_with(&client, 2, "{\"request\":\"kill\",");
        client.write_all(b"\"version\":2}\n").unwrap();
        client.write_all(b"{\"request\":\"stop\",\"version\":2}\n").unwrap();
        connection.receive().unwrap();
        let counts: Vec<_> =
            std::iter::from_fn(|| connection.next_request()).map(|asked| asked.descriptors.len()).collect();
        assert_eq!(counts, [0, 2, 0]);
    }

    #[test]
    fn a_client_that_sends_more_descriptors_than_a_boot_takes_is_dropped() {
        for batches in [&[5][..], &[3, 2], &[1; 5]] {
            let (_directory, mut connection, client) = connected();
            batches.iter().for_each(|count| send_with(&client, *count, "x"));
            assert!(connection.receive().is_err(), "{batches:?}");
        }
    }

    #[test]
    fn what_is_no_request_is_told_so() {
        let code = |line| asked(line).unwrap_err().code;
        assert_eq!(code("nonsense"), RefusalCode::Malformed);
        assert_eq!(code(r#"{"request":"fly","version":2}"#), RefusalCode::Malformed);
        assert_eq!(code(r#"{"request":"status","version":2,"more":2}"#), RefusalCode::Malformed);
    }

    #[test]
    fn a_request_of_another_version_is_told_which_one_is_spoken() {
        let refused = asked(r#"{"request":"not_yet_known","version":3,"more":2}"#).unwrap_err();
        assert_eq!(refused.code, RefusalCode::UnsupportedVersion);
        assert!(refused.message.contains("version 2"), "{}", refused.message);
    }
}
