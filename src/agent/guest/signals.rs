//! Who waits for what around one guest.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{Notify, watch};

/// Shared by all that has to do with one partition.
pub type SignalsHandle = Arc<Signals>;

#[derive(Debug)]
pub struct Signals {
    /// Counts what has changed about jobs and their output.
    changes: watch::Sender<u64>,
    /// There may be something to tell the guest's runner.
    work: Notify,
    /// The guest was heard since this was last asked.
    heard: AtomicBool,
    first_heard: Notify,
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            changes: watch::Sender::new(0),
            work: Notify::new(),
            heard: AtomicBool::new(false),
            first_heard: Notify::new(),
        }
    }
}

impl Signals {
    /// A job was added, changed or ended.
    pub fn jobs_changed(&self) {
        self.output_changed();
        self.work.notify_one();
    }

    /// There is more of a job's output.
    pub fn output_changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Sees every change from now on.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The guest has said something.
    pub fn heard(&self) {
        if !self.heard.swap(true, Ordering::Relaxed) {
            self.first_heard.notify_one();
        }
    }

    /// Whether the guest has said anything since this was asked last.
    pub fn was_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    /// Waits until the guest says something for the first time since [`Self::was_heard`].
    pub async fn first_heard(&self) {
        self.first_heard.notified().await;
    }

    /// Waits until jobs have changed since the last wait.
    pub async fn work(&self) {
        self.work.notified().await;
    }
}
