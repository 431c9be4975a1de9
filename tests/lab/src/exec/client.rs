//! The client's side.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use sublet_guest_protocol::{FrameError, read_frame, write_frame};
use thiserror::Error;

use super::handshake::{self, HandshakeError, Secret, SecretError};
use super::message::{CHUNK_LIMIT, Command, FromHost, Outcome, ToHost};

/// Longest a host may take to say who it is.
const INTRODUCTION_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Error)]
pub enum ExecError {
    #[error("this lab has no secret to show to its hosts")]
    Secret(#[source] SecretError),
    #[error("{0} is off; start it first")]
    Off(String),
    #[error("nothing listens at {0}; is the host up?")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("cannot set up the connection")]
    Socket(#[source] io::Error),
    #[error("the host and this lab do not know each other")]
    Handshake(#[source] HandshakeError),
    #[error("cannot send the command")]
    Send(#[source] FrameError),
    #[error("the host went away while the command ran")]
    Lost(#[source] FrameError),
    #[error("the host {0}")]
    NotStarted(String),
    #[error("cannot pass the command's output on")]
    Output(#[source] io::Error),
}

/// What a command wrote, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub outcome: Outcome,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// A connection to a lab host on which no command was sent yet.
pub struct Connection(TcpStream);

impl Connection {
    /// Dials the host whose command port is forwarded to `port` on loopback.
    pub fn open(port: u16, secret: &Secret) -> Result<Self, ExecError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, INTRODUCTION_LIMIT)
            .map_err(|error| ExecError::Connect(address, error))?;
        stream.set_nodelay(true).map_err(ExecError::Socket)?;
        stream.set_read_timeout(Some(INTRODUCTION_LIMIT)).map_err(ExecError::Socket)?;
        handshake::introduce(&mut stream, secret).map_err(ExecError::Handshake)?;
        stream.set_read_timeout(None).map_err(ExecError::Socket)?;
        Ok(Self(stream))
    }

    /// Runs a command to its end.
    pub fn run(
        mut self,
        command: Command,
        stdin: impl Read + Send + 'static,
        stdout: &mut impl Write,
        stderr: &mut impl Write,
    ) -> Result<Outcome, ExecError> {
        write_frame(&mut self.0, &ToHost::Run(command)).map_err(ExecError::Send)?;
        let input = self.0.try_clone().map_err(ExecError::Socket)?;
        // Not joined: it may wait for ever for input that the command never needed.
        thread::spawn(move || send_input(stdin, input));
        let result = self.receive(stdout, stderr);
        let _ = self.0.shutdown(Shutdown::Both);
        result
    }

    /// Runs a command to its end, with `stdin` as its input, and keeps its output.
    pub fn output(self, command: Command, stdin: Vec<u8>) -> Result<Output, ExecError> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let outcome = self.run(command, io::Cursor::new(stdin), &mut stdout, &mut stderr)?;
        Ok(Output { outcome, stdout, stderr })
    }

    fn receive(&mut self, stdout: &mut impl Write, stderr: &mut impl Write) -> Result<Outcome, ExecError> {
        loop {
            match read_frame(&mut self.0).map_err(ExecError::Lost)? {
                FromHost::Stdout(bytes) => pass_on(stdout, &bytes)?,
                FromHost::Stderr(bytes) => pass_on(stderr, &bytes)?,
                FromHost::Ended(outcome) => return Ok(outcome),
                FromHost::NotStarted(reason) => return Err(ExecError::NotStarted(reason)),
            }
        }
    }
}

fn pass_on(to: &mut impl Write, bytes: &[u8]) -> Result<(), ExecError> {
    to.write_all(bytes).and_then(|()| to.flush()).map_err(ExecError::Output)
}

/// Sends input until it ends, or until the command has ended and nobody takes it any more.
fn send_input(mut stdin: impl Read, mut stream: TcpStream) {
    let mut chunk = vec![0; CHUNK_LIMIT];
    loop {
        let message = match stdin.read(&mut chunk) {
            Ok(0) | Err(_) => ToHost::StdinEnd,
            Ok(length) => ToHost::Stdin(chunk.get(..length).unwrap_or_default().to_vec()),
        };
        if write_frame(&mut stream, &message).is_err() || message == ToHost::StdinEnd {
            return;
        }
    }
}
