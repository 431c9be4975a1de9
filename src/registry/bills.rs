//! What leases cost, page by page: the ledger, balances, statements.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, header},
    response::{IntoResponse as _, Response},
};

use super::{
    Registry,
    accounts::OwnAccount,
    pages::{PageQuery, cut},
};
use crate::{
    api::{
        http::{PathIds, QueryParams, header_text},
        problem::{Code, Problem},
        registry::{Balances, Ledger, Statement},
        statement::{CSV_MEDIA_TYPE, csv},
    },
    domain::month::{Month, NotAMonth},
};

/// The entries of a borrower's or a lender's account, newest first.
#[utoipa::path(
    get, path = "/v1/ledger", tag = "ledger",
    params(PageQuery),
    security(("token" = [])),
    responses(
        (status = 200, description = "Entries of the ledger", body = Ledger),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn ledger(
    State(registry): State<Arc<Registry>>,
    OwnAccount(account): OwnAccount,
    QueryParams(query): QueryParams<PageQuery>,
) -> Result<Json<Ledger>, Problem> {
    let (page, limit) = query.page()?;
    let (entries, next_cursor) =
        cut(registry.db.entries(account, page).await?, limit, |entry| entry.entry.id.0);
    Ok(Json(Ledger { entries, next_cursor }))
}

/// How a borrower's or a lender's account stands, currency by currency.
#[utoipa::path(
    get, path = "/v1/balances", tag = "ledger", security(("token" = [])),
    responses(
        (status = 200, description = "Balances", body = Balances),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn balances(
    State(registry): State<Arc<Registry>>,
    OwnAccount(account): OwnAccount,
) -> Result<Json<Balances>, Problem> {
    Ok(Json(Balances { balances: registry.db.balances(account).await? }))
}

/// An account's month, by UTC: what came in between two balances. A month that is over stays as it is.
#[utoipa::path(
    get, path = "/v1/statements/{month}", tag = "ledger",
    params(
        ("month" = String, Path, description = "Such as 2026-11", pattern = "^[0-9]{4}-[0-9]{2}$"),
        PageQuery,
        ("accept" = Option<String>, Header, description = "text/csv: the entries as a table, for spreadsheets"),
    ),
    security(("token" = [])),
    responses(
        (status = 200, description = "The statement", content(
            (Statement = "application/json"), (String = "text/csv"),
        )),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn statement(
    State(registry): State<Arc<Registry>>,
    PathIds(month): PathIds<String>,
    OwnAccount(account): OwnAccount,
    QueryParams(query): QueryParams<PageQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let month: Month =
        month.parse().map_err(|error: NotAMonth| Problem::new(Code::NotFound, error.to_string()))?;
    let (page, limit) = query.page()?;
    let entries = registry.db.month_entries(account, month, page).await?;
    let (entries, next_cursor) = cut(entries, limit, |entry| entry.entry.id.0);
    let accepted = header_text(&headers, &header::ACCEPT).unwrap_or_default();
    if accepted.starts_with(CSV_MEDIA_TYPE) {
        let table = csv(&entries).map_err(|error| Problem::internal(&error))?;
        let cursor = next_cursor.map(|cursor| [(HeaderName::from_static("x-next-cursor"), cursor)]);
        return Ok((cursor, [(header::CONTENT_TYPE, CSV_MEDIA_TYPE)], table).into_response());
    }
    let sums = registry.db.month_sums(account, month).await?;
    let is_final = month.end <= registry.clock.now();
    let month = month.to_string();
    Ok(Json(Statement { month, account, is_final, sums, entries, next_cursor }).into_response())
}
