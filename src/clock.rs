//! The one seam of time: whoever needs to know what time it is asks a [`Clock`].

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};

/// A wall clock that never runs backwards while its process lives. In whole microseconds, so that a moment that
/// was stored is the moment that was read.
#[derive(Debug)]
pub struct Clock {
    latest_us: AtomicI64,
    /// By how much another clock, by which this one goes, is ahead of the system's.
    ahead_us: AtomicI64,
    /// Where tests hold the time still; else the system's clock counts.
    held: bool,
}

impl Clock {
    pub fn system() -> Self {
        Self { latest_us: AtomicI64::new(i64::MIN), ahead_us: AtomicI64::new(0), held: false }
    }

    /// Stands at `now` until it is [`Clock::advance`]d.
    #[cfg(test)]
    pub fn held_at(now: Timestamp) -> Self {
        Self { latest_us: AtomicI64::new(now.as_microsecond()), ahead_us: AtomicI64::new(0), held: true }
    }

    #[cfg(test)]
    pub fn advance(&self, by: std::time::Duration) {
        let by_us = i64::try_from(by.as_micros()).unwrap();
        self.latest_us.fetch_add(by_us, Ordering::SeqCst);
    }

    /// Goes from now on by another clock, which is ahead of the system's by so much.
    pub fn set(&self, ahead: SignedDuration) {
        self.ahead_us.store(i64::try_from(ahead.as_micros()).unwrap_or(0), Ordering::SeqCst);
    }

    /// `moment`, which another clock has just shown; but where the time is held still, that.
    pub fn unless_held(&self, moment: Timestamp) -> Timestamp {
        if self.held { self.now() } else { moment }
    }

    pub fn now(&self) -> Timestamp {
        let now_us = match self.held {
            true => i64::MIN,
            false => Timestamp::now().as_microsecond() + self.ahead_us.load(Ordering::SeqCst),
        };
        let latest_us = self.latest_us.fetch_max(now_us, Ordering::SeqCst).max(now_us);
        // Both are moments that a Timestamp can hold.
        Timestamp::from_microsecond(latest_us).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_clock_never_runs_backwards() {
        let clock = Clock::system();
        let mut before = clock.now();
        for _ in 0..1000 {
            let now = clock.now();
            assert!(now >= before);
            before = now;
        }
    }

    #[test]
    fn a_moment_is_in_whole_microseconds() {
        assert_eq!(Clock::system().now().subsec_nanosecond() % 1000, 0);
    }

    #[test]
    fn a_clock_that_goes_by_another_is_as_far_ahead() {
        let clock = Clock::system();
        clock.set(SignedDuration::from_hours(1));
        let ahead = clock.now().duration_since(Timestamp::now());
        assert!(ahead > SignedDuration::from_mins(59) && ahead <= SignedDuration::from_hours(1));
        let before = clock.now();
        clock.set(SignedDuration::ZERO);
        assert!(clock.now() >= before, "set back, it waits");
    }

    #[test]
    fn a_held_clock_moves_only_when_told() {
        let noon: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let clock = Clock::held_at(noon);
        assert_eq!(clock.now(), noon);
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.now(), noon + Duration::from_secs(1));
    }
}
