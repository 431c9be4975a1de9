//! How much the database does, for metrics.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Counted since the start.
#[derive(Debug, Default)]
pub(super) struct Meters {
    commits: AtomicU64,
    use_cases: AtomicU64,
    committing_us: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metered {
    pub commits: u64,
    /// Several share a commit.
    pub use_cases: u64,
    /// Spent in transactions that wrote, from their begin until they were durable.
    pub committing: Duration,
    /// How many wait to be written.
    pub waiting: usize,
}

impl Meters {
    /// So many use cases were made durable together, in so much time.
    pub(super) fn committed(&self, use_cases: usize, took: Duration) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.use_cases.fetch_add(use_cases.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        self.committing_us.fetch_add(took.as_micros().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn read(&self, waiting: usize) -> Metered {
        Metered {
            commits: self.commits.load(Ordering::Relaxed),
            use_cases: self.use_cases.load(Ordering::Relaxed),
            committing: Duration::from_micros(self.committing_us.load(Ordering::Relaxed)),
            waiting,
        }
    }
}
