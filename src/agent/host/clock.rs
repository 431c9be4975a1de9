//! The agent's clocks: the registry's, by which leases end, and the host's own boot time, by which guests are ended.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::{
    agent::identity::{self, IdentityError},
    clock::Clock,
};

/// How much a host's boot time and a registry's clock may come apart, in millionths of the time that passes: as much as
/// clocks are slewed at most (adjtimex(2)).
const DRIFT_PPM: u32 = 500;
/// What was heard is written down again after so long, or when it has come to differ by so much.
const KEPT_FOR: Duration = Duration::from_secs(60);
const KEPT_WITHIN: SignedDuration = SignedDuration::from_millis(100);

/// The registry's clock as it was last heard of, carried on by the host's boot time: a change of the host's wall
/// clock lengthens no lease. It is written down, and goes on where it was when the agent is started again.
#[derive(Debug)]
pub struct LeaseClock {
    wall: Clock,
    boottime: BootTime,
    /// Names this start of the host.
    host_boot: String,
    path: PathBuf,
    heard: Mutex<Option<Reading>>,
    /// As it is written down.
    kept: Mutex<Option<Kept>>,
}

/// What the registry's clock showed at which boot time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    registry: Timestamp,
    at: Duration,
}

/// A reading as it survives the agent, and the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    registry: Timestamp,
    host_boot: String,
    /// The reading's boot time, in that start of the host.
    boottime_us: u64,
    /// What the host's wall clock showed then: for a later start of the host, which has another boot time.
    wall: Timestamp,
}

impl Reading {
    /// What the registry's clock shows at another boot time.
    fn carried_to(self, at: Duration) -> Timestamp {
        let passed = SignedDuration::try_from(at.saturating_sub(self.at)).unwrap_or(SignedDuration::MAX);
        let missing = SignedDuration::try_from(self.at.saturating_sub(at)).unwrap_or(SignedDuration::MAX);
        self.registry.saturating_add(passed - missing).unwrap_or(Timestamp::MAX)
    }

    /// The reading that follows from an answer that said `registry`, came at boot time `at` and was asked for at
    /// `asked_at`: since it was said no more than the way from there has passed. Within these bounds the clock goes on as it was
    /// known, so that an answer that was long on its way does not set it back; as if the host's time went too fast, so that
    /// it ends up where the quickest answers have it.
    fn after(before: Option<Self>, registry: Timestamp, asked_at: Duration, at: Duration) -> Self {
        let asked_ago = SignedDuration::try_from(at.saturating_sub(asked_at)).unwrap_or(SignedDuration::MAX);
        let latest = registry.saturating_add(asked_ago).unwrap_or(Timestamp::MAX);
        let expected = before.map_or(registry, |before| {
            let drift = at.saturating_sub(before.at) * DRIFT_PPM / 1_000_000;
            let drift = SignedDuration::try_from(drift).unwrap_or(SignedDuration::MAX);
            before.carried_to(at).saturating_sub(drift).unwrap_or(Timestamp::MIN)
        });
        Self { registry: expected.clamp(registry, latest), at }
    }
}

impl Kept {
    /// In the same start of the host it goes on by boot time. In a later one by the wall clock, if by that any time has
    /// passed: what was heard is never taken back.
    fn carried_on(&self, host_boot: &str, wall: Timestamp, boottime: Duration) -> Reading {
        if self.host_boot == host_boot {
            return Reading { registry: self.registry, at: Duration::from_micros(self.boottime_us) };
        }
        let since = wall.duration_since(self.wall).max(SignedDuration::ZERO);
        let registry = self.registry.saturating_add(since).unwrap_or(Timestamp::MAX);
        Reading { registry, at: boottime }
    }

    /// Whether it does as well as this later reading.
    fn still_says(&self, reading: Reading, host_boot: &str) -> bool {
        let at = Duration::from_micros(self.boottime_us);
        let own = Reading { registry: self.registry, at };
        self.host_boot == host_boot
            && reading.at.saturating_sub(at) < KEPT_FOR
            && own.carried_to(reading.at).duration_since(reading.registry).abs() < KEPT_WITHIN
    }
}

impl LeaseClock {
    /// As it was heard last, where it was.
    pub fn load(state_directory: &Path, host_boot: &str) -> Result<Self, IdentityError> {
        Self::of(Clock::system(), BootTime::Host, state_directory, host_boot)
    }

    /// By these clocks.
    pub(crate) fn of(
        wall: Clock,
        boottime: BootTime,
        state_directory: &Path,
        host_boot: &str,
    ) -> Result<Self, IdentityError> {
        let path = state_directory.join("clock.json");
        let kept: Option<Kept> = identity::read(&path)?;
        let heard = kept.as_ref().map(|kept| kept.carried_on(host_boot, wall.now(), boottime.now()));
        let host_boot = host_boot.to_owned();
        Ok(Self { wall, boottime, host_boot, path, heard: Mutex::new(heard), kept: Mutex::new(kept) })
    }

    /// Takes note of the registry's clock, as an answer said it that was asked for at boot time `asked_at`. It counts also
    /// where it cannot be written down.
    pub fn hear(&self, registry_now: Timestamp, asked_at: Duration) -> Result<(), IdentityError> {
        let reading = {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let reading = Reading::after(*heard, registry_now, asked_at, self.boottime.now());
            *heard = Some(reading);
            reading
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_some_and(|kept| kept.still_says(reading, &self.host_boot)) {
            return Ok(());
        }
        let now = Kept {
            registry: reading.registry,
            host_boot: self.host_boot.clone(),
            boottime_us: u64::try_from(reading.at.as_micros()).unwrap_or(u64::MAX),
            wall: self.wall.now(),
        };
        identity::write(&self.path, &now)?;
        *kept = Some(now);
        Ok(())
    }

    /// The host's boot time.
    pub fn boottime(&self) -> Duration {
        self.boottime.now()
    }

    /// The registry's clock; before it was ever heard of, the host's wall clock.
    pub fn now(&self) -> Timestamp {
        match *self.heard.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(reading) => reading.carried_to(self.boottime.now()),
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
mod tests;
