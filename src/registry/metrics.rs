//! What the registry counts, for Prometheus.

use std::{sync::atomic::Ordering, time::Instant};

use prometheus::{Counter, Encoder as _, IntCounter, IntGauge, IntGaugeVec, Opts, TextEncoder};

use super::{
    Registry,
    resource_db::{LedgerSum, Metered},
};
use crate::api::{http::RequestMetrics, problem::Problem};

#[derive(Clone)]
pub(super) struct Metrics {
    registry: prometheus::Registry,
    pub(super) requests: RequestMetrics,
    pub(super) leases_made: IntCounter,
    pub(super) leases_ended: IntCounter,
    pub(super) keys_issued: IntCounter,
    commits: IntCounter,
    transactions: IntCounter,
    committing_seconds: Counter,
    transactions_waiting: IntGauge,
    leases_active: IntGauge,
    partitions: IntGaugeVec,
    hosts_heard: IntGauge,
    event_readers: IntGauge,
    ledger: IntGaugeVec,
    held: IntGaugeVec,
}

impl Metrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = prometheus::Registry::new();
        let metrics = Self {
            requests: RequestMetrics::register(&registry)?,
            leases_made: IntCounter::new("sublet_leases_made_total", "Leases made since the start")?,
            leases_ended: IntCounter::new("sublet_leases_ended_total", "Leases ended since the start")?,
            keys_issued: IntCounter::new("sublet_keys_issued_total", "Lending keys issued since the start")?,
            commits: IntCounter::new(
                "sublet_database_commits_total",
                "Commits; several transactions share one",
            )?,
            transactions: IntCounter::new("sublet_database_transactions_total", "Transactions that wrote")?,
            committing_seconds: Counter::new(
                "sublet_database_commit_seconds_total",
                "Time from the begin of what is committed together until it was durable",
            )?,
            transactions_waiting: IntGauge::new(
                "sublet_database_transactions_waiting",
                "Transactions that wait to be written",
            )?,
            leases_active: IntGauge::new("sublet_leases_active", "Leases that run")?,
            partitions: IntGaugeVec::new(Opts::new("sublet_partitions", "Partitions by state"), &["state"])?,
            hosts_heard: IntGauge::new("sublet_hosts_heard", "Hosts that were heard of lately")?,
            event_readers: IntGauge::new("sublet_event_readers", "Streams of events that are open")?,
            ledger: IntGaugeVec::new(
                Opts::new(
                    "sublet_ledger_micros",
                    "What all entries of the ledger add up to; all sides of a currency together are nothing",
                ),
                &["currency", "side"],
            )?,
            held: IntGaugeVec::new(
                Opts::new("sublet_ledger_held_micros", "What all leases that run could cost at most"),
                &["currency"],
            )?,
            registry,
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        let counters =
            [&self.leases_made, &self.leases_ended, &self.keys_issued, &self.commits, &self.transactions];
        for counter in counters {
            self.registry.register(Box::new(counter.clone()))?;
        }
        let gauges =
            [&self.transactions_waiting, &self.leases_active, &self.hosts_heard, &self.event_readers];
        for gauge in gauges {
            self.registry.register(Box::new(gauge.clone()))?;
        }
        self.registry.register(Box::new(self.committing_seconds.clone()))?;
        for gauges in [&self.partitions, &self.ledger, &self.held] {
            self.registry.register(Box::new(gauges.clone()))?;
        }
        Ok(())
    }

    /// Takes over what the database has counted by itself.
    fn database(&self, metered: Metered) {
        self.commits.inc_by(metered.commits.saturating_sub(self.commits.get()));
        self.transactions.inc_by(metered.use_cases.saturating_sub(self.transactions.get()));
        let spent = metered.committing.as_secs_f64() - self.committing_seconds.get();
        self.committing_seconds.inc_by(spent.max(0.0));
        self.transactions_waiting.set(gauge(metered.waiting));
    }

    /// What the ledger holds.
    fn ledger(&self, sum: &LedgerSum) {
        let (currency, legs) = (sum.currency.to_string(), sum.legs);
        let sides = [
            ("borrowers", legs.borrower),
            ("lenders", legs.lender),
            ("fees", legs.fees),
            ("outside", legs.outside),
        ];
        for (side, micros) in sides {
            self.ledger.with_label_values(&[currency.as_str(), side]).set(micros.0);
        }
        self.held.with_label_values(&[currency.as_str()]).set(sum.held.0);
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Registry {
    /// All metrics as text.
    pub(super) async fn metrics_text(&self) -> Result<String, Problem> {
        let metrics = &self.metrics;
        metrics.database(self.db.metered());
        let active = i64::try_from(self.db.active_leases().await?).unwrap_or(i64::MAX);
        metrics.leases_active.set(active);
        // A live lease has a partition of its own (law 1), and a lent partition a live lease.
        metrics.partitions.with_label_values(&["lent"]).set(active);
        metrics.partitions.with_label_values(&["free"]).set(gauge(self.market.free_count()));
        self.db.ledger_sums().await?.iter().for_each(|sum| metrics.ledger(sum));
        metrics.event_readers.set(gauge(self.event_readers.load(Ordering::Relaxed)));
        metrics.hosts_heard.set(gauge(self.market.hosts().at(Instant::now()).count()));
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&metrics.registry.gather(), &mut text)
            .map_err(|error| Problem::internal(&error))?;
        String::from_utf8(text).map_err(|error| Problem::internal(&error))
    }
}
