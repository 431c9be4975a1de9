//! The resource database (12) with the ledger (13): a narrow interface of use cases, a transaction each. What
//! may change is decided by the domain's machines; here it is found, stored under the condition that nothing
//! changed meanwhile, and announced once it is durable.
//!
//! **Each use case is written once, for every database**: a method of [`ResourceDb`] in the file of its noun
//! ([`accounts`], [`hosts`], [`partitions`], [`reserve`], [`courses`], [`entries`], …), which hands a closure to `write` or `read`:
//!
//! ```text
//! pub async fn close_account(&self, account: Uuid) -> Result<(), CloseError> {
//!     self.write(move |work| {
//!         let update = "UPDATE accounts SET closed_at_us = $1 WHERE id = $2 AND closed_at_us IS NULL";
//!         match work.sql.execute(update, values![work.now, account])? {
//!             1 => Ok(()),
//!             _ => Err(CloseError::NoSuchAccount(account)),
//!         }
//!     })
//!     .await
//! }
//! ```
//!
//! - The closure may be run again from its start: it changes nothing but by `work`, and takes the moment from
//!   `work.now`. Steps that use cases share are methods of [`Work`](work::Work), or functions that take `&mut dyn Sql`.
//! - Its error type has a variant `Store(#[from] StoreError)`. An error undoes all it did; after a failed statement
//!   nothing more may be asked in that transaction, so each is passed on by `?`, and what may be there already is
//!   inserted with `ON CONFLICT`.
//! - SQL is what SQLite and PostgreSQL have in common: parameters `$1`, `$2`, …; `ON CONFLICT`, `RETURNING`,
//!   `IS NOT DISTINCT FROM`, partial indexes, `CAST(sum(x) AS BIGINT)` (a plain `sum` is of another type in PostgreSQL).
//!   A parameter that may be null stands first where its type shows (`x < $2 OR $2 IS NULL`): PostgreSQL takes it from there.
//!   Text is formatted into it only from constants. Columns hold what [`value`] lists; a row is read by `Row::take`, in
//!   the order of its `SELECT`.
//! - What changes a partition's row goes through `Work::save_partition`, which also announces it: search, long polls,
//!   expiry and events follow that; what changes its lease alone calls `Work::announce`. A state changes by `UPDATE … WHERE … AND state = …`; 0 changed rows is `StoreError::Lost`.
//! - Tables and columns come with a migration, as [`schema`] says. `tests.rs` is the suite that every database passes.

mod location;
mod meters;
mod postgres;
mod schema;
mod sql;
mod sqlite;
mod value;
mod work;

mod accounts;
mod acts;
mod balances;
mod courses;
mod entries;
mod export;
mod filter;
mod hosts;
mod leases;
mod partitions;
mod receipts;
mod registries;
mod reserve;
mod revocations;
mod signing_keys;
mod statements;
mod tokens;

use std::{path::Path, sync::Arc};

use thiserror::Error;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::{clock::Clock, domain::lease::LeaseNotAllowed};
use postgres::Postgres;
use sql::Sql;
use sqlite::Sqlite;
use work::Work;

pub use accounts::{AccountKind, Principal, TokenDigest};
pub use acts::By;
pub use balances::{AccountError, CreditExceeded, HoldError, LedgerSum};
pub use courses::{EndError, MoveEndError, Overdue};
pub use entries::BookError;
pub use export::ExportError;
pub use hosts::{Enrol, EnrolError, HostRegister, Ignored};
pub use leases::WhichLeases;
pub use location::Location;
pub use meters::Metered;
pub use partitions::RegisterError;
pub use postgres::{BadServer, OpenPostgresError, Server};
pub use receipts::SegmentError;
pub use reserve::{Conditions, Reserve, ReserveError, Reserved};
pub use revocations::RevokeError;
pub use signing_keys::SigningKey;
pub use sqlite::{BackupError, OpenSqliteError};
pub use tokens::{Access, NewToken, TokenOwner};
pub use work::{Change, Happened, OnCommit};

