//! What the registry keeps in memory of its database: the free partitions for search, which hosts are heard, who
//! waits for news, and when the next lease expires. Each follows what was committed, in that order.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    event_log::{EventLog, of_liveness},
    hosts_heard::HostsHeard,
    metrics::Metrics,
    resource_db::{Change, Happened},
    search_index::{Found, Place, SearchIndex},
};
use crate::{
    api::registry::{Event, EventKind, LendingState, RegisteredPartition, ReportedViolation},
    clock::Clock,
    domain::{
        id::{BorrowerId, HostId, LenderId},
        matching::{Conditions, Explanation},
    },
};

/// Longest description of a violation that is passed on, in characters.
const VIOLATION_MAX: usize = 200;

pub(super) struct Market {
    index: RwLock<SearchIndex>,
    hosts: HostsHeard,
    events: EventLog,
    clock: Arc<Clock>,
    /// No lease expires before this moment.
    next_expiry: watch::Sender<Timestamp>,
    metrics: Metrics,
}

impl Market {
    pub(super) fn new(beat_every: Duration, clock: Arc<Clock>, metrics: Metrics) -> Self {
        Self {
            index: RwLock::default(),
            hosts: HostsHeard::new(beat_every),
            events: EventLog::new(clock.now()),
            clock,
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

    /// The host lives.
    pub(super) fn heard(&self, host: HostId) {
        if self.hosts.heard(host, Instant::now()) {
            self.settle(host);
        }
    }

    /// The host is this lender's.
    pub(super) fn belongs(&self, host: HostId, lender: LenderId) {
        self.hosts.belongs(host, lender);
    }

    /// Whose host it is, where that is known already.
    pub(super) fn lender(&self, host: HostId) -> Option<LenderId> {
        self.hosts.lender(host)
    }

    /// Hides the offers of hosts that have fallen silent.
    pub(super) fn hide_silent(&self) {
        self.hosts.fallen_silent(Instant::now()).into_iter().for_each(|host| self.settle(host));
    }

    /// Other registries at the same database hear these hosts, and no others.
    pub(super) fn heard_elsewhere(&self, hosts: &HashSet<HostId>) {
        self.hosts.heard_elsewhere(hosts).into_iter().for_each(|host| self.settle(host));
    }

    /// Shows or hides the host's offers. Judged by whoever has the index, so that of two the later one is right.
    fn settle(&self, host: HostId) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let Some(heard) = self.hosts.settle(host, Instant::now()) else { return };
        index.hear(host, heard);
        drop(index);
        tracing::info!(%host, "host {}", if heard { "up" } else { "down" });
        self.events.of_host(of_liveness(host, heard, self.clock.now()), self.hosts.lender(host), None);
    }

    /// A host's agent has mended what was changed behind its back.
    pub(super) fn violated(&self, host: HostId, reported: &ReportedViolation, borrower: Option<BorrowerId>) {
        let ReportedViolation { partition, lease, violation } = reported;
        tracing::warn!(%host, %partition, ?lease, %violation, "what was set aside was changed behind the agent's back");
        let event = Event {
            host: Some(host),
            partition: Some(*partition),
            lease: lease.filter(|_| borrower.is_some()),
            detail: Some(violation.to_string().chars().take(VIOLATION_MAX).collect()),
            ..Event::new(EventKind::Violation, self.clock.now())
        };
        self.events.of_host(event, self.hosts.lender(host), borrower);
    }

    pub(super) fn events(&self) -> &EventLog {
        &self.events
    }

    /// Follows a transaction that is durable.
    pub(super) fn apply(&self, changes: Vec<Change>) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        for change in &changes {
            index.put(change.host, change.partition, change.row.as_ref());
        }
        drop(index);
        self.events.changed(&changes, self.clock.now());
        for Change { host, partition, row, happened, .. } in changes {
            match row.map(|row| row.state) {
                Some(LendingState::Lent { lease, borrower, expires_at }) => {
                    tracing::debug!(%lease, %host, %partition, %borrower, %expires_at, ?happened, "lent");
                    if happened == Happened::LeaseMade {
                        self.metrics.leases_made.inc();
                    }
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
        self.index.read().unwrap_or_else(PoisonError::into_inner).search(conditions, after, limit)
    }

    pub(super) fn explain(&self, conditions: &Conditions) -> Explanation {
        self.index.read().unwrap_or_else(PoisonError::into_inner).explain(conditions)
    }

    /// Free partitions, those of silent hosts included.
    pub(super) fn free_count(&self) -> usize {
        self.index.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}
