//! Work given to the kernel through io_uring, straight from and into the guest's memory.
//!
//! The ring can do nothing but what is here: before it is used it is restricted to these operations and to the one
//! file that is registered with it, for ever. Worker threads that the kernel starts for it (it does so for what cannot
//! be done without waiting) keep to the CPUs of the thread that made the ring, and are few.
//!
//! Memory is safe by ownership: an [`Io`] in the kernel's hands is in `in_hand`, keeps the guest's memory mapped, and
//! leaves only when its completion has been seen. A ring that is dropped waits for all of them.

use std::{
    io,
    mem::{self, MaybeUninit},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::Arc,
};

use io_uring::{
    IoUring, opcode,
    register::Restriction,
    squeue::{self, Flags},
    types::{Fixed, FsyncFlags},
};
use rustix::thread::sched_getaffinity;
use thiserror::Error;

use super::{DEPTH, Finished};
use crate::block::{
    disk::Disk,
    io::{Io, Next, Step},
};

/// The disk in the ring's table of files.
const DISK: Fixed = Fixed(0);
/// Threads that the kernel may start to wait for regular files, and for anything else.
pub(super) const WORKERS: [u32; 2] = [4, 4];
/// What a ring may do.
const OPERATIONS: [u8; 4] =
    [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];
/// Restricts every operation to registered files (IOSQE_FIXED_FILE).
const FIXED_FILE: u8 = Flags::FIXED_FILE.bits();

/// Why there is no ring; each is a reason to go without.
#[derive(Debug, Error)]
pub(super) enum RingError {
    #[error("the kernel gives no io_uring ({0}); kernel.io_uring_disabled or a filter may forbid it")]
    SetUp(io::Error),
    #[error("the kernel's io_uring cannot {what} ({source}); it may be older than 5.19")]
    Register { what: &'static str, source: io::Error },
}

pub struct Ring {
    ring: IoUring,
    in_hand: Vec<Option<Io>>,
    /// Numbers of those that wait for others.
    waiting: Vec<usize>,
    /// Over before the kernel had anything to do with it.
    finished: Vec<Finished>,
    /// How many completions are still to come.
    outstanding: usize,
    is_cancelling: bool,
}

impl Ring {
    pub(super) fn new(disk: &Arc<Disk>) -> Result<Self, RingError> {
        let ring = IoUring::builder()
            .dontfork()
            .setup_r_disabled()
            .setup_submit_all()
            // Completions wait until this thread enters the kernel, rather than interrupting it.
            .setup_coop_taskrun()
            .build(DEPTH as u32)
            .map_err(RingError::SetUp)?;
        restrict(&ring, disk)?;
        let in_hand = (0..DEPTH).map(|_| None).collect();
        Ok(Self { ring, in_hand, waiting: vec![], finished: vec![], outstanding: 0, is_cancelling: false })
    }

    pub(super) fn start(&mut self, number: usize, io: Io) {
        if let Some(place) = self.in_hand.get_mut(number) {
            *place = Some(io);
        }
        self.go_on(number);
    }

    /// Queues the next step of the work of that number, or finishes it.
    fn go_on(&mut self, number: usize) {
        let Some(io) = self.in_hand.get_mut(number).and_then(Option::as_mut) else { return };
        let step = match io.next_step() {
            Ok(Next::Step(step)) => step,
            Ok(Next::Wait) => return self.waiting.push(number),
            Ok(Next::Done) => return self.finish(number, Ok(())),
            Err(error) => return self.finish(number, Err(error)),
        };
        let entry = entry(step).user_data(number as u64);
        // SAFETY: what the entry points to is owned by the `Io` in `in_hand`, or static. The `Io` stays there, and its
        // parts unchanged, until the completion of this entry has been seen.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        match pushed {
            Ok(()) => self.outstanding += 1,
            // There are as many places as there is work, and each has one entry at a time.
            Err(_) => self.finish(number, Err(io::ErrorKind::OutOfMemory.into())),
        }
    }

    fn finish(&mut self, number: usize, result: io::Result<()>) {
        if let Some(place) = self.in_hand.get_mut(number) {
            *place = None;
        }
        self.finished.push(Finished { number, result });
    }

