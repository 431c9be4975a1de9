//! One connection to the host: whole messages over a socket that never blocks.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio, read, write};
use rustix::net::sockopt::socket_error;
use sublet_guest_protocol::{
    FrameError, FromGuest, FromHost, PREFIX_BYTES, announced_length, decode, encode,
};

const READ_BYTES: usize = 64 * 1024;

/// Whether a socket that was connecting is connected by now.
pub(crate) fn is_established(socket: &OwnedFd) -> io::Result<bool> {
    let mut watched = [PollFd::new(socket, PollFlags::OUT)];
    if poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? == 0 {
        return Ok(false);
    }
    match socket_error(socket) {
        // A port is there at once.
        Err(Errno::NOTSOCK) => Ok(true),
        error => Ok(error?.map(|()| true)?),
    }
}

pub(crate) struct Connection {
    socket: OwnedFd,
    /// Received, not yet a whole message; at most one frame and a read more.
    inbox: Vec<u8>,
    /// Encoded, not yet sent.
    outbox: VecDeque<u8>,
}

impl Connection {
    /// `socket` may still be connecting.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&socket, true)?;
        Ok(Self { socket, inbox: Vec::new(), outbox: VecDeque::new() })
    }

    /// Whether it is established by now.
    pub(crate) fn is_established(&self) -> io::Result<bool> {
        is_established(&self.socket)
    }

    /// The next whole message, if one has arrived.
    pub(crate) fn receive(&mut self) -> Result<Option<FromHost>, FrameError> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(Some(message));
            }
            if !self.fill_inbox()? {
                return Ok(None);
            }
        }
    }

    fn take_message(&mut self) -> Result<Option<FromHost>, FrameError> {
        let Some((prefix, rest)) = self.inbox.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let length = announced_length(*prefix)?;
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let message = decode(payload)?;
        self.inbox.drain(..PREFIX_BYTES + length);
        Ok(Some(message))
    }

    /// Whether anything came.
    fn fill_inbox(&mut self) -> Result<bool, FrameError> {
        let mut buffer = [0; READ_BYTES];
        loop {
            match read(&self.socket, &mut buffer) {
                Ok(0) => return Err(FrameError::Closed),
                Ok(count) => {
                    self.inbox.extend(buffer.iter().take(count));
                    return Ok(true);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(FrameError::Io(error.into())),
            }
        }
    }

    /// Puts a message on its way.
    pub(crate) fn send(&mut self, message: &FromGuest) -> Result<(), FrameError> {
        self.outbox.extend(encode(message)?);
        self.flush().map(drop)
    }

    /// Whether everything put on its way has left.
    pub(crate) fn flush(&mut self) -> Result<bool, FrameError> {
        while !self.outbox.is_empty() {
            match write(&self.socket, self.outbox.as_slices().0) {
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(FrameError::Io(error.into())),
            }
        }
        Ok(true)
    }

    pub(crate) fn watch<'a>(&'a self, establishing: bool, watched: &mut Vec<PollFd<'a>>) {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, !establishing);
        events.set(PollFlags::OUT, establishing || !self.outbox.is_empty());
        watched.push(PollFd::from_borrowed_fd(self.socket.as_fd(), events));
    }
}
