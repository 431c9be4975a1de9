//! The host as a whole.

use std::sync::Arc;

use axum::{Json, extract::State};

use super::{Agent, auth::Visitor};
use crate::api::{
    agent::{Capacity, HostView},
    problem::Problem,
};

/// What the host has, what of it is free, and which OS images it can start.
#[utoipa::path(
    get, path = "/v1/host", tag = "host", security(("owner_token" = []), ("lending_key" = [])),
    responses(
        (status = 200, description = "The host", body = HostView),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn host(State(agent): State<Arc<Agent>>, _: Visitor) -> Result<Json<HostView>, Problem> {
    let services = &agent.services;
    let (total, free) = agent.partitions.capacity()?;
    let reserve = services.config.reserve;
    Ok(Json(HostView {
        host: services.identity.host(),
        cpu_model: services.inventory.cpu_model.clone(),
        total,
        reserve: Capacity { cpus: reserve.cpus, memory_mib: reserve.memory_mib, disk_mib: reserve.disk_mib },
        free,
        os_images: services.images.list(),
        registry: services.config.registry.as_ref().map(|registry| registry.url.clone()),
        tls_key: services.tls_key,
        issuer: services.identity.own_issuer(),
    }))
}
