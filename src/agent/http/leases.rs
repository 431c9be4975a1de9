//! What a borrower does with its partition as a whole.

use axum::Json;

use super::{auth::Borrowed, view::own_view};
use crate::{
    agent::partition::driver::Command,
    api::{
        agent::{BorrowPartition, PartitionView},
        http::JsonBody,
        problem::Problem,
    },
};

/// Opens the partition with its key; once this answers, it waits for jobs (fig. 5).
#[utoipa::path(
    post, path = "/v1/partitions/{id}/borrow", tag = "leases", request_body = BorrowPartition,
    security(("lending_key" = [])), params(("id" = String, Path, format = "uuid")),
    responses(
        (status = 200, description = "The partition, the borrower's until its lease ends", body = PartitionView),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn borrow(
    Borrowed { handle, claims, .. }: Borrowed,
    JsonBody(stated): JsonBody<BorrowPartition>,
) -> Result<Json<PartitionView>, Problem> {
    let row = handle.ask(|reply| Command::Borrow(claims.clone(), stated, reply)).await?;
    tracing::info!(lease = %claims.lease, partition = %claims.partition, "partition opened");
    Ok(Json(own_view(row, claims)))
}

/// Stops the guest: by its power button, and where it does not heed it, at once. The lease goes on.
#[utoipa::path(
    post, path = "/v1/partitions/{id}/stop", tag = "leases", security(("lending_key" = [])),
    params(("id" = String, Path, format = "uuid")),
    responses(
        (status = 200, description = "The partition, its guest stopped", body = PartitionView),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn stop(Borrowed { handle, claims, .. }: Borrowed) -> Result<Json<PartitionView>, Problem> {
    let row = handle.ask(|reply| Command::Stop(claims.clone(), reply)).await?;
    Ok(Json(own_view(row, claims)))
}

/// Ends the lease at the host: the guest is stopped and everything of the lease erased.
#[utoipa::path(
    post, path = "/v1/partitions/{id}/return", tag = "leases", security(("lending_key" = [])),
    params(("id" = String, Path, format = "uuid")),
    responses(
        (status = 200, description = "The partition, being cleaned", body = PartitionView),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn give_back(
    Borrowed { handle, claims, .. }: Borrowed,
) -> Result<Json<PartitionView>, Problem> {
    let row = handle.ask(|reply| Command::Return(claims.clone(), reply)).await?;
    Ok(Json(own_view(row, claims)))
}
