//! Two sockets joined: what comes out of one goes into the other, both ways, each way ended by itself.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, read, write};
use rustix::net::{Shutdown, shutdown};

/// Bytes under way in one direction.
const BUFFER_BYTES: usize = 32 * 1024;
/// Most buffers that one direction may fill before others have their turn.
const BUFFERS_A_TURN: usize = 4;

pub(crate) struct Splice {
    near: OwnedFd,
    far: OwnedFd,
    outward: Way,
    inward: Way,
}

impl Splice {
    /// Joins two sockets that do not block; `first` goes to `far` before anything else.
    pub(crate) fn new(near: OwnedFd, far: OwnedFd, first: Vec<u8>) -> Self {
        let outward = Way { end: first.len(), buffer: first, ..Way::default() };
        Self { near, far, outward, inward: Way::default() }
    }

    /// Moves what can be moved; whether both ways have ended. After an error there is nothing left to do but to close.
    pub(crate) fn advance(&mut self) -> io::Result<bool> {
        self.outward.advance(&self.near, &self.far)?;
        self.inward.advance(&self.far, &self.near)?;
        Ok(self.outward.is_over() && self.inward.is_over())
    }

    pub(crate) fn watch<'a>(&'a self, watched: &mut Vec<PollFd<'a>>) {
        let ends = [(&self.near, &self.outward, &self.inward), (&self.far, &self.inward, &self.outward)];
        for (socket, from_it, to_it) in ends {
            let mut events = PollFlags::empty();
            events.set(PollFlags::IN, from_it.wants_more());
            events.set(PollFlags::OUT, to_it.has_some());
            // One that nothing is wanted of would report its hanging up over and over.
            if !events.is_empty() {
                watched.push(PollFd::from_borrowed_fd(socket.as_fd(), events));
            }
        }
    }
}

/// One direction.
#[derive(Default)]
struct Way {
    buffer: Vec<u8>,
    /// What was read into it and not written yet: from here to there. Nothing is read before all of it is written, so that a
    /// slow reader slows its writer.
    start: usize,
    end: usize,
    /// The reading side has ended.
    ended: bool,
    /// The writing side was told so.
    over: bool,
}

impl Way {
    fn has_some(&self) -> bool {
        self.start < self.end
    }

    fn wants_more(&self) -> bool {
        !self.ended && !self.has_some()
    }

    fn is_over(&self) -> bool {
        self.over
    }

    fn advance(&mut self, from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
        for _ in 0..BUFFERS_A_TURN {
            if !self.write(to)? || !self.read(from)? {
                break;
            }
        }
        // What was read last, and its end.
        if self.write(to)? && self.ended && !self.over {
            self.over = true;
            shutdown(to, Shutdown::Write)?;
        }
        Ok(())
    }

    /// Whether all of it is written.
    fn write(&mut self, to: &OwnedFd) -> io::Result<bool> {
        while let Some(rest) = self.buffer.get(self.start..self.end).filter(|rest| !rest.is_empty()) {
            match write(to, rest) {
                Ok(count) => self.start += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Whether anything came.
    fn read(&mut self, from: &OwnedFd) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        if self.buffer.len() < BUFFER_BYTES {
            self.buffer.resize(BUFFER_BYTES, 0);
        }
        match read(from, &mut self.buffer) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                (self.start, self.end) = (0, count);
                return Ok(true);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(false)
    }
}
