//! Administrators: payments come in and go out, leases are credited, credit is bounded; and who did that.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};

use super::{
    Registry,
    accounts::OnlyAdministrator,
    books::text,
    pages::{PageQuery, cut},
    resource_db::{AccountError, BookError, By},
};
use crate::{
    api::{
        http::{JsonBody, QueryParams, idempotency_key},
        problem::{Code, Problem},
        registry::{Acts, Booked, CreditLimit, MakeCredit, MakeDeposit, MakePayout},
    },
    domain::{
        ledger::entry::Entry,
        money::{AMOUNT_MAX_MICROS, Micros},
    },
};

/// A borrower has paid: it is written into its account, under the reference that the `Idempotency-Key` is.
#[utoipa::path(
    post, path = "/v1/deposits", tag = "books", request_body = MakeDeposit, security(("token" = [])),
    params(("idempotency-key" = String, Header, description = "The payment's reference, in the ledger too: asked again with it, it is the same payment")),
    responses(
        (status = 201, description = "The entry in the ledger", body = Booked),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn deposit(
    State(registry): State<Arc<Registry>>,
    OnlyAdministrator { token }: OnlyAdministrator,
    headers: HeaderMap,
    JsonBody(MakeDeposit { borrower, amount }): JsonBody<MakeDeposit>,
) -> Result<(StatusCode, Json<Booked>), Problem> {
    let reference = reference(&headers)?;
    bounded("amount.micros", amount.micros)?;
    let entry = registry.db.deposit(By::Administrator(token), borrower, amount, reference).await?;
    Ok(booked(vec![entry]))
}

/// A lender was paid all that stands to its credit, currency by currency.
#[utoipa::path(
    post, path = "/v1/payouts", tag = "books", request_body = MakePayout, security(("token" = [])),
    params(("idempotency-key" = String, Header, description = "The payment's reference, in the ledger too: asked again with it, it is the same payment")),
    responses(
        (status = 201, description = "The entries in the ledger, one a currency; none where nothing was owed", body = Booked),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn payout(
    State(registry): State<Arc<Registry>>,
    OnlyAdministrator { token }: OnlyAdministrator,
    headers: HeaderMap,
    JsonBody(MakePayout { lender }): JsonBody<MakePayout>,
) -> Result<(StatusCode, Json<Booked>), Problem> {
    let reference = reference(&headers)?;
    Ok(booked(registry.db.payout(By::Administrator(token), lender, reference).await?))
}

/// A borrower gets back a part of what a lease cost; its lender and the registry give what each had of it.
#[utoipa::path(
    post, path = "/v1/credits", tag = "books", request_body = MakeCredit, security(("token" = [])),
    params(("idempotency-key" = String, Header, description = "The receipt, or whatever else shows it, in the ledger too: asked again with it, it is the same credit")),
    responses(
        (status = 201, description = "The entry in the ledger", body = Booked),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn credit(
    State(registry): State<Arc<Registry>>,
    OnlyAdministrator { token }: OnlyAdministrator,
    headers: HeaderMap,
    JsonBody(MakeCredit { lease, amount, reason }): JsonBody<MakeCredit>,
) -> Result<(StatusCode, Json<Booked>), Problem> {
    let reference = reference(&headers)?;
    text("reason", &reason).map_err(|error| Problem::new(Code::InvalidRequest, error.to_string()))?;
    bounded("amount.micros", amount.micros)?;
    let entry = registry.db.credit(By::Administrator(token), lease, amount, reason, reference).await?;
    Ok(booked(vec![entry]))
}

/// Bounds what a borrower's running leases may cost beyond what it has paid in.
#[utoipa::path(
    put, path = "/v1/credit-limits", tag = "books", request_body = CreditLimit, security(("token" = [])),
    responses(
        (status = 204, description = "That is the limit now"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn set_credit_limit(
    State(registry): State<Arc<Registry>>,
    OnlyAdministrator { token }: OnlyAdministrator,
    JsonBody(CreditLimit { borrower, currency, limit }): JsonBody<CreditLimit>,
) -> Result<StatusCode, Problem> {
    limit.map_or(Ok(()), |limit| bounded("limit", limit))?;
    registry.db.set_credit_limit(By::Administrator(token), borrower, currency, limit).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What was done with accounts, by whom, newest first.
#[utoipa::path(
    get, path = "/v1/acts", tag = "books",
    params(PageQuery),
    security(("token" = [])),
    responses(
        (status = 200, description = "Acts", body = Acts),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn acts(
    State(registry): State<Arc<Registry>>,
    _: OnlyAdministrator,
    QueryParams(query): QueryParams<PageQuery>,
) -> Result<Json<Acts>, Problem> {
    let (page, limit) = query.page()?;
    let (acts, next_cursor) = cut(registry.db.acts(page).await?, limit, |act| act.id);
    Ok(Json(Acts { acts, next_cursor }))
}

/// By which the payment is found elsewhere, and by which it is made once.
fn reference(headers: &HeaderMap) -> Result<String, Problem> {
    let reference = idempotency_key(headers)?.ok_or_else(|| {
        let detail = "Idempotency-Key: is needed, and is the reference by which this stands in the ledger";
        Problem::new(Code::MalformedRequest, detail)
    })?;
    let is_text = text("Idempotency-Key", &reference);
    is_text.map_err(|error| Problem::new(Code::MalformedRequest, error.to_string()))?;
    Ok(reference)
}

fn bounded(field: &str, micros: Micros) -> Result<(), Problem> {
    if (0..=AMOUNT_MAX_MICROS).contains(&micros.0) {
        return Ok(());
    }
    let detail = format!("{field}: 0 to {AMOUNT_MAX_MICROS}, not {}", micros.0);
    Err(Problem::new(Code::InvalidRequest, detail))
}

fn booked(entries: Vec<Entry>) -> (StatusCode, Json<Booked>) {
    (StatusCode::CREATED, Json(Booked { entries }))
}

impl From<AccountError> for Problem {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::NoSuchAccount { .. } => Self::new(Code::NotFound, error.to_string()),
            AccountError::Store(error) => error.into(),
        }
    }
}

impl From<BookError> for Problem {
    fn from(error: BookError) -> Self {
        let code = match error {
            BookError::Account(error) => return error.into(),
            BookError::Store(error) => return error.into(),
            BookError::NoSuchLease => Code::NotFound,
            BookError::NotSettled => Code::LeaseNotSettled,
            BookError::ReferenceUsed(_) => Code::IdempotencyKeyReused,
            BookError::Nothing(_) | BookError::TooMuch { .. } | BookError::Currency(_) => {
                Code::InvalidRequest
            }
        };
        Self::new(code, error.to_string())
    }
}
