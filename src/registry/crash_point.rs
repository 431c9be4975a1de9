//! Places at which a test has this process die, as `kill -9` would have it. In a release build there are none.

use std::fmt;

/// A step between two things that must both be there after a crash, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// A partition's row is written, and its host's revision does not count it yet.
    InPartition,
    /// A lease's row is written, its partition's is not.
    InLease,
    /// A lease has ended, and its partition does not know yet.
    InEnd,
    /// Of the leases whose time has come some have ended.
    InExpiry,
    /// A part of what a host reported is taken.
    InReport,
    /// An entry is in the ledger, and not yet in the balances of its accounts.
    InEntry,
    /// All is written, nothing is durable.
    BeforeCommit,
    /// All is durable, and nobody knows.
    AfterCommit,
    /// Search and hosts know, and who asked does not.
    BeforeAnswer,
}

impl CrashPoint {
    pub const ALL: [Self; 9] = [
        Self::InPartition,
        Self::InLease,
        Self::InEnd,
        Self::InExpiry,
        Self::InReport,
        Self::InEntry,
        Self::BeforeCommit,
        Self::AfterCommit,
        Self::BeforeAnswer,
    ];

    /// This process ends here if `SUBLET_CRASH_AT` says so.
    #[cfg(debug_assertions)]
    pub(super) fn pass(self) {
        wanted::passed(self);
    }

    #[cfg(not(debug_assertions))]
    #[inline(always)]
    pub(super) fn pass(self) {}
}

/// As it is named in `SUBLET_CRASH_AT`.
impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(debug_assertions)]
mod wanted {
    use std::{
        env,
        sync::{
            LazyLock,
            atomic::{AtomicU32, Ordering},
        },
    };

    use rustix::process::{Signal, getpid, kill_process};

    use super::CrashPoint;

    /// `InLease:3` is the third pass of that place.
    const VARIABLE: &str = "SUBLET_CRASH_AT";

    struct Wanted {
        place: CrashPoint,
        passes_left: AtomicU32,
    }

    static WANTED: LazyLock<Option<Wanted>> =
        LazyLock::new(|| env::var(VARIABLE).ok().and_then(|text| read(&text)));

    fn read(text: &str) -> Option<Wanted> {
        let (name, pass) = text.split_once(':')?;
        let place = CrashPoint::ALL.into_iter().find(|place| place.to_string() == name)?;
        Some(Wanted { place, passes_left: AtomicU32::new(pass.parse().ok()?) })
    }

    pub(super) fn passed(place: CrashPoint) {
        let Some(wanted) = WANTED.as_ref().filter(|wanted| wanted.place == place) else { return };
        if wanted.passes_left.fetch_sub(1, Ordering::SeqCst) == 1 {
            // Nothing comes after it where it succeeds, and a process can always end itself.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}
