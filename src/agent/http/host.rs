//! The host as a whole.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};

use super::{
    Agent,
    auth::{Owner, Visitor},
};
use crate::{
    agent::registry_link::LinkError,
    api::{
        agent::{Capacity, HostView, TopologyView},
        problem::{Code, Problem},
    },
    client::ClientError,
    inventory::topology::Node,
};

/// Has the registry give the host another token in place of the one that it goes by.
#[utoipa::path(
    post, path = "/v1/host/token/rotate", tag = "host", security(("owner_token" = [])),
    responses(
        (status = 204, description = "The host goes by another token, and the old one is good for nothing"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn rotate_token(State(agent): State<Arc<Agent>>, _: Owner) -> Result<StatusCode, Problem> {
    let services = &agent.services;
    let registry = services.registry.as_ref();
    let registry = registry.ok_or_else(|| Problem::new(Code::NoRegistry, "there is no token to change"))?;
    registry.rotate_token(&services.config.state_directory).await?;
    tracing::info!("the host goes by another token");
    Ok(StatusCode::NO_CONTENT)
}

impl From<LinkError> for Problem {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Client(ClientError::Refused(problem)) => *problem,
            LinkError::Client(error) => Self::new(Code::RegistryUnreachable, error.to_string()),
            error => Self::internal(&error),
        }
    }
}

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
    let topology = &services.inventory.topology;
    Ok(Json(HostView {
        host: services.identity.host(),
        cpu_model: services.inventory.cpu_model.clone(),
        topology: TopologyView {
            sockets: topology.socket_count(),
            cores: topology.cores.len(),
            numa_nodes: topology.nodes.len(),
            huge_pages_mib: topology.nodes.iter().map(Node::huge_mib).sum(),
            performance: services.lendable_performance(),
        },
        total,
        reserve: Capacity { cpus: reserve.cpus, memory_mib: reserve.memory_mib, disk_mib: reserve.disk_mib },
        owner_has: agent.partitions.reserve().await?,
        free,
        os_images: services.images.list(),
        registry: services.config.registry.as_ref().map(|registry| registry.url.clone()),
        tls_key: services.tls_key,
        issuer: services.identity.own_issuer(),
    }))
}
