//! What carries out work on a disk.

mod blocking;
mod ring;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use sublet_vmm_protocol::DiskEngine;

use self::{blocking::Blocking, ring::Ring};
use super::{disk::Disk, io::Io};

/// Most pieces of work that an engine has at a time.
pub const DEPTH: usize = 128;

/// Most threads that the kernel starts for an engine.
pub const KERNEL_THREADS: u32 = ring::WORKERS[0] + ring::WORKERS[1];

/// Work that is over.
#[derive(Debug)]
pub struct Finished {
    /// The number that it was started with.
    pub number: usize,
    pub result: io::Result<()>,
}

/// Belongs to one thread. Dropped, it first waits for all that it has in hand.
pub enum Engine {
    Ring(Box<Ring>),
    Blocking(Blocking),
}

impl Engine {
    /// An engine for this disk, and which one it came to. To be made by the thread that will use it.
    pub fn new(disk: &Arc<Disk>) -> (Self, DiskEngine) {
        match Ring::new(disk) {
            Ok(ring) => (Self::Ring(Box::new(ring)), DiskEngine::IoUring),
            Err(error) => (Self::blocking(), DiskEngine::Blocking { reason: error.to_string() }),
        }
    }

    /// The engine for hosts without io_uring.
    pub fn blocking() -> Self {
        Self::Blocking(Blocking::default())
    }

    /// Takes on work. `number` is below [`DEPTH`], and of nothing else that the engine has in hand.
    pub fn start(&mut self, number: usize, io: Io) {
        match self {
            Self::Ring(ring) => ring.start(number, io),
            Self::Blocking(blocking) => blocking.start(number, io),
        }
    }

    /// Gives the kernel what was started. False: it took not all of it and is to be asked again in a moment.
    pub fn submit(&mut self) -> io::Result<bool> {
        match self {
            Self::Ring(ring) => ring.submit(),
            Self::Blocking(_) => Ok(true),
        }
    }

    /// How much work to start before seeing what is over.
    pub fn batch(&self) -> usize {
        match self {
            Self::Ring(_) => DEPTH,
            Self::Blocking(_) => 1,
        }
    }

    /// Has work that waits go on, where what it waits for is there now.
    pub fn ask_waiting(&mut self) {
        match self {
            Self::Ring(ring) => ring.ask_waiting(),
            Self::Blocking(blocking) => blocking.ask_waiting(),
        }
    }

    /// Work in hand, and what is started from now on, ends with the step that it is at, until `false` is said.
    pub fn cancel(&mut self, cancel: bool) {
        match self {
            Self::Ring(ring) => ring.cancel(cancel),
            Self::Blocking(blocking) => blocking.cancel(cancel),
        }
    }

    /// Work that is over, if there is any. Work of several steps may have gone on, and is to be submitted again.
    pub fn next_finished(&mut self) -> Option<Finished> {
        match self {
            Self::Ring(ring) => ring.next_finished(),
            Self::Blocking(blocking) => blocking.next_finished(),
        }
    }

    /// Becomes readable when work is over.
    pub fn event(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Ring(ring) => Some(ring.as_fd()),
            Self::Blocking(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
