//! The agent's routes and their description.

mod auth;
mod host;
mod jobs;
mod leases;
mod metrics;
mod owner;
mod problems;
mod receipt;
mod streams;
mod tunnel;
mod view;

use std::sync::Arc;

use axum::{Json, Router, extract::State, http::header};
use utoipa::{
    OpenApi,
    openapi::{
        OpenApi as Description,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::metrics::Metrics;
use super::{partition::partitions::Partitions, services::Services};
use crate::api::{
    http::{Shutdown, around},
    problem::Problem,
};

/// Longest body of a request: a job with all the standard input it can have.
const BODY_MAX_BYTES: usize = 2 * 1024 * 1024;

#[derive(OpenApi)]
#[openapi(info(
    title = "Sublet agent",
    description = "A lender host: its partitions, and the guests and jobs in them.",
    license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
))]
struct About;

/// What the handlers use.
pub struct Agent {
    services: Arc<Services>,
    partitions: Arc<Partitions>,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl Agent {
    pub fn new(
        services: Arc<Services>,
        partitions: Arc<Partitions>,
        shutdown: Shutdown,
    ) -> Result<Arc<Self>, prometheus::Error> {
        Ok(Arc::new(Self { services, partitions, metrics: Metrics::new()?, shutdown }))
    }
}

/// The OpenAPI description, as `GET /openapi.json` answers it.
pub fn description() -> Description {
    let mut description = routes().into_openapi();
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let components = description.components.get_or_insert_default();
    components.add_security_scheme("owner_token", bearer.clone());
    components.add_security_scheme("lending_key", bearer);
    description
}

fn routes() -> OpenApiRouter<Arc<Agent>> {
    OpenApiRouter::with_openapi(About::openapi())
        .routes(routes!(host::host))
        .routes(routes!(host::rotate_token))
        .routes(routes!(owner::partitions, owner::carve))
        .routes(routes!(owner::partition, owner::change, owner::release))
        .routes(routes!(owner::offer))
        .routes(routes!(owner::withdraw))
        .routes(routes!(owner::issue_key))
        .routes(routes!(receipt::receipt))
        .routes(routes!(leases::borrow))
        .routes(routes!(leases::stop))
        .routes(routes!(leases::give_back))
        .routes(routes!(jobs::run, jobs::list))
        .routes(routes!(jobs::job))
        .routes(routes!(jobs::cancel))
        .routes(routes!(streams::logs))
        .routes(routes!(streams::console))
        .routes(routes!(tunnel::tunnel))
        .routes(routes!(openapi))
        .routes(routes!(metrics_text))
        .routes(routes!(healthz))
}

pub fn router(agent: Arc<Agent>) -> Router {
    let metrics = agent.metrics.requests.clone();
    around(Router::from(routes().with_state(agent)), BODY_MAX_BYTES, metrics)
}

/// This description.
#[utoipa::path(
    get, path = "/openapi.json", tag = "server",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)),
)]
async fn openapi() -> Json<Description> {
    Json(description())
}

/// Metrics for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "server",
    responses(
        (status = 200, description = "Metrics", body = String, content_type = "text/plain; version=0.0.4"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn metrics_text(
    State(agent): State<Arc<Agent>>,
) -> Result<([(header::HeaderName, &'static str); 1], String), Problem> {
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], agent.metrics_text()?))
}

/// Whether the agent serves: its partition table can be read.
#[utoipa::path(
    get, path = "/healthz", tag = "server",
    responses(
        (status = 200, description = "It serves", body = String, content_type = "text/plain"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn healthz(State(agent): State<Arc<Agent>>) -> Result<&'static str, Problem> {
    agent.services.table.reports().await?;
    Ok("ok\n")
}
