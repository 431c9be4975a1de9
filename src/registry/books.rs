//! What whoever runs the registry does with money, by the `sublet-registry` program: payments come in and go out,
//! credit is bounded, the ledger is handed to auditors. The registry may serve the database meanwhile.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;

use super::resource_db::{AccountError, BookError, By, ExportError, Location, OpenError, ResourceDb};
use crate::{
    clock::Clock,
    domain::{
        id::LeaseId,
        ledger::entry::Entry,
        money::{Amount, Currency, Micros},
    },
};

/// Longest reason or reference.
const TEXT_MAX: usize = 200;

#[derive(Debug, Error)]
pub enum BooksError {
    #[error("{what}: 1 to {TEXT_MAX} characters, none of them a control character")]
    Text { what: &'static str },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Book(#[from] BookError),
    #[error("cannot make the file {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// A borrower has paid.
pub async fn deposit(
    database: Location,
    borrower: String,
    amount: Amount,
    reference: String,
) -> Result<Entry, BooksError> {
    text("--reference", &reference)?;
    Ok(open(database).await?.deposit(By::Program, borrower, amount, reference).await?)
}

/// A lender is paid all that stands to its credit.
pub async fn payout(database: Location, lender: String, reference: String) -> Result<Vec<Entry>, BooksError> {
    text("--reference", &reference)?;
    Ok(open(database).await?.payout(By::Program, lender, reference).await?)
}

/// A borrower gets back a part of what a lease cost.
pub async fn credit(
    database: Location,
    lease: LeaseId,
    amount: Amount,
    reason: String,
    reference: String,
) -> Result<Entry, BooksError> {
    text("--reason", &reason)?;
    text("--reference", &reference)?;
    Ok(open(database).await?.credit(By::Program, lease, amount, reason, reference).await?)
}

/// Bounds what a borrower's running leases may cost beyond what it has paid in.
pub async fn set_credit_limit(
    database: Location,
    borrower: String,
    currency: Currency,
    limit: Option<Micros>,
) -> Result<(), BooksError> {
    Ok(open(database).await?.set_credit_limit(By::Program, borrower, currency, limit).await?)
}

/// Writes the whole ledger into a new file that only its owner can read.
pub async fn export(database: Location, to: &Path) -> Result<(), BooksError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let file = file.map_err(|source| BooksError::File { path: to.to_owned(), source })?;
    Ok(open(database).await?.export(file).await?)
}

async fn open(database: Location) -> Result<ResourceDb, BooksError> {
    Ok(ResourceDb::open(database, Arc::new(Clock::system()), Box::new(|_| ())).await?)
}

/// What people write into the ledger is a line, and no long one.
pub(super) fn text(what: &'static str, text: &str) -> Result<(), BooksError> {
    let fits = (1..=TEXT_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    if fits { Ok(()) } else { Err(BooksError::Text { what }) }
}
