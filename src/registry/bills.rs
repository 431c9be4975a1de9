//! Lists, page by page: a borrower's leases and charges, a lender's payments.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Registry,
    accounts::{Anybody, OnlyBorrower},
    resource_db::{Page, Principal},
};
use crate::api::{
    http::QueryParams,
    problem::{Code, Problem},
    registry::{Leases, Ledger},
};

const LIMIT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

/// Which part of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// Most rows in one answer; 1 to 1000, 100 where not stated.
    limit: Option<u32>,
    /// `next_cursor` of the answer before.
    cursor: Option<Uuid>,
}

impl PageQuery {
    /// The page and one row more: it tells whether another page follows.
    fn page(&self) -> Result<(Page, usize), Problem> {
        let limit = self.limit.unwrap_or(LIMIT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            let detail = format!("limit: 1 to {LIMIT_MAX}, not {limit}");
            return Err(Problem::new(Code::InvalidRequest, detail));
        }
        let page = Page { before: self.cursor, limit: limit + 1 };
        Ok((page, usize::try_from(limit).unwrap_or(usize::MAX)))
    }
}

/// Cuts the row too many off; with it the name by which the next page begins.
fn cut<T>(mut rows: Vec<T>, limit: usize, name: impl Fn(&T) -> Uuid) -> (Vec<T>, Option<String>) {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|last| name(last).to_string());
    (rows, next)
}

/// The borrower's leases, newest first.
#[utoipa::path(
    get, path = "/v1/leases", tag = "leases",
    params(
        ("limit" = Option<u32>, Query, description = "Most rows in one answer; 1 to 1000, 100 where not stated"),
        ("cursor" = Option<Uuid>, Query, description = "next_cursor of the answer before"),
    ),
    security(("token" = [])),
    responses(
        (status = 200, description = "Leases", body = Leases),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn leases(
    State(registry): State<Arc<Registry>>,
    OnlyBorrower(borrower): OnlyBorrower,
    QueryParams(query): QueryParams<PageQuery>,
) -> Result<Json<Leases>, Problem> {
    let (page, limit) = query.page()?;
    let (leases, next_cursor) = cut(registry.db.leases(borrower, page).await?, limit, |lease| lease.id.0);
    Ok(Json(Leases { leases, next_cursor }))
}

/// A borrower's charges, or a lender's payments; newest first.
#[utoipa::path(
    get, path = "/v1/ledger", tag = "ledger",
    params(
        ("limit" = Option<u32>, Query, description = "Most rows in one answer; 1 to 1000, 100 where not stated"),
        ("cursor" = Option<Uuid>, Query, description = "next_cursor of the answer before"),
    ),
    security(("token" = [])),
    responses(
        (status = 200, description = "Rows of the ledger", body = Ledger),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn ledger(
    State(registry): State<Arc<Registry>>,
    Anybody(principal): Anybody,
    QueryParams(query): QueryParams<PageQuery>,
) -> Result<Json<Ledger>, Problem> {
    let (page, limit) = query.page()?;
    let rows = match principal {
        Principal::Borrower(borrower) => registry.db.charges(borrower, page).await?,
        Principal::Lender(lender) => registry.db.payments(lender, page).await?,
        Principal::Host(_) | Principal::Administrator => {
            return Err(Problem::new(Code::Forbidden, "this is for a borrower's or a lender's token"));
        }
    };
    let (rows, next_cursor) = cut(rows, limit, |(id, _)| *id);
    Ok(Json(Ledger { rows: rows.into_iter().map(|(_, row)| row).collect(), next_cursor }))
}
