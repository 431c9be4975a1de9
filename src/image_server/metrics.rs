//! What the image server counts, for Prometheus.

use prometheus::{Encoder as _, IntCounter, IntGauge, TextEncoder};

use super::ImageServer;
use crate::api::{http::RequestMetrics, problem::Problem};

pub(super) struct Metrics {
    registry: prometheus::Registry,
    pub(super) requests: RequestMetrics,
    pub(super) sent: IntCounter,
    pub(super) streams: IntGauge,
}

impl Metrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = prometheus::Registry::new();
        let sent = IntCounter::new("sublet_images_sent_bytes_total", "Bytes of blobs that were sent")?;
        let streams = IntGauge::new("sublet_images_streams", "Blobs that are being sent")?;
        registry.register(Box::new(sent.clone()))?;
        registry.register(Box::new(streams.clone()))?;
        Ok(Self { requests: RequestMetrics::register(&registry)?, registry, sent, streams })
    }
}

impl ImageServer {
    /// All metrics as text.
    pub(super) fn metrics_text(&self) -> Result<String, Problem> {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.metrics.registry.gather(), &mut text)
            .map_err(|error| Problem::internal(&error))?;
        String::from_utf8(text).map_err(|error| Problem::internal(&error))
    }
}
