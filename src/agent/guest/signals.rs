//! Who waits for what around one guest.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

/// Shared by all that has to do with one partition.
pub type SignalsHandle = Arc<Signals>;

#[derive(Debug)]
pub struct Signals {
    /// Counts what has changed about jobs and their output.
    changes: watch::Sender<u64>,
    /// There may be something to tell the guest's runner.
    work: Notify,
}

impl Default for Signals {
    fn default() -> Self {
        Self { changes: watch::Sender::new(0), work: Notify::new() }
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

    /// Waits until jobs have changed since the last wait.
    pub async fn work(&self) {
        self.work.notified().await;
    }
}
