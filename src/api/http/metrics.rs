//! Rate, errors and duration of requests, for Prometheus.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

/// Upper bounds of the buckets of requests' times: from a search in memory to a long poll.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0];

/// Counts each route's answers by status, and how long they took in seconds.
#[derive(Debug, Clone)]
pub struct RequestMetrics {
    answered: IntCounterVec,
    seconds: HistogramVec,
}

impl RequestMetrics {
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let answered = IntCounterVec::new(
            Opts::new("sublet_http_requests_total", "Requests answered"),
            &["method", "path", "status"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new("sublet_http_request_seconds", "Time from request to answer's head")
                .buckets(SECONDS.into()),
            &["method", "path"],
        )?;
        registry.register(Box::new(answered.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self { answered, seconds })
    }
}

/// The path is that of the route, not of the request: what a stranger asks for makes no new series.
pub(super) async fn observe(State(metrics): State<RequestMetrics>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = method_label(&request);
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let path = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
    metrics.answered.with_label_values(&[method, path, response.status().as_str()]).inc();
    metrics.seconds.with_label_values(&[method, path]).observe(started.elapsed().as_secs_f64());
    response
}

fn method_label(request: &Request) -> &'static str {
    match request.method().as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}
