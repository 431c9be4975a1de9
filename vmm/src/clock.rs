//! The host's clock that a guest's end is measured on: CLOCK_BOOTTIME goes on while the host sleeps and no
//! administrator can set it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    io,
    time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
        timerfd_create, timerfd_settime,
    },
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Now, on CLOCK_BOOTTIME, in nanoseconds.
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * NANOS_PER_SECOND + now.tv_nsec as u64
}

/// Has the clock read once. The first reading looks for the kernel's vDSO by calls that no thread may make in the jail,
/// and at worst in `/proc`; those after it know where it is.
pub fn make_ready() {
    boottime_ns();
}

/// A timer that makes its descriptor readable once.
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        timerfd_create(TimerfdClockId::Boottime, flags).map(Self)
    }

    /// Fires at a moment on CLOCK_BOOTTIME, at once if it has passed; never, if there is none.
    pub fn fire_at(&self, boottime_ns: Option<u64>) -> io::Result<()> {
        // Zero would disarm the timer.
        self.set(TimerfdTimerFlags::ABSTIME, boottime_ns.map(|ns| ns.max(1)).unwrap_or(0))
    }

    /// Fires once `delay_ns` have gone by.
    pub fn fire_in(&self, delay_ns: u64) -> io::Result<()> {
        self.set(TimerfdTimerFlags::empty(), delay_ns)
    }

    /// Takes what made the descriptor readable.
    pub fn acknowledge(&self) -> io::Result<()> {
        match io::read(&self.0, &mut [0; 8]) {
            Ok(_) | Err(io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn set(&self, flags: TimerfdTimerFlags, ns: u64) -> io::Result<()> {
        let value =
            Timespec { tv_sec: (ns / NANOS_PER_SECOND) as i64, tv_nsec: (ns % NANOS_PER_SECOND) as i64 };
        let once = Itimerspec { it_interval: Timespec::default(), it_value: value };
        timerfd_settime(&self.0, flags, &once).map(|_| ())
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn fires_within_ms(timer: &Timer, limit_ms: i64) -> bool {
        let limit = Timespec { tv_sec: limit_ms / 1000, tv_nsec: limit_ms % 1000 * 1_000_000 };
        poll(&mut [PollFd::new(timer, PollFlags::IN)], Some(&limit)).unwrap() == 1
    }

    #[test]
    fn a_moment_that_has_passed_fires_at_once() {
        let timer = Timer::new().unwrap();
        for moment in [0, 1, boottime_ns() - 1] {
            timer.fire_at(Some(moment)).unwrap();
            assert!(fires_within_ms(&timer, 10_000), "{moment}");
        }
    }

    #[test]
    fn the_latest_moment_there_is_can_be_set() {
        let timer = Timer::new().unwrap();
        timer.fire_at(Some(u64::MAX)).unwrap();
        assert!(!fires_within_ms(&timer, 0));
    }

    #[test]
    fn a_removed_moment_does_not_fire() {
        let timer = Timer::new().unwrap();
        timer.fire_at(Some(1)).unwrap();
        timer.fire_at(None).unwrap();
        assert!(!fires_within_ms(&timer, 0));
    }
}
