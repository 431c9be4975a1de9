//! Receipts: hosts hand them over segment by segment, as they come; borrowers and lenders read them, long after their leases.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};

use super::{
    Registry,
    accounts::{Anybody, OnlyHost},
    lists::no_such_lease,
    resource_db::SegmentError,
};
use crate::{
    api::{
        http::{JsonBody, PathIds, chain},
        problem::{Code, Problem},
    },
    domain::{
        id::LeaseId,
        receipt::chain::{Receipt, SignedSegment},
    },
};

/// Keeps the next segment of the receipt of a lease of the host's. With the last one, which comes after the lease's end, the
/// borrower is credited what was not delivered, by the rule of the lease.
#[utoipa::path(
    put, path = "/v1/leases/{lease}/receipt/{number}", tag = "leases", request_body = SignedSegment,
    params(("lease" = LeaseId, Path), ("number" = u32, Path, description = "The segment's place, from 0 on")),
    security(("token" = [])),
    responses(
        (status = 204, description = "It is kept; so it is where it was kept before"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn keep_segment(
    State(registry): State<Arc<Registry>>,
    PathIds((lease, number)): PathIds<(LeaseId, u32)>,
    token: OnlyHost,
    JsonBody(segment): JsonBody<SignedSegment>,
) -> Result<StatusCode, Problem> {
    registry.db.keep_segment(token.id(), lease, number, segment).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A lease's receipt, as far as its host has handed it over. Check it with the key that the lease names.
#[utoipa::path(
    get, path = "/v1/leases/{lease}/receipt", tag = "leases", params(("lease" = LeaseId, Path)),
    security(("token" = [])),
    responses(
        (status = 200, description = "The receipt", body = Receipt),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn receipt(
    State(registry): State<Arc<Registry>>,
    PathIds(lease): PathIds<LeaseId>,
    Anybody(asker): Anybody,
) -> Result<Json<Receipt>, Problem> {
    registry.db.receipt(asker, lease).await?.map(Json).ok_or_else(no_such_lease)
}

impl From<SegmentError> for Problem {
    fn from(error: SegmentError) -> Self {
        let code = match error {
            SegmentError::NoSuchLease => return no_such_lease(),
            SegmentError::Store(error) => return error.into(),
            SegmentError::Book(_) => return Self::internal(&error),
            SegmentError::StillRuns => Code::LeaseRuns,
            SegmentError::NoReceipts | SegmentError::Other(_) | SegmentError::Bad(_) => Code::ReceiptRefused,
        };
        Self::new(code, chain(&error))
    }
}
