//! Borrowers: search (S41-S44), the lease (S45-S48), its end (S58-S61).

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode},
};
use uuid::Uuid;

use super::{
    Registry,
    accounts::{Anybody, OnlyBorrower},
    resource_db::{EndError, Reserve, ReserveError, Reserved},
    search_index::Place,
};
use crate::{
    api::{
        http::{JsonBody, PathIds, header_text},
        problem::{Code, Problem},
        registry::{EndLease, Lease, LeaseGranted, MakeLease, Search, SearchReply},
    },
    domain::{
        id::{BorrowerId, LeaseId},
        lease::DURATION_MAX_SECONDS,
        money::Rounding,
        registration::RegistrationNotAllowed,
    },
};

const SEARCH_LIMIT: u32 = 20;
const SEARCH_LIMIT_MAX: u32 = 1000;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_KEY_MAX: usize = 128;

/// Finds free partitions that meet the conditions: cheapest first, then least waste.
#[utoipa::path(
    post, path = "/v1/search", tag = "leases", request_body = Search, security(("token" = [])),
    responses(
        (status = 200, description = "Offers; where none matches, why", body = SearchReply),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn search(
    State(registry): State<Arc<Registry>>,
    _: Anybody,
    JsonBody(search): JsonBody<Search>,
) -> Result<Json<SearchReply>, Problem> {
    let limit = search.limit.unwrap_or(SEARCH_LIMIT);
    if !(1..=SEARCH_LIMIT_MAX).contains(&limit) {
        let detail = format!("limit: 1 to {SEARCH_LIMIT_MAX}, not {limit}");
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    let after = search.cursor.as_deref().map(Place::from_cursor).transpose();
    let after = after.map_err(|error| Problem::new(Code::InvalidRequest, error.to_string()))?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let found = registry.market.search(&search.conditions, after, limit);
    let none = found.offers.is_empty() && after.is_none();
    let explanation = none.then(|| registry.market.explain(&search.conditions));
    let next_cursor = found.next.map(Place::to_cursor);
    Ok(Json(SearchReply { offers: found.offers, next_cursor, explanation }))
}

/// Accepts the very terms that were shown; from now on the partition is the borrower's, and billed.
#[utoipa::path(
    post, path = "/v1/leases", tag = "leases", request_body = MakeLease, security(("token" = [])),
    params(("idempotency-key" = Option<String>, Header, description = "Asked again with it, the same lease is the answer")),
    responses(
        (status = 201, description = "The lease, and the key to its partition", body = LeaseGranted),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn make_lease(
    State(registry): State<Arc<Registry>>,
    OnlyBorrower(borrower): OnlyBorrower,
    headers: HeaderMap,
    JsonBody(wish): JsonBody<MakeLease>,
) -> Result<(StatusCode, Json<LeaseGranted>), Problem> {
    if !(1..=DURATION_MAX_SECONDS).contains(&wish.duration_seconds) {
        let detail = format!("duration_seconds: 1 to {DURATION_MAX_SECONDS}, not {}", wish.duration_seconds);
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    let reserve = Reserve {
        lease: LeaseId(Uuid::now_v7()),
        borrower,
        host_is_heard: registry.market.is_heard(wish.host),
        idempotency_key: idempotency_key(&headers)?,
        rounding: Rounding::BegunSecond,
        fee_rate: registry.settings.fee_rate,
        wish,
    };
    let (Reserved::Now(lease) | Reserved::Before(lease)) = registry.db.reserve(reserve).await?;
    let Lease { id, host, partition, borrower, expires_at, .. } = &lease;
    tracing::info!(lease = %id, %host, %partition, %borrower, %expires_at, "lease granted");
    registry.metrics.keys_issued.inc();
    Ok((StatusCode::CREATED, Json(registry.issuer.grant(lease)?)))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    if !headers.contains_key(IDEMPOTENCY_KEY) {
        return Ok(None);
    }
    let text = header_text(headers, &IDEMPOTENCY_KEY).unwrap_or_default();
    if (1..=IDEMPOTENCY_KEY_MAX).contains(&text.len()) {
        return Ok(Some(text.to_owned()));
    }
    let detail = format!("Idempotency-Key: 1 to {IDEMPOTENCY_KEY_MAX} characters of ASCII");
    Err(Problem::new(Code::MalformedRequest, detail))
}

/// Ends a lease, found by borrower, host, partition and key together. Ended again, it is as it ended.
#[utoipa::path(
    post, path = "/v1/leases/{lease}/end", tag = "leases", request_body = EndLease,
    params(("lease" = LeaseId, Path)), security(("token" = [])),
    responses(
        (status = 200, description = "The lease, with its end and charge", body = Lease),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn end_lease(
    State(registry): State<Arc<Registry>>,
    PathIds(lease): PathIds<LeaseId>,
    OnlyBorrower(borrower): OnlyBorrower,
    JsonBody(end): JsonBody<EndLease>,
) -> Result<Json<Lease>, Problem> {
    let received_at = registry.clock.now();
    let found = registry.lease_of(borrower, lease).await?;
    if (found.host, found.partition) != (end.host, end.partition) {
        return Err(no_such_lease());
    }
    registry.issuer.check(&end.key, &found)?;
    Ok(Json(registry.db.end_lease(lease, borrower, received_at).await?))
}

/// One of the borrower's leases.
#[utoipa::path(
    get, path = "/v1/leases/{lease}", tag = "leases", params(("lease" = LeaseId, Path)), security(("token" = [])),
    responses(
        (status = 200, description = "The lease", body = Lease),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn lease(
    State(registry): State<Arc<Registry>>,
    PathIds(lease): PathIds<LeaseId>,
    OnlyBorrower(borrower): OnlyBorrower,
) -> Result<Json<Lease>, Problem> {
    registry.lease_of(borrower, lease).await.map(Json)
}

impl Registry {
    async fn lease_of(&self, borrower: BorrowerId, lease: LeaseId) -> Result<Lease, Problem> {
        self.db.lease(borrower, lease).await?.ok_or_else(no_such_lease)
    }
}

/// The same answer for a lease of somebody else and for one that never was.
fn no_such_lease() -> Problem {
    Problem::new(Code::NotFound, "this borrower has no such lease of this partition")
}

impl From<ReserveError> for Problem {
    fn from(error: ReserveError) -> Self {
        let code = match error {
            ReserveError::NoSuchPartition { .. } => Code::NotFound,
            ReserveError::HostSilent(_) => Code::HostSilent,
            ReserveError::IdempotencyKeyReused => Code::IdempotencyKeyReused,
            ReserveError::Duration(_) => Code::InvalidRequest,
            ReserveError::Store(error) => return error.into(),
            ReserveError::NotAllowed(ref refusal) => match refusal {
                RegistrationNotAllowed::Lent | RegistrationNotAllowed::AwaitingClean => Code::AlreadyLent,
                RegistrationNotAllowed::Withdrawn => Code::NotFound,
                RegistrationNotAllowed::OtherVersion { .. } => Code::TermsChanged,
                RegistrationNotAllowed::NotLentBy(_) | RegistrationNotAllowed::StillLent(_) => {
                    return Self::internal(&error);
                }
            },
        };
        Self::new(code, error.to_string())
    }
}

impl From<EndError> for Problem {
    fn from(error: EndError) -> Self {
        match error {
            EndError::NoSuchLease => no_such_lease(),
            EndError::Store(error) => error.into(),
        }
    }
}
