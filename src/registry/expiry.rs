//! Ends leases when their planned end has come, by the registry's clock; those of before a restart too. A lease whose
//! host is silent then waits for its word, as long as the grace; then its host counts as lost.

use std::{sync::Arc, time::Duration, time::Instant};

use jiff::Timestamp;

use super::{
    Registry,
    resource_db::{Overdue, StoreError},
};
use crate::{
    api::http::chain,
    domain::lease::{HostWord, overdue},
};

/// A wall clock can be set; so nothing is waited for longer than this without looking at it again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
/// Most leases that are looked at at a time, and end in one transaction.
const PAGE: u32 = 500;

pub(super) async fn run(registry: Arc<Registry>) {
    loop {
        let retry = registry.expire_due().await;
        tokio::select! {
            () = registry.wait_for_expiry() => {}
            () = registry.confirmed.returned() => {}
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
        match self.end_overdue().await {
            Ok(()) => false,
            Err(error) => {
                tracing::error!(error = chain(&error), "leases whose time has come could not be ended");
                true
            }
        }
    }

    /// Ends what is to end now, and says when to look at the rest.
    async fn end_overdue(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut after = None;
        loop {
            let page = self.db.overdue(now, after, PAGE).await?;
            let mut ends = Vec::new();
            for lease in &page {
                let word = self.confirmed.word(lease.host, lease.host_confirmed_at, now, Instant::now());
                match overdue(&lease.course, word, self.settings.host_lost_grace, now) {
                    Some(event) => ends.push((lease.lease, event)),
                    None => self.market.expires(self.look_again(lease, word, now)),
                }
            }
            if !ends.is_empty() {
                self.db.end_overdue(ends, now).await?;
            }
            after = page.last().map(|last| (last.course.planned_end().at, last.lease));
            if page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
                break;
            }
        }
        self.db.next_planned_end(now).await?.into_iter().for_each(|next| self.market.expires(next));
        Ok(())
    }

    /// When a lease that waits for its host's word is to be looked at, if none comes.
    fn look_again(&self, lease: &Overdue, word: HostWord, now: Timestamp) -> Timestamp {
        let (from, wait) = match word {
            HostWord::NotYetHeard => (now, self.confirmed.silent_after()),
            HostWord::Heard | HostWord::SilentSince(_) => {
                (lease.course.planned_end().at, self.settings.host_lost_grace)
            }
        };
        from.saturating_add(wait).unwrap_or(Timestamp::MAX)
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
