//! Between the serial port and the console's log file.
//!
//! Bytes wait a few milliseconds so that a line costs one write and not one write a character. A guest that floods
//! its console fills the small buffer and then writes the log itself, on its own CPU's time: it slows down nobody
//! else, and the log is a ring of fixed size.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use sublet_vmm_protocol::{ConsoleConfig, ConsoleLog, ConsoleLogError};
use thiserror::Error;

use crate::clock::Timer;

/// Bytes that wait at most.
const PENDING_LIMIT: usize = 4096;
/// How long they wait at most.
const FLUSH_DELAY_NS: u64 = 5_000_000;

#[derive(Debug, Error)]
pub enum ConsoleError {
    #[error("cannot make the console's timer")]
    Timer(#[source] rustix::io::Errno),
    #[error("cannot make the console's log")]
    Log(#[source] ConsoleLogError),
}

/// The console's output.
#[derive(Debug)]
pub struct Console {
    inner: Mutex<Inner>,
    flush_due: Timer,
}

#[derive(Debug)]
struct Inner {
    log: ConsoleLog,
    pending: Vec<u8>,
}

impl Console {
    pub fn new(config: &ConsoleConfig) -> Result<Self, ConsoleError> {
        let log = ConsoleLog::create(&config.path, config.capacity_bytes).map_err(ConsoleError::Log)?;
        let inner = Mutex::new(Inner { log, pending: Vec::with_capacity(PENDING_LIMIT) });
        Ok(Self { inner, flush_due: Timer::new().map_err(ConsoleError::Timer)? })
    }

    /// Takes one byte of the guest's output.
    pub fn push(&self, byte: u8) {
        let mut inner = self.lock();
        inner.pending.push(byte);
        let flush_now = match inner.pending.len() {
            // A timer that cannot be set must not hold the output back for ever.
            1 => self.flush_due.fire_in(FLUSH_DELAY_NS).is_err(),
            waiting => waiting >= PENDING_LIMIT,
        };
        if flush_now {
            inner.flush();
        }
    }

    /// Brings everything taken so far into the log.
    pub fn flush(&self) {
        // Left readable by mistake it would only be flushed once more.
        let _ = self.flush_due.acknowledge();
        self.lock().flush();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn flush(&mut self) {
        // A host that cannot write the log (its disk is full) loses console output, never the guest.
        let _ = self.log.append(&self.pending);
        self.pending.clear();
    }
}

/// Readable when [`Console::flush`] should be called.
impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.flush_due.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use tempfile::TempDir;

    use super::*;

    fn console() -> (TempDir, Console, ConsoleLog) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console");
        let console = Console::new(&ConsoleConfig { path: path.clone(), capacity_bytes: 64 * 1024 }).unwrap();
        let reader = ConsoleLog::open(&path).unwrap();
        (directory, console, reader)
    }

    #[test]
    fn a_line_is_in_the_log_soon_without_more_output() {
        let (_directory, console, reader) = console();
        b"hello\n".iter().for_each(|byte| console.push(*byte));
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&console, PollFlags::IN)], Some(&limit)).unwrap(), 1);
        console.flush();
        assert_eq!(reader.read_from(0, 100).unwrap().bytes, b"hello\n");
    }

    #[test]
    fn a_flood_reaches_the_log_though_nobody_flushes() {
        let (_directory, console, reader) = console();
        (0..3 * PENDING_LIMIT).for_each(|_| console.push(b'x'));
        assert_eq!(reader.read_from(0, usize::MAX).unwrap().bytes.len(), 3 * PENDING_LIMIT);
    }

    #[test]
    fn nothing_waits_after_a_flush() {
        let (_directory, console, _reader) = console();
        console.push(b'x');
        console.flush();
        assert!(console.lock().pending.is_empty());
    }
}
