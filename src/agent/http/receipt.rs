//! Receipts, as their borrower and the host's owner see them.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;

use super::{
    Agent,
    auth::{Seen, Visitor},
};
use crate::{
    api::{
        http::QueryParams,
        problem::{Code, Problem},
    },
    domain::{id::LeaseId, receipt::chain::Receipt},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    lease: Option<LeaseId>,
}

/// What the host states, signed, of what a lease has been given so far. For a lease that is over, ask the registry.
#[utoipa::path(
    get, path = "/v1/partitions/{id}/receipt", tag = "partitions",
    security(("owner_token" = []), ("lending_key" = [])),
    params(
        ("id" = String, Path, format = "uuid"),
        ("lease" = Option<LeaseId>, Query, description = "For the owner: of which lease; of the latest where not stated"),
    ),
    responses(
        (status = 200, description = "The receipt; check it with the key that the lease names", body = Receipt),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn receipt(
    State(agent): State<Arc<Agent>>,
    Seen { handle, by }: Seen,
    QueryParams(which): QueryParams<Which>,
) -> Result<Json<Receipt>, Problem> {
    let (partition, receipts) = (handle.row().id, &agent.services.receipts);
    let lease = match (by, which.lease) {
        (Visitor::Owner, Some(lease)) => Some(lease),
        (Visitor::Owner, None) => receipts.latest(partition).await?,
        (Visitor::Borrower(claims), asked) => {
            Some(claims.lease).filter(|own| asked.is_none_or(|asked| asked == *own))
        }
    };
    let none = || Problem::new(Code::NotFound, "this partition has no receipt of such a lease");
    let lease = lease.ok_or_else(none)?;
    handle.freeze.asked().await?;
    if !receipts.is_of(partition, lease).await? {
        return Err(none());
    }
    Ok(Json(receipts.receipt(partition, lease).await?))
}
