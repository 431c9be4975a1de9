//! The runner's link to its host, dialled anew whenever it breaks.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
use rustix::event::PollFd;
use rustix::io::Errno;
use sublet_guest_protocol::{
    FrameError, FromGuest, FromHost, JobProgress, OLDEST_VERSION, PROTOCOL_VERSION, Resume, TunnelId,
};
use thiserror::Error;

use crate::connection::Connection;
use crate::log::{in_full, say};
use crate::port::NamedPort;

/// How long the host may take to pick up and to welcome the runner.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);
/// Most often that the host can have the runner beat.
const BEAT_LEAST: Duration = Duration::from_millis(100);

/// Reaches the host.
pub trait Dial {
    /// A stream socket to the host. It may still be connecting.
    fn dial(&mut self) -> io::Result<OwnedFd>;
}

impl<F: FnMut() -> io::Result<OwnedFd>> Dial for F {
    fn dial(&mut self) -> io::Result<OwnedFd> {
        self()
    }
}

/// Reaches the host over vsock, at this context id and port.
pub struct Vsock {
    pub cid: u32,
    pub port: u32,
}

impl Dial for Vsock {
    fn dial(&mut self) -> io::Result<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
        match connect(socket.as_raw_fd(), &VsockAddr::new(self.cid, self.port)) {
            Ok(()) | Err(nix::Error::EINPROGRESS) => Ok(socket),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reaches the host over vsock, or where the kernel has none through the machine's named port.
pub struct Host {
    pub vsock: Vsock,
    pub port: NamedPort,
}

impl Dial for Host {
    fn dial(&mut self) -> io::Result<OwnedFd> {
        self.vsock.dial().or_else(|error| if lacks_vsock(&error) { self.port.dial() } else { Err(error) })
    }
}

/// No such sockets, or no card that serves them.
fn lacks_vsock(error: &io::Error) -> bool {
    [Errno::AFNOSUPPORT, Errno::NODEV].map(Errno::raw_os_error).map(Some).contains(&error.raw_os_error())
}

/// Waits between two attempts, doubled from the first to the longest.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(10), longest: Duration::from_secs(1) }
    }
}

/// Why the connection to the host ended.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error("cannot reach the host")]
    Dial(#[source] io::Error),
    #[error("the host did not welcome the runner within {} s", GREETING_PATIENCE.as_secs())]
    Silence,
    #[error("the host refused the runner: {0}")]
    Refused(String),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the host does not keep to the protocol: {0}")]
    Misbehaved(String),
}

impl LinkError {
    /// Whether dialling again at once would only meet the same.
    fn is_lasting(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Misbehaved(_) => true,
            Self::Frame(error) => !matches!(error, FrameError::Io(_) | FrameError::Closed),
            Self::Dial(_) | Self::Silence => false,
        }
    }
}

enum State {
    Away { until: Instant },
    Dialing { connection: Connection, until: Instant },
    Greeting { connection: Connection, until: Instant },
    Open { connection: Connection, pulse: Option<Pulse> },
}

/// How long the runner may be silent, as the host has it, and when it was silent for so long.
#[derive(Clone, Copy)]
struct Pulse {
    every: Duration,
    due: Instant,
}

pub(crate) struct Link<D> {
    dial: D,
    nonce: String,
    /// The version that the next greeting says.
    version: u32,
    state: State,
    backoff: Backoff,
    wait: Duration,
    /// Whether the last attempt failed too: only the first of several is worth a line.
    failing: bool,
}

impl<D: Dial> Link<D> {
    pub(crate) fn new(dial: D, nonce: String, backoff: Backoff) -> Self {
        let state = State::Away { until: Instant::now() };
        let (version, wait) = (PROTOCOL_VERSION, backoff.first);
        Self { dial, nonce, version, state, backoff, wait, failing: false }
    }

