//! Borrowers: search (S41-S44), the lease (S45-S48), its end (S58-S61).

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use uuid::Uuid;

use super::{
    Registry,
    accounts::{Anybody, OnlyBorrower, OnlyLender},
    lists::no_such_lease,
    resource_db::{Conditions, EndError, HoldError, MoveEndError, Reserve, ReserveError, Reserved},
    search_index::Place,
};
use crate::{
    api::{
        http::{JsonBody, PathIds, idempotency_key},
        problem::{Code, Problem},
        registry::{
            AskQuote, EndLease, Lease, LeaseGranted, MakeLease, Quote, RenewLease, Search, SearchReply,
        },
    },
    domain::{
        id::{BorrowerId, LeaseId},
        lease::{DURATION_MAX_SECONDS, LeaseNotAllowed},
        money::Rounding,
        receipt::credit::CreditRule,
    },
};

const SEARCH_LIMIT: u32 = 20;
const SEARCH_LIMIT_MAX: u32 = 1000;

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

/// What a lease of this partition would cost at most, and when it would end. Nothing is reserved.
#[utoipa::path(
    post, path = "/v1/quotes", tag = "leases", request_body = AskQuote, security(("token" = [])),
    responses(
        (status = 200, description = "The quote; the version of its terms is what a lease accepts", body = Quote),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn quote(
    State(registry): State<Arc<Registry>>,
    _: Anybody,
    JsonBody(wish): JsonBody<AskQuote>,
) -> Result<Json<Quote>, Problem> {
    check_duration(wish.duration_seconds)?;
    if !registry.market.is_heard(wish.host) {
        return Err(ReserveError::HostSilent(wish.host).into());
    }
    Ok(Json(registry.db.quote(wish, registry.conditions()).await?))
}

/// Accepts the very terms that were shown; from now on the partition is the borrower's, and billed.
#[utoipa::path(
    post, path = "/v1/leases", tag = "leases", request_body = MakeLease, security(("token" = [])),
    params(("idempotency-key" = Option<String>, Header, description = "Asked again with it, the answer is the same lease, or the same refusal")),
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
    check_duration(wish.duration_seconds)?;
    let reserve = Reserve {
        lease: LeaseId(Uuid::now_v7()),
        borrower,
        host_is_heard: registry.market.is_heard(wish.host),
        idempotency_key: idempotency_key(&headers)?,
        conditions: registry.conditions(),
        wish,
    };
    let (Reserved::Now(lease) | Reserved::Before(lease)) = registry.db.reserve(reserve).await?;
    let Lease { id, host, partition, borrower, expires_at, .. } = &lease;
    tracing::info!(lease = %id, %host, %partition, %borrower, %expires_at, "lease granted");
    registry.metrics.keys_issued.inc();
    Ok((StatusCode::CREATED, Json(registry.issuer.grant(lease)?)))
}

/// No terms allow a lease of another duration.
fn check_duration(seconds: u64) -> Result<(), Problem> {
    if (1..=DURATION_MAX_SECONDS).contains(&seconds) {
        return Ok(());
    }
    let detail = format!("duration_seconds: 1 to {DURATION_MAX_SECONDS}, not {seconds}");
    Err(Problem::new(Code::InvalidRequest, detail))
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
    let host = registry.word_of(found.host).await?;
    Ok(Json(registry.db.end_lease(lease, borrower, host, received_at).await?))
}

/// Makes a lease longer, or its budget larger; the host learns its new end at once. Lost keys are issued again by it too.
#[utoipa::path(
    post, path = "/v1/leases/{lease}/renew", tag = "leases", request_body = RenewLease,
    params(("lease" = LeaseId, Path)), security(("token" = [])),
    responses(
        (status = 200, description = "The lease, and a key until its end", body = LeaseGranted),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn renew_lease(
    State(registry): State<Arc<Registry>>,
    PathIds(lease): PathIds<LeaseId>,
    OnlyBorrower(borrower): OnlyBorrower,
    JsonBody(wish): JsonBody<RenewLease>,
) -> Result<Json<LeaseGranted>, Problem> {
    let lease = registry.db.renew_lease(lease, borrower, wish).await?;
    Ok(Json(registry.issuer.grant(lease)?))
}

/// Says, as the lender, that the partition is wanted back: the lease ends after the notice that its terms state.
#[utoipa::path(
    post, path = "/v1/leases/{lease}/recall", tag = "leases",
    params(("lease" = LeaseId, Path)), security(("token" = [])),
    responses(
        (status = 200, description = "The lease, with its recall", body = Lease),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn recall_lease(
    State(registry): State<Arc<Registry>>,
    PathIds(lease): PathIds<LeaseId>,
    OnlyLender(lender): OnlyLender,
) -> Result<Json<Lease>, Problem> {
    Ok(Json(registry.db.recall_lease(lease, lender).await?.for_lender()))
}

impl Registry {
    /// What this registry adds to the contracts that are made now.
    fn conditions(&self) -> Conditions {
        Conditions {
            rounding: Rounding::BegunSecond,
            fee_rate: self.settings.fee_rate,
            credit: CreditRule::STANDARD,
        }
    }

    async fn lease_of(&self, borrower: BorrowerId, lease: LeaseId) -> Result<Lease, Problem> {
        self.db.lease(borrower, lease).await?.ok_or_else(no_such_lease)
    }
}

impl From<ReserveError> for Problem {
    fn from(error: ReserveError) -> Self {
        match (error.problem(), error) {
            (Some(problem), _) => problem,
            (None, ReserveError::Hold(HoldError::Store(error)) | ReserveError::Store(error)) => error.into(),
            (None, error) => Self::internal(&error),
        }
    }
}

impl From<HoldError> for Problem {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::Credit(_) => Self::new(Code::CreditExceeded, error.to_string()),
            HoldError::Store(error) => error.into(),
        }
    }
}

impl From<MoveEndError> for Problem {
    fn from(error: MoveEndError) -> Self {
        let code = match error {
            MoveEndError::NoSuchLease => return no_such_lease(),
            MoveEndError::Hold(error) => return error.into(),
            MoveEndError::Store(error) => return error.into(),
            MoveEndError::BadWish(_) => Code::InvalidRequest,
            MoveEndError::NotAllowed(ref refusal) => match refusal {
                LeaseNotAllowed::HasEnded(_) => Code::LeaseEnded,
                LeaseNotAllowed::IsRecalled { .. } => Code::LeaseRecalled,
                LeaseNotAllowed::NoRecall => Code::RecallNotAllowed,
                LeaseNotAllowed::Shorter { .. } | LeaseNotAllowed::SmallerBudget => Code::InvalidRequest,
                LeaseNotAllowed::NotExpired { .. }
                | LeaseNotAllowed::StillActive
                | LeaseNotAllowed::IsSettled => return Self::internal(&error),
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