/// An open database. Clones share it.
#[derive(Clone)]
pub enum ResourceDb {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// Why a database is not opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error(transparent)]
    Sqlite(#[from] OpenSqliteError),
    #[error("cannot use the database {server}")]
    Postgres { server: String, source: Box<OpenPostgresError> },
}

impl ResourceDb {
    /// Opens the database, and brings its schema up to date; a file is made where there is none.
    pub async fn open(location: Location, clock: Arc<Clock>, on_commit: OnCommit) -> Result<Self, OpenError> {
        match location {
            Location::File(path) => Ok(Self::Sqlite(Sqlite::open(path, clock, on_commit)?)),
            Location::Postgres(server) => match Postgres::open(&server, clock, on_commit).await {
                Ok(postgres) => Ok(Self::Postgres(postgres)),
                Err(error) => {
                    Err(OpenError::Postgres { server: server.to_string(), source: Box::new(error) })
                }
            },
        }
    }

    /// Does `act` in a transaction of its own; answers once that is durable. A refusal undoes what `act` had done.
    async fn write<T, E, A>(&self, act: A) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        A: Fn(&mut Work<'_>) -> Result<T, E> + Send + 'static,
    {
        match self {
            Self::Sqlite(sqlite) => sqlite.write(act).await,
            Self::Postgres(postgres) => postgres.write(act).await,
        }
    }

    /// How much was written since the start, and how much waits.
    pub fn metered(&self) -> Metered {
        match self {
            Self::Sqlite(sqlite) => sqlite.metered(),
            Self::Postgres(postgres) => postgres.metered(),
        }
    }

    /// Reads at one point in time.
    async fn read<T, A>(&self, act: A) -> Result<T, StoreError>
    where
        T: Send + 'static,
        A: Fn(&mut dyn Sql) -> Result<T, StoreError> + Send + 'static,
    {
        match self {
            Self::Sqlite(sqlite) => sqlite.read(act).await,
            Self::Postgres(postgres) => postgres.read(act).await,
        }
    }
}

/// Copies the database of a file, into a file that nobody but its owner can read, while registries serve it.
pub fn backup(database: &Location, to: &Path) -> Result<(), BackupError> {
    match database {
        Location::File(path) => sqlite::backup(path, to),
        Location::Postgres(_) => Err(BackupError::AtAServer),
    }
}

/// Makes the database, where there is none, out of a copy of it.
pub fn restore(backup: &Path, database: &Location) -> Result<(), BackupError> {
    match database {
        Location::File(path) => sqlite::restore(backup, path),
        Location::Postgres(_) => Err(BackupError::AtAServer),
    }
}

/// A part of a list, newest first.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Only what is older than this.
    pub before: Option<Uuid>,
    pub limit: u32,
}

/// The database failed; what it was asked for did not happen, or is not known to have happened.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("the database refused")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the database server refused")]
    Postgres(#[from] tokio_postgres::Error),
    #[error("no connection to the database server")]
    Pool(#[from] deadpool_postgres::PoolError),
    #[error("the transaction could not be made durable")]
    Commit(#[source] Arc<dyn std::error::Error + Send + Sync>),
    #[error("a use case went on after a statement that failed")]
    WentOn,
    #[error("column {column} of a row holds what does not belong there")]
    Unreadable { column: usize },
    #[error("a value cannot be written")]
    Unwritable(#[source] serde_json::Error),
    #[error("a row that is always there is missing")]
    NoRow,
    #[error("a row of {0} changed during its own transaction")]
    Lost(&'static str),
    #[error(transparent)]
    Refused(LeaseNotAllowed),
    #[error("the database could not begin a transaction; the log says why")]
    NotBegun,
}

impl StoreError {
    /// Whether there is no room left for what was to be stored.
    pub fn is_full(&self) -> bool {
        let sqlite =
            |error: &rusqlite::Error| error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
        let postgres = |error: &tokio_postgres::Error| error.code() == Some(&SqlState::DISK_FULL);
        match self {
            Self::Sqlite(error) => sqlite(error),
            Self::Postgres(error) => postgres(error),
            Self::Commit(error) => {
                error.downcast_ref().is_some_and(sqlite) || error.downcast_ref().is_some_and(postgres)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