    /// Takes the link towards being open, as far as it goes; what the runner knows of jobs is its greeting.
    /// The host's welcome, once, when it comes.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        progress: impl FnOnce() -> Vec<JobProgress>,
    ) -> Result<Option<Vec<Resume>>, LinkError> {
        self.dial(now)?;
        self.greet(now, progress)?;
        self.be_welcomed()
    }

    fn dial(&mut self, now: Instant) -> Result<(), LinkError> {
        if matches!(self.state, State::Away { until } if now >= until) {
            let connection = self.dial.dial().and_then(Connection::new).map_err(LinkError::Dial)?;
            self.state = State::Dialing { connection, until: now + GREETING_PATIENCE };
        }
        Ok(())
    }

    fn greet(&mut self, now: Instant, progress: impl FnOnce() -> Vec<JobProgress>) -> Result<(), LinkError> {
        match &self.state {
            State::Dialing { until, .. } | State::Greeting { until, .. } if now >= *until => {
                return Err(LinkError::Silence);
            }
            State::Dialing { connection, .. } if connection.is_established().map_err(LinkError::Dial)? => {}
            _ => return Ok(()),
        }
        let hello = FromGuest::Hello { version: self.version, nonce: self.nonce.clone(), jobs: progress() };
        if let State::Dialing { mut connection, until } = self.leave(now) {
            connection.send(&hello)?;
            self.state = State::Greeting { connection, until };
        }
        Ok(())
    }

    fn be_welcomed(&mut self) -> Result<Option<Vec<Resume>>, LinkError> {
        let State::Greeting { connection, .. } = &mut self.state else { return Ok(None) };
        connection.flush()?;
        match connection.receive()? {
            None => Ok(None),
            Some(FromHost::Welcome { resume }) => {
                self.become_open();
                Ok(Some(resume))
            }
            Some(FromHost::Refused { reason }) => {
                // Perhaps it speaks an earlier version alone.
                self.version =
                    if self.version > OLDEST_VERSION { self.version - 1 } else { PROTOCOL_VERSION };
                Err(LinkError::Refused(reason))
            }
            Some(_) => Err(LinkError::Misbehaved("it gave orders before its welcome".into())),
        }
    }

    fn become_open(&mut self) {
        if let State::Greeting { connection, .. } = self.leave(Instant::now()) {
            self.state = State::Open { connection, pulse: None };
            self.wait = self.backoff.first;
            self.failing = false;
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// The next order, on an open link.
    pub(crate) fn receive(&mut self) -> Result<Option<FromHost>, LinkError> {
        match &mut self.state {
            State::Open { connection, .. } => Ok(connection.receive()?),
            _ => Ok(None),
        }
    }

    /// Whether the link is open and everything said so far is on its way.
    pub(crate) fn is_ready(&mut self) -> Result<bool, LinkError> {
        match &mut self.state {
            State::Open { connection, .. } => Ok(connection.flush()?),
            _ => Ok(false),
        }
    }

    pub(crate) fn send(&mut self, message: &FromGuest) -> Result<(), LinkError> {
        match &mut self.state {
            State::Open { connection, pulse } => {
                connection.send(message)?;
                *pulse = pulse.map(|pulse| Pulse { due: Instant::now() + pulse.every, ..pulse });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// From now on the host wants to hear something this often.
    pub(crate) fn beat_every(&mut self, every: Duration) {
        if let State::Open { pulse, .. } = &mut self.state {
            let every = every.max(BEAT_LEAST);
            *pulse = Some(Pulse { every, due: Instant::now() + every });
        }
    }

    /// Says that the runner lives, where it was silent for long. What is on its way says so too.
    pub(crate) fn beat(&mut self, now: Instant) -> Result<(), LinkError> {
        let State::Open { pulse: Some(pulse), .. } = &mut self.state else { return Ok(()) };
        if now < pulse.due {
            return Ok(());
        }
        pulse.due = now + pulse.every;
        if self.is_ready()? { self.send(&FromGuest::Beat) } else { Ok(()) }
    }

    /// A connection of its own for a tunnel, perhaps still connecting, and what is to be said on it first.
    pub(crate) fn dial_for(&mut self, tunnel: TunnelId) -> io::Result<(OwnedFd, FromGuest)> {
        let greeting = FromGuest::Tunnel { nonce: self.nonce.clone(), tunnel };
        Ok((self.dial.dial()?, greeting))
    }

    /// Ends the connection; it is dialled again after a while.
    pub(crate) fn hang_up(&mut self, why: &LinkError, now: Instant) {
        if !self.failing {
            say(format_args!("{}; dialling again until it answers", in_full(why)));
        }
        self.failing = true;
        if why.is_lasting() {
            self.wait = self.backoff.longest;
        }
        self.leave(now + self.wait);
        self.wait = (self.wait * 2).min(self.backoff.longest);
    }

    fn leave(&mut self, until: Instant) -> State {
        std::mem::replace(&mut self.state, State::Away { until })
    }

    pub(crate) fn watch<'a>(&'a self, watched: &mut Vec<PollFd<'a>>) {
        match &self.state {
            State::Away { .. } => {}
            State::Dialing { connection, .. } => connection.watch(true, watched),
            State::Greeting { connection, .. } | State::Open { connection, .. } => {
                connection.watch(false, watched);
            }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Away { until } | State::Dialing { until, .. } | State::Greeting { until, .. } => {
                Some(*until)
            }
            State::Open { pulse, .. } => pulse.map(|pulse| pulse.due),
        }
    }
}
