//! What the host's owner does with partitions.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    Agent,
    auth::{Owned, Owner, Seen, Visitor},
    view::{is_seen, partition_view},
};
use crate::{
    agent::partition::{driver::Command, table::RequestMark},
    api::{
        agent::{CarvePartition, ChangePartition, IssueKey, KeyIssued, PartitionView, Partitions},
        http::{JsonBody, header_text},
        problem::{Code, Problem},
    },
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_KEY_MAX: usize = 128;

/// The mark of a request that may be repeated, where it has one.
pub(super) fn mark(headers: &HeaderMap, body: &impl Serialize) -> Result<Option<RequestMark>, Problem> {
    if !headers.contains_key(IDEMPOTENCY_KEY) {
        return Ok(None);
    }
    let key = header_text(headers, &IDEMPOTENCY_KEY).unwrap_or_default();
    if !(1..=IDEMPOTENCY_KEY_MAX).contains(&key.len()) {
        let detail = format!("Idempotency-Key: 1 to {IDEMPOTENCY_KEY_MAX} characters of ASCII");
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    let body = serde_json::to_vec(body).map_err(|error| Problem::internal(&error))?;
    Ok(Some(RequestMark { key: key.to_owned(), digest: Sha256::digest(body).into() }))
}

/// The partitions: all of them for the owner; for a borrower those on offer, and its own.
#[utoipa::path(
    get, path = "/v1/partitions", tag = "partitions", security(("owner_token" = []), ("lending_key" = [])),
    responses(
        (status = 200, description = "The partitions", body = Partitions),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn partitions(State(agent): State<Arc<Agent>>, by: Visitor) -> Json<Partitions> {
    let rows = agent.partitions.all().into_iter().map(|handle| handle.row());
    let seen = rows.filter(|row| is_seen(row, &by));
    Json(Partitions { partitions: seen.map(|row| partition_view(row, &by)).collect() })
}

/// Sets resources aside for a new partition.
#[utoipa::path(
    post, path = "/v1/partitions", tag = "partitions", request_body = CarvePartition,
    security(("owner_token" = [])),
    params(("idempotency-key" = Option<String>, Header, description = "Asked again with it, the same partition is the answer")),
    responses(
        (status = 201, description = "The partition, not on offer yet", body = PartitionView),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn carve(
    State(agent): State<Arc<Agent>>,
    _: Owner,
    headers: HeaderMap,
    JsonBody(wanted): JsonBody<CarvePartition>,
) -> Result<(StatusCode, Json<PartitionView>), Problem> {
    let mark = mark(&headers, &wanted)?;
    let row = agent.partitions.carve(wanted, mark, None).await?;
    Ok((StatusCode::CREATED, Json(partition_view(row, &Visitor::Owner))))
}

/// One partition.
#[utoipa::path(
    get, path = "/v1/partitions/{id}", tag = "partitions", security(("owner_token" = []), ("lending_key" = [])),
    params(("id" = String, Path, format = "uuid")),
    responses(
        (status = 200, description = "The partition", body = PartitionView),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn partition(Seen { handle, by }: Seen) -> Json<PartitionView> {
    Json(partition_view(handle.row(), &by))
}

/// Changes allocation or price; of a partition on offer at the registry first.
#[utoipa::path(
    patch, path = "/v1/partitions/{id}", tag = "partitions", request_body = ChangePartition,
    security(("owner_token" = [])), params(("id" = String, Path, format = "uuid")),
    responses(
        (status = 200, description = "The partition", body = PartitionView),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn change(
    State(agent): State<Arc<Agent>>,
    Owned(handle): Owned,
    JsonBody(wanted): JsonBody<ChangePartition>,
) -> Result<Json<PartitionView>, Problem> {
    let row = agent.partitions.change(&handle, &wanted).await?;
    Ok(Json(partition_view(row, &Visitor::Owner)))
}

/// Gives a partition's resources back to the owner.
#[utoipa::path(
    delete, path = "/v1/partitions/{id}", tag = "partitions", security(("owner_token" = [])),
    params(("id" = String, Path, format = "uuid")),
    responses(
        (status = 204, description = "It is no more"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn release(Owned(handle): Owned) -> Result<StatusCode, Problem> {
    handle.ask(Command::Release).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Offers a partition at the registry; without one, directly. From now on it is locked.
#[utoipa::path(
    post, path = "/v1/partitions/{id}/offer", tag = "partitions", security(("owner_token" = [])),
    params(("id" = String, Path, format = "uuid")),
    responses(
        (status = 200, description = "The partition, on offer", body = PartitionView),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn offer(Owned(handle): Owned) -> Result<Json<PartitionView>, Problem> {
    let row = handle.ask(Command::Offer).await?;
    Ok(Json(partition_view(row, &Visitor::Owner)))
}

/// Takes a partition that is not lent off the market.
#[utoipa::path(
    post, path = "/v1/partitions/{id}/withdraw", tag = "partitions", security(("owner_token" = [])),
    params(("id" = String, Path, format = "uuid")),
    responses(
        (status = 200, description = "The partition, withdrawn", body = PartitionView),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn withdraw(Owned(handle): Owned) -> Result<Json<PartitionView>, Problem> {
    let row = handle.ask(Command::Withdraw).await?;
    Ok(Json(partition_view(row, &Visitor::Owner)))
}

/// Issues a key of the host's own, for direct lending. Keys of it that were not used yet become void.
#[utoipa::path(
    post, path = "/v1/partitions/{id}/keys", tag = "partitions", request_body = IssueKey,
    security(("owner_token" = [])), params(("id" = String, Path, format = "uuid")),
    responses(
        (status = 201, description = "The key; shown once", body = KeyIssued),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn issue_key(
    Owned(handle): Owned,
    JsonBody(wanted): JsonBody<IssueKey>,
) -> Result<(StatusCode, Json<KeyIssued>), Problem> {
    let issued = handle.ask(|reply| Command::IssueKey(wanted, reply)).await?;
    Ok((StatusCode::CREATED, Json(issued)))
}
