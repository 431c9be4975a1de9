//! What the agent counts, for Prometheus.

use prometheus::{Encoder as _, IntGauge, IntGaugeVec, Opts, TextEncoder};

use super::{Agent, view::state_view};
use crate::api::{http::RequestMetrics, problem::Problem};

pub(super) struct Metrics {
    registry: prometheus::Registry,
    pub(super) requests: RequestMetrics,
    partitions: IntGaugeVec,
    guests: IntGauge,
    hung: IntGauge,
    undone: IntGauge,
    free_cpus: IntGauge,
    free_memory: IntGauge,
    free_disk: IntGauge,
}

const MIB: i64 = 1 << 20;

impl Metrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = prometheus::Registry::new();
        let partitions = Opts::new("sublet_partitions", "Partitions by state");
        let metrics = Self {
            requests: RequestMetrics::register(&registry)?,
            partitions: IntGaugeVec::new(partitions, &["state"])?,
            guests: IntGauge::new("sublet_guests_running", "Guests that run")?,
            hung: IntGauge::new("sublet_guests_hung", "Guests that run and are not heard")?,
            undone: IntGauge::new(
                "sublet_partitions_unsettled",
                "Partitions with something still to be done",
            )?,
            free_cpus: IntGauge::new("sublet_free_cpus", "CPUs that can still be carved")?,
            free_memory: IntGauge::new("sublet_free_memory_bytes", "Memory that can still be carved")?,
            free_disk: IntGauge::new("sublet_free_disk_bytes", "Disk that can still be carved")?,
            registry,
        };
        metrics.registry.register(Box::new(metrics.partitions.clone()))?;
        let Self { guests, hung, undone, free_cpus, free_memory, free_disk, .. } = &metrics;
        for gauge in [guests, hung, undone, free_cpus, free_memory, free_disk] {
            metrics.registry.register(Box::new(gauge.clone()))?;
        }
        Ok(metrics)
    }
}

impl Agent {
    /// All metrics as text.
    pub(super) fn metrics_text(&self) -> Result<String, Problem> {
        self.observe()?;
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.metrics.registry.gather(), &mut text)
            .map_err(|error| Problem::internal(&error))?;
        String::from_utf8(text).map_err(|error| Problem::internal(&error))
    }

    fn observe(&self) -> Result<(), Problem> {
        let (metrics, (_, free)) = (&self.metrics, self.partitions.capacity()?);
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.free_cpus.set(free.cpus.into());
        metrics.free_memory.set(gauge(free.memory_mib).saturating_mul(MIB));
        metrics.free_disk.set(gauge(free.disk_mib).saturating_mul(MIB));
        metrics.partitions.reset();
        let (mut guests, mut hung, mut undone) = (0, 0, 0);
        for row in self.partitions.all().iter().map(|handle| handle.row()) {
            let state = format!("{:?}", state_view(&row)).to_lowercase();
            metrics.partitions.with_label_values(&[state]).inc();
            guests += i64::from(row.machine.boot().is_some());
            hung += i64::from(row.machine.boot().is_some_and(|boot| boot.hung.is_some()));
            undone += i64::from(!row.effects.is_empty());
        }
        metrics.guests.set(guests);
        metrics.hung.set(hung);
        metrics.undone.set(undone);
        Ok(())
    }
}
