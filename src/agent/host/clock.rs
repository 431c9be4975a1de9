//! The agent's clocks: the registry's, by which leases end, and the host's own boot time, by which guests are ended.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

use crate::clock::Clock;

/// The registry's clock as it was last heard of, carried on by the host's boot time: a change of the host's wall
/// clock lengthens no lease.
#[derive(Debug)]
pub struct LeaseClock {
    wall: Clock,
    /// What the registry's clock said at which boot time.
    heard: Mutex<Option<(Timestamp, Duration)>>,
    boottime: BootTime,
}

impl Default for LeaseClock {
    fn default() -> Self {
        Self { wall: Clock::system(), heard: Mutex::default(), boottime: BootTime::Host }
    }
}

impl LeaseClock {
    /// By clocks of a test's own.
    #[cfg(test)]
    pub fn of(wall: Clock, boottime: BootTime) -> Self {
        Self { wall, heard: Mutex::default(), boottime }
    }

    /// Takes note of the registry's clock.
    pub fn hear(&self, registry_now: Timestamp) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((registry_now, self.boottime.now()));
    }

    /// The registry's clock; before it was heard of, the host's wall clock.
    pub fn now(&self) -> Timestamp {
        match *self.heard.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((then, at)) => {
                then.saturating_add(self.boottime.now().saturating_sub(at)).unwrap_or(Timestamp::MAX)
            }
            None => self.wall.now(),
        }
    }

    /// How long it is until `moment`; zero where it has passed.
    pub fn until(&self, moment: Timestamp) -> Duration {
        let left = moment.duration_since(self.now()).max(SignedDuration::ZERO);
        left.unsigned_abs()
    }

    /// `moment` on CLOCK_BOOTTIME, in nanoseconds: what a VMM's `stop_at` is set to.
    pub fn boottime_ns_at(&self, moment: Timestamp) -> u64 {
        let at = self.boottime.now().saturating_add(self.until(moment));
        u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Whose boot time counts.
#[derive(Debug, Clone)]
pub enum BootTime {
    Host,
    /// That of a host whose second is `speed_ppm` millionths of a test's.
    #[cfg(test)]
    Drifting {
        begun: tokio::time::Instant,
        speed_ppm: u32,
    },
}

impl BootTime {
    pub fn now(&self) -> Duration {
        match self {
            Self::Host => boottime(),
            #[cfg(test)]
            Self::Drifting { begun, speed_ppm } => begun.elapsed() * *speed_ppm / 1_000_000,
        }
    }
}

/// Time since the host was started, suspended or not.
pub fn boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_clock_goes_on_from_where_it_was_heard() {
        let clock = LeaseClock::default();
        let registry: Timestamp = "2040-01-01T00:00:00Z".parse().unwrap();
        clock.hear(registry);
        let now = clock.now();
        assert!(now >= registry && now < registry + SignedDuration::from_mins(1), "{now}");
    }

    #[test]
    fn a_moment_that_has_passed_is_now() {
        let clock = LeaseClock::default();
        assert_eq!(clock.until(Timestamp::MIN), Duration::ZERO);
        let (before, at) = (boottime().as_nanos(), clock.boottime_ns_at(Timestamp::MIN));
        assert!(u128::from(at) >= before && u128::from(at) <= boottime().as_nanos());
    }

    #[test]
    fn the_last_moment_there_is_does_not_overflow() {
        assert!(LeaseClock::default().boottime_ns_at(Timestamp::MAX) > 0);
    }
}
