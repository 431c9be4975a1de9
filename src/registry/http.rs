//! The registry's routes, their description, and the process that serves them.

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

use super::{
    Registry, RegistryError, Settings, bills, borrow, enroll, events, keys, lists, payments, receipts, terms,
    tokens,
};
use crate::api::{
    http::{Listen, ServedAt, Shutdown, around},
    problem::Problem,
};

/// Longest body of a request.
const BODY_MAX_BYTES: usize = 64 * 1024;

#[derive(OpenApi)]
#[openapi(info(
    title = "Sublet registry",
    description = "Matches borrowers with offers, lends, and bills.",
    license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
))]
struct About;

/// Serves until `shutdown`; `listening` is told the address that was bound. Certificates and keys are read again at SIGHUP.
pub async fn run(
    settings: Settings,
    listen: Listen,
    shutdown: Shutdown,
    listening: impl FnOnce(ServedAt),
) -> Result<(), RegistryError> {
    let door = listen.open().await?;
    let registry = Registry::start(settings, shutdown.clone()).await?;
    listening(door.at());
    Ok(door.serve(router(registry), shutdown).await?)
}

/// The OpenAPI description, as `GET /openapi.json` answers it.
pub fn description() -> Description {
    let mut description = routes().into_openapi();
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    description.components.get_or_insert_default().add_security_scheme("token", bearer);
    description
}

fn routes() -> OpenApiRouter<Arc<Registry>> {
    OpenApiRouter::with_openapi(About::openapi())
        .routes(routes!(enroll::enrol_host, lists::hosts))
        .routes(routes!(lists::host))
        .routes(routes!(enroll::change_contact))
        .routes(routes!(enroll::heartbeat))
        .routes(routes!(terms::offer_partition, terms::change_partition, terms::withdraw_partition))
        .routes(routes!(borrow::search))
        .routes(routes!(borrow::quote))
        .routes(routes!(borrow::make_lease, lists::leases))
        .routes(routes!(lists::lease))
        .routes(routes!(borrow::end_lease))
        .routes(routes!(keys::revoke_key_of_lease))
        .routes(routes!(keys::revoke_key))
        .routes(routes!(tokens::make_token, tokens::tokens))
        .routes(routes!(tokens::rotate_token))
        .routes(routes!(tokens::revoke_token))
        .routes(routes!(borrow::renew_lease))
        .routes(routes!(borrow::recall_lease))
        .routes(routes!(receipts::keep_segment))
        .routes(routes!(receipts::receipt))
        .routes(routes!(bills::ledger))
        .routes(routes!(events::events))
        .routes(routes!(bills::balances))
        .routes(routes!(bills::statement))
        .routes(routes!(payments::deposit))
        .routes(routes!(payments::payout))
        .routes(routes!(payments::credit))
        .routes(routes!(payments::set_credit_limit))
        .routes(routes!(payments::acts))
        .routes(routes!(openapi))
        .routes(routes!(metrics))
        .routes(routes!(healthz))
}

pub(crate) fn router(registry: Arc<Registry>) -> Router {
    let metrics = registry.metrics.requests.clone();
    around(Router::from(routes().with_state(registry)), BODY_MAX_BYTES, metrics)
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
async fn metrics(
    State(registry): State<Arc<Registry>>,
) -> Result<([(header::HeaderName, &'static str); 1], String), Problem> {
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], registry.metrics_text().await?))
}

/// Whether the registry serves: its database can be read.
#[utoipa::path(
    get, path = "/healthz", tag = "server",
    responses(
        (status = 200, description = "It serves", body = String, content_type = "text/plain"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn healthz(State(registry): State<Arc<Registry>>) -> Result<&'static str, Problem> {
    registry.db.active_leases().await?;
    Ok("ok\n")
}
