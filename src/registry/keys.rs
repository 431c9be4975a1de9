//! Lending keys that are taken back while their leases run.

use std::sync::Arc;

use axum::{Json, extract::State};
use uuid::Uuid;

use super::{
    Registry,
    accounts::{OnlyAdministrator, OnlyBorrower},
    resource_db::RevokeError,
};
use crate::{
    api::{
        http::PathIds,
        problem::{Code, Problem},
        registry::{Lease, LeaseGranted},
    },
    domain::id::{KeyId, LeaseId},
};

/// Revokes the key of the borrower's lease, and all copies of it, and answers with another. The host hears of it with its
/// next heartbeat's answer, and refuses the old one from then on.
#[utoipa::path(
    post, path = "/v1/leases/{lease}/key/revoke", tag = "leases", params(("lease" = LeaseId, Path)),
    security(("token" = [])),
    responses(
        (status = 200, description = "The lease, and its new key", body = LeaseGranted),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn revoke_key_of_lease(
    State(registry): State<Arc<Registry>>,
    PathIds(lease): PathIds<LeaseId>,
    OnlyBorrower(borrower): OnlyBorrower,
) -> Result<Json<LeaseGranted>, Problem> {
    let lease = registry.db.revoke_key_of(borrower, lease, KeyId(Uuid::now_v7())).await?;
    Ok(Json(registry.issuer.grant(lease)?))
}

/// Revokes a key, whosever it is. Its borrower gets another when it asks for the same lease again, or revokes in its turn.
#[utoipa::path(
    post, path = "/v1/keys/{key}/revoke", tag = "leases", params(("key" = KeyId, Path)),
    security(("token" = [])),
    responses(
        (status = 200, description = "The lease, with the name of its next key", body = Lease),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn revoke_key(
    State(registry): State<Arc<Registry>>,
    PathIds(key): PathIds<KeyId>,
    _: OnlyAdministrator,
) -> Result<Json<Lease>, Problem> {
    Ok(Json(registry.db.revoke_key(key, KeyId(Uuid::now_v7())).await?))
}

impl From<RevokeError> for Problem {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::NoSuchLease => Self::new(Code::NotFound, error.to_string()),
            RevokeError::Ended(_) => Self::new(Code::LeaseEnded, error.to_string()),
            RevokeError::Store(error) => error.into(),
        }
    }
}