    pub(super) fn submit(&mut self) -> io::Result<bool> {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if is_for_now(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    pub(super) fn next_finished(&mut self) -> Option<Finished> {
        while self.finished.is_empty() {
            let completion = self.ring.completion().next()?;
            self.complete(completion.user_data() as usize, completion.result());
        }
        self.finished.pop()
    }

    pub(super) fn cancel(&mut self, cancel: bool) {
        self.is_cancelling = cancel;
        if cancel {
            for number in mem::take(&mut self.waiting) {
                self.finish(number, Err(io::ErrorKind::Interrupted.into()));
            }
        }
    }

    fn complete(&mut self, number: usize, result: i32) {
        self.outstanding -= 1;
        let Some(io) = self.in_hand.get_mut(number).and_then(Option::as_mut) else { return };
        let result = u64::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        match io.advance(result) {
            Ok(()) if self.is_cancelling => self.finish(number, Err(io::ErrorKind::Interrupted.into())),
            Ok(()) => self.go_on(number),
            Err(error) => self.finish(number, Err(error)),
        }
        self.ask_waiting();
    }

    /// What some work waits for may be there now.
    pub(super) fn ask_waiting(&mut self) {
        for number in mem::take(&mut self.waiting) {
            self.go_on(number);
        }
    }

    /// Waits until the kernel has nothing in its hands any more.
    fn drain(&mut self) -> io::Result<()> {
        while self.outstanding > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if is_for_now(&error) => {}
                Err(error) => return Err(error),
            }
            while let Some(completion) = self.ring.completion().next() {
                self.outstanding -= 1;
                drop(self.in_hand.get_mut(completion.user_data() as usize).and_then(Option::take));
            }
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.drain().is_err() {
            // The kernel may still write into what these own; better never to give it back.
            mem::forget(mem::take(&mut self.in_hand));
        }
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as the ring that is borrowed with it.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

/// Whether it is worth trying again: interrupted, or out of something that completions give back.
fn is_for_now(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

fn entry(step: Step<'_>) -> squeue::Entry {
    let entry = match step {
        Step::Read { parts, offset } => {
            opcode::Readv::new(DISK, parts.as_ptr(), count(parts)).offset(offset).build()
        }
        Step::Write { parts, offset } => {
            opcode::Writev::new(DISK, parts.as_ptr(), count(parts)).offset(offset).build()
        }
        Step::Zero { offset, bytes } => opcode::Fallocate::new(DISK, bytes)
            .offset(offset)
            .mode(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE)
            .build(),
        Step::Sync => opcode::Fsync::new(DISK).flags(FsyncFlags::DATASYNC).build(),
    };
    entry.flags(Flags::FIXED_FILE)
}

fn count(parts: &[libc::iovec]) -> u32 {
    parts.len().min(libc::UIO_MAXIOV as usize) as u32
}

fn restrict(ring: &IoUring, disk: &Disk) -> Result<(), RingError> {
    let failed = |what| move |source| RingError::Register { what, source };
    let submitter = ring.submitter();
    submitter.register_files(&[disk.as_fd().as_raw_fd()]).map_err(failed("register a file"))?;
    let cpus = own_cpus().map_err(failed("pin its workers"))?;
    submitter.register_iowq_aff(&cpus).map_err(failed("pin its workers"))?;
    submitter.register_iowq_max_workers(&mut WORKERS.clone()).map_err(failed("bound its workers"))?;
    let mut restrictions: Vec<_> = OPERATIONS.iter().map(|code| Restriction::sqe_op(*code)).collect();
    restrictions.push(Restriction::sqe_flags_required(FIXED_FILE));
    submitter.register_restrictions(&mut restrictions).map_err(failed("be restricted"))?;
    submitter.register_enable_rings().map_err(failed("be enabled"))
}

/// The CPUs on which this thread may run, as io_uring's interface takes them.
fn own_cpus() -> io::Result<libc::cpu_set_t> {
    let own = sched_getaffinity(None)?;
    // SAFETY: all zeroes is the empty set.
    let mut cpus: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    let all = (0..libc::CPU_SETSIZE as usize).filter(|cpu| own.is_set(*cpu));
    // SAFETY: every number is below the set's size.
    all.for_each(|cpu| unsafe { libc::CPU_SET(cpu, &mut cpus) });
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use sublet_vmm_protocol::DiskConfig;

    use super::*;

    #[test]
    fn the_ring_does_nothing_but_what_it_is_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let disk = Arc::new(Disk::open(&DiskConfig::new(file.path()), &[]).unwrap());
        let mut ring = match Ring::new(&disk) {
            Ok(ring) => ring,
            Err(error) => return eprintln!("not tested: {error}"),
        };
        let socket = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build();
        let other_file = opcode::Fsync::new(io_uring::types::Fd(file.as_file().as_raw_fd())).build();
        for entry in [opcode::Nop::new().build(), socket, other_file] {
            // SAFETY: none of these entries points to anything.
            unsafe { ring.ring.submission().push(&entry) }.unwrap();
            ring.ring.submit_and_wait(1).unwrap();
            assert_eq!(ring.ring.completion().next().unwrap().result(), -libc::EACCES);
        }
        assert!(ring.ring.submitter().register_files(&[0]).is_err());
    }
}
