//! What the registry keeps in memory of its database: the free partitions for search, which hosts are heard, who
//! waits for news, and when the next lease expires. Each follows what was committed, in that order.

use std::{
    sync::{PoisonError, RwLock},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    hosts_heard::HostsHeard,
    metrics::Metrics,
    resource_db::Change,
    search_index::{Found, Place, SearchIndex},
};
use crate::{
    api::registry::{LendingState, RegisteredPartition},
    domain::{
        id::HostId,
        matching::{Conditions, Explanation},
    },
};

pub(super) struct Market {
    index: RwLock<SearchIndex>,
    hosts: HostsHeard,
    /// No lease expires before this moment.
    next_expiry: watch::Sender<Timestamp>,
    metrics: Metrics,
}

impl Market {
    pub(super) fn new(beat_every: Duration, metrics: Metrics) -> Self {
        Self {
            index: RwLock::default(),
            hosts: HostsHeard::new(beat_every),
            next_expiry: watch::Sender::new(Timestamp::MAX),
            metrics,
        }
    }

    /// What is free when the registry starts.
    pub(super) fn begin(&self, free: Vec<RegisteredPartition>) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        for row in free {
            index.put(row.host, row.partition, Some(&row));
        }
    }

    /// Follows a transaction that is durable.
    pub(super) fn apply(&self, changes: Vec<Change>) {
        for Change { host, partition, row, .. } in changes {
            self.index.write().unwrap_or_else(PoisonError::into_inner).put(host, partition, row.as_ref());
            match row.map(|row| row.state) {
                Some(LendingState::Lent { lease, borrower, expires_at }) => {
                    tracing::info!(%lease, %host, %partition, %borrower, %expires_at, "lease made");
                    self.metrics.leases_made.inc();
                    self.expires(expires_at);
                }
                Some(LendingState::AwaitingClean { lease }) => {
                    tracing::info!(%lease, %host, %partition, "lease ended");
                    self.metrics.leases_ended.inc();
                }
                Some(LendingState::Free) => tracing::info!(%host, %partition, "partition free"),
                None => tracing::info!(%host, %partition, "partition withdrawn"),
            }
            self.hosts.tell(host);
        }
    }

    /// A lease expires at `at`.
    pub(super) fn expires(&self, at: Timestamp) {
        self.next_expiry.send_if_modified(|next| {
            let sooner = at < *next;
            *next = at.min(*next);
            sooner
        });
    }

    pub(super) fn next_expiry(&self) -> &watch::Sender<Timestamp> {
        &self.next_expiry
    }

    pub(super) fn hosts(&self) -> &HostsHeard {
        &self.hosts
    }

    pub(super) fn is_heard(&self, host: HostId) -> bool {
        self.hosts.at(Instant::now()).contains(host)
    }

    pub(super) fn search(&self, conditions: &Conditions, after: Option<Place>, limit: usize) -> Found {
        let heard = self.hosts.at(Instant::now());
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.search(conditions, after, limit, |host| heard.contains(host))
    }

    pub(super) fn explain(&self, conditions: &Conditions) -> Explanation {
        let heard = self.hosts.at(Instant::now());
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.explain(conditions, |host| heard.contains(host))
    }

    /// Free partitions, those of silent hosts included.
    pub(super) fn free_count(&self) -> usize {
        self.index.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}
