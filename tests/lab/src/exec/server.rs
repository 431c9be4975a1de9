//! The lab host's side: one thread a connection, one command a connection.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{self, Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionbio, read, retry_on_intr, write};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use sublet_guest_protocol::{FrameError, read_frame, write_frame};
use thiserror::Error;

use super::handshake::{self, HandshakeError, Secret};
use super::message::{CHUNK_LIMIT, Command, FromHost, Outcome, ToHost};

/// Longest a client may take to say who it is and what to run.
const INTRODUCTION_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum SessionError {
    #[error("refused a client")]
    Handshake(#[source] HandshakeError),
    #[error("the client broke off")]
    Frame(#[source] FrameError),
    #[error("the client sent {0} where it cannot be")]
    OutOfPlace(&'static str),
    #[error("a system call failed")]
    System(#[source] io::Error),
}

/// Serves for ever.
pub fn serve(listener: &TcpListener, secret: Secret) -> io::Result<()> {
    let secret = Arc::new(secret);
    loop {
        let (stream, _) = listener.accept()?;
        let secret = Arc::clone(&secret);
        thread::spawn(move || {
            if let Err(error) = session(stream, &secret) {
                eprintln!("sublet-lab-host: {error}");
            }
        });
    }
}

fn session(mut stream: TcpStream, secret: &Secret) -> Result<(), SessionError> {
    stream.set_nodelay(true).map_err(SessionError::System)?;
    stream.set_read_timeout(Some(INTRODUCTION_LIMIT)).map_err(SessionError::System)?;
    handshake::accept(&mut stream, secret).map_err(SessionError::Handshake)?;
    let command = match read_frame(&mut stream) {
        Ok(ToHost::Run(command)) => command,
        Ok(_) => return Err(SessionError::OutOfPlace("something else before the command")),
        // It only looked whether somebody is here.
        Err(FrameError::Closed) => return Ok(()),
        Err(error) => return Err(SessionError::Frame(error)),
    };
    stream.set_read_timeout(None).map_err(SessionError::System)?;
    match start(&command) {
        Ok(child) => Running::new(child, stream)?.see_through(),
        Err(reason) => send(&mut stream, &FromHost::NotStarted(reason)),
    }
}

fn start(command: &Command) -> Result<Child, String> {
    let [program, arguments @ ..] = command.argv.as_slice() else {
        return Err("was given no command to run".into());
    };
    process::Command::new(program)
        .args(arguments)
        .envs(&command.env)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run {program:?}: {error}"))
}

fn send(stream: &mut impl Write, message: &FromHost) -> Result<(), SessionError> {
    write_frame(stream, message).map_err(SessionError::Frame)
}

/// A command and the client that waits for it. Dropped before the command has ended, it kills the command with
/// all of its process group.
struct Running {
    stream: TcpStream,
    child: Child,
    ended: OwnedFd,
    stdin: Option<OwnedFd>,
    /// Input that the command has not taken yet; while there is some, no more is asked of the client.
    pending: Vec<u8>,
    stdin_ends: bool,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// Where something happened.
#[derive(Clone, Copy)]
enum Source {
    Stdin,
    Stdout,
    Stderr,
    Client,
    Ended,
}

impl Running {
    fn new(mut child: Child, stream: TcpStream) -> Result<Self, SessionError> {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).map_err(system)?;
        let running = Self {
            stream,
            child,
            ended,
            stdin: stdin.map(OwnedFd::from),
            pending: Vec::new(),
            stdin_ends: false,
            stdout: stdout.map(OwnedFd::from),
            stderr: stderr.map(OwnedFd::from),
        };
        for pipe in [&running.stdin, &running.stdout, &running.stderr].into_iter().flatten() {
            ioctl_fionbio(pipe, true).map_err(system)?;
        }
        Ok(running)
    }

    fn see_through(mut self) -> Result<(), SessionError> {
        loop {
            for (source, events) in self.wait()? {
                match source {
                    Source::Stdin => self.feed()?,
                    Source::Stdout => {
                        forward(&mut self.stdout, &mut self.stream, FromHost::Stdout)?;
                    }
                    Source::Stderr => {
                        forward(&mut self.stderr, &mut self.stream, FromHost::Stderr)?;
                    }
                    Source::Client if events.contains(PollFlags::IN) => self.take_input()?,
                    Source::Client => return Err(SessionError::Frame(FrameError::Closed)),
                    Source::Ended => return self.finish(),
                }
            }
        }
    }

    fn wait(&self) -> Result<Vec<(Source, PollFlags)>, SessionError> {
        let from_client = if self.pending.is_empty() { PollFlags::IN } else { PollFlags::empty() };
        let stdin = self.stdin.as_ref().filter(|_| !self.pending.is_empty());
        let interests = [
            (Source::Stdin, stdin.map(OwnedFd::as_fd), PollFlags::OUT),
            (Source::Stdout, self.stdout.as_ref().map(OwnedFd::as_fd), PollFlags::IN),
            (Source::Stderr, self.stderr.as_ref().map(OwnedFd::as_fd), PollFlags::IN),
            (Source::Client, Some(self.stream.as_fd()), from_client | PollFlags::RDHUP),
            (Source::Ended, Some(self.ended.as_fd()), PollFlags::IN),
        ];
        let (sources, mut fds): (Vec<_>, Vec<_>) = interests
            .into_iter()
            .filter_map(|(source, fd, flags)| Some((source, PollFd::from_borrowed_fd(fd?, flags))))
            .unzip();
        retry_on_intr(|| poll(&mut fds, None)).map_err(system)?;
        let events = sources.into_iter().zip(fds.iter().map(PollFd::revents));
        Ok(events.filter(|(_, events)| !events.is_empty()).collect())
    }

    /// Gives the command what it will take of its input.
    fn feed(&mut self) -> Result<(), SessionError> {
        let Some(stdin) = &self.stdin else { return Ok(()) };
        match retry_on_intr(|| write(stdin, &self.pending)) {
            Ok(taken) => drop(self.pending.drain(..taken)),
            Err(Errno::AGAIN) => {}
            // It has closed its input: the rest is for nobody.
            Err(Errno::PIPE) => {
                self.pending.clear();
                self.stdin = None;
            }
            Err(error) => return Err(system(error)),
        }
        self.close_stdin_if_done();
        Ok(())
    }

    fn take_input(&mut self) -> Result<(), SessionError> {
        match read_frame(&mut self.stream).map_err(SessionError::Frame)? {
            ToHost::Stdin(bytes) if self.stdin.is_some() => self.pending = bytes,
            ToHost::Stdin(_) => {}
            ToHost::StdinEnd => self.stdin_ends = true,
            ToHost::Run(_) => return Err(SessionError::OutOfPlace("a second command")),
        }
        self.close_stdin_if_done();
        Ok(())
    }

    fn close_stdin_if_done(&mut self) {
        if self.stdin_ends && self.pending.is_empty() {
            self.stdin = None;
        }
    }

    /// Sends what the command wrote before it ended, and how it ended. What it left running in the background
    /// goes on, unheard.
    fn finish(mut self) -> Result<(), SessionError> {
        let status = self.child.wait().map_err(SessionError::System)?;
        while forward(&mut self.stdout, &mut self.stream, FromHost::Stdout)? {}
        while forward(&mut self.stderr, &mut self.stream, FromHost::Stderr)? {}
        send(&mut self.stream, &FromHost::Ended(outcome(status)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It may end in this very moment: then there is nothing left to kill.
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Sends what a pipe holds, up to one message of it; closes the pipe at its end. False where it held nothing.
fn forward(
    pipe: &mut Option<OwnedFd>,
    stream: &mut TcpStream,
    message: fn(Vec<u8>) -> FromHost,
) -> Result<bool, SessionError> {
    let Some(fd) = &pipe else { return Ok(false) };
    let mut chunk = vec![0; CHUNK_LIMIT];
    match retry_on_intr(|| read(fd, chunk.as_mut_slice())) {
        Ok(0) => *pipe = None,
        Ok(length) => {
            chunk.truncate(length);
            send(stream, &message(chunk))?;
            return Ok(true);
        }
        Err(Errno::AGAIN) => {}
        Err(error) => return Err(system(error)),
    }
    Ok(false)
}

fn outcome(status: ExitStatus) -> Outcome {
    let number = |value: i32| u8::try_from(value).unwrap_or(u8::MAX);
    match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Exited(number(code)),
        (None, signal) => Outcome::Signaled(signal.map_or(u8::MAX, number)),
    }
}

fn system(error: Errno) -> SessionError {
    SessionError::System(error.into())
}

#[cfg(test)]
mod tests;
