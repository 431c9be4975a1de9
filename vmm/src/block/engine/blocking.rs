//! Work carried out at once, by the thread that asks for it.

use std::{collections::VecDeque, io, os::fd::AsRawFd};

use rustix::fs::{FallocateFlags, fallocate, fdatasync};

use super::Finished;
use crate::block::{
    disk::Disk,
    io::{At, Io, Next, Step},
};

#[derive(Debug, Default)]
pub struct Blocking {
    finished: VecDeque<Finished>,
}

impl Blocking {
    pub(super) fn start(&mut self, number: usize, mut io: Io) {
        let result = finish(&mut io);
        self.finished.push_back(Finished { number, result });
    }

    pub(super) fn next_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }
}

fn finish(io: &mut Io) -> io::Result<()> {
    let disk = io.disk().clone();
    loop {
        let result = match io.next_step()? {
            Next::Step(step) => perform(&disk, step),
            Next::Done => return Ok(()),
            // There is no other work.
            Next::Wait => return Err(io::ErrorKind::Deadlock.into()),
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
    let file = disk.file(if let Step::Read { from, .. } = step { from } else { At::Own })?.as_raw_fd();
    let count = |parts: &[libc::iovec]| parts.len().min(libc::UIO_MAXIOV as usize) as libc::c_int;
    // SAFETY: `parts` has at least `count` entries, and each describes memory that outlives the call (that of the
    // guest's mapping, into which no Rust reference points, or for writes zeroes that never change); the kernel checks
    // file and offset.
    let done = unsafe {
        match step {
            Step::Read { parts, offset, .. } => {
                libc::preadv(file, parts.as_ptr(), count(parts), offset as i64)
            }
            Step::Write { parts, offset } => libc::pwritev(file, parts.as_ptr(), count(parts), offset as i64),
            Step::Zero { .. } | Step::Sync => 0,
        }
    };
    u64::try_from(done).map_err(|_| io::Error::last_os_error())
}
