//! Ends leases when their time has come, by the registry's clock; those of before a restart too.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::Registry;
use crate::api::http::chain;

/// A wall clock can be set; so nothing is waited for longer than this without looking at it again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

pub(super) async fn run(registry: Arc<Registry>) {
    loop {
        let retry = registry.expire_due().await;
        tokio::select! {
            () = registry.wait_for_expiry() => {}
            () = tokio::time::sleep(RETRY), if retry => {}
            () = registry.shutdown.clone().wait() => return,
        }
    }
}

impl Registry {
    /// True: it failed, and is to be tried again soon.
    pub(crate) async fn expire_due(&self) -> bool {
        // Whatever is made from here on announces itself; all before is seen by the database.
        self.market.next_expiry().send_replace(Timestamp::MAX);
        match self.db.expire_due().await {
            Ok(next) => {
                next.into_iter().for_each(|next| self.market.expires(next));
                false
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "leases whose time has come could not be ended");
                true
            }
        }
    }

    async fn wait_for_expiry(&self) {
        let mut next_expiry = self.market.next_expiry().subscribe();
        loop {
            let next = *next_expiry.borrow_and_update();
            let left = next.duration_since(self.clock.now());
            let left = Duration::try_from(left).unwrap_or_default();
            if left.is_zero() {
                return;
            }
            // The sender lives as long as the registry: only a sooner expiry ends this early.
            let _ = tokio::time::timeout(left.min(LOOK_AGAIN), next_expiry.changed()).await;
        }
    }
}
