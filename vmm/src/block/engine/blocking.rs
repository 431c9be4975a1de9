//! Work carried out at once, by the thread that asks for it.

use std::{
    collections::VecDeque,
    io, mem,
    os::fd::{AsFd, AsRawFd},
};

use rustix::fs::{FallocateFlags, fallocate, fdatasync};

use super::Finished;
use crate::block::{
    disk::Disk,
    io::{Io, Next, Step},
};

#[derive(Default)]
pub struct Blocking {
    finished: VecDeque<Finished>,
    /// What waits for something that is not there yet, by its number.
    waiting: Vec<(usize, Io)>,
    is_cancelling: bool,
}

impl Blocking {
    pub(super) fn start(&mut self, number: usize, mut io: Io) {
        match finish(&mut io) {
            Ok(true) => self.over(number, Ok(())),
            Ok(false) if self.is_cancelling => self.over(number, Err(io::ErrorKind::Interrupted.into())),
            Ok(false) => self.waiting.push((number, io)),
            Err(error) => self.over(number, Err(error)),
        }
    }

    fn over(&mut self, number: usize, result: io::Result<()>) {
        self.finished.push_back(Finished { number, result });
    }

    pub(super) fn ask_waiting(&mut self) {
        for (number, io) in mem::take(&mut self.waiting) {
            self.start(number, io);
        }
    }

    pub(super) fn cancel(&mut self, cancel: bool) {
        self.is_cancelling = cancel;
        if cancel {
            self.ask_waiting();
        }
    }

    pub(super) fn next_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }
}

/// Does all of it; false: it waits for something.
fn finish(io: &mut Io) -> io::Result<bool> {
    let disk = io.disk().clone();
    loop {
        let result = match io.next_step()? {
            Next::Step(step) => perform(&disk, step),
            Next::Done => return Ok(true),
            Next::Wait => return Ok(false),
        };
        io.advance(result)?;
    }
}

fn perform(disk: &Disk, step: Step<'_>) -> io::Result<u64> {
    let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    match step {
        Step::Read { .. } | Step::Write { .. } => transfer(disk, step),
        Step::Zero { offset, bytes } => Ok(fallocate(disk, zero, offset, bytes).map(|()| 0)?),
        Step::Sync => Ok(fdatasync(disk).map(|()| 0)?),
    }
}

fn transfer(disk: &Disk, step: Step<'_>) -> io::Result<u64> {
    let file = disk.as_fd().as_raw_fd();
    let count = |parts: &[libc::iovec]| parts.len().min(libc::UIO_MAXIOV as usize) as libc::c_int;
    // SAFETY: `parts` has at least `count` entries, and each describes memory that outlives the call (that of the
    // guest's mapping, into which no Rust reference points, or for writes zeroes that never change); the kernel checks
    // file and offset.
    let done = unsafe {
        match step {
            Step::Read { parts, offset } => libc::preadv(file, parts.as_ptr(), count(parts), offset as i64),
            Step::Write { parts, offset } => libc::pwritev(file, parts.as_ptr(), count(parts), offset as i64),
            Step::Zero { .. } | Step::Sync => 0,
        }
    };
    u64::try_from(done).map_err(|_| io::Error::last_os_error())
}
