//! What the registry counts, for Prometheus.

use std::time::Instant;

use prometheus::{Encoder as _, IntCounter, IntGauge, TextEncoder};

use super::Registry;
use crate::api::{http::RequestMetrics, problem::Problem};

#[derive(Clone)]
pub(super) struct Metrics {
    registry: prometheus::Registry,
    pub(super) requests: RequestMetrics,
    pub(super) leases_made: IntCounter,
    pub(super) leases_ended: IntCounter,
    leases_active: IntGauge,
    partitions_free: IntGauge,
    hosts_heard: IntGauge,
}

impl Metrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = prometheus::Registry::new();
        let metrics = Self {
            requests: RequestMetrics::register(&registry)?,
            leases_made: IntCounter::new("sublet_leases_made_total", "Leases made since the start")?,
            leases_ended: IntCounter::new("sublet_leases_ended_total", "Leases ended since the start")?,
            leases_active: IntGauge::new("sublet_leases_active", "Leases that run")?,
            partitions_free: IntGauge::new("sublet_partitions_free", "Free partitions")?,
            hosts_heard: IntGauge::new("sublet_hosts_heard", "Hosts that were heard of lately")?,
            registry,
        };
        metrics.registry.register(Box::new(metrics.leases_made.clone()))?;
        metrics.registry.register(Box::new(metrics.leases_ended.clone()))?;
        for gauge in [&metrics.leases_active, &metrics.partitions_free, &metrics.hosts_heard] {
            metrics.registry.register(Box::new(gauge.clone()))?;
        }
        Ok(metrics)
    }
}

impl Registry {
    /// All metrics as text.
    pub(super) async fn metrics_text(&self) -> Result<String, Problem> {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let metrics = &self.metrics;
        metrics.leases_active.set(i64::try_from(self.db.active_leases().await?).unwrap_or(i64::MAX));
        metrics.partitions_free.set(gauge(self.market.free_count()));
        metrics.hosts_heard.set(gauge(self.market.hosts().at(Instant::now()).count()));
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&metrics.registry.gather(), &mut text)
            .map_err(|error| Problem::internal(&error))?;
        String::from_utf8(text).map_err(|error| Problem::internal(&error))
    }
}
