//! The managing server (10): matches borrowers with offers, lends, bills. In reading order:

pub mod http;

mod accounts;
mod bills;
mod books;
mod borrow;
mod enroll;
mod events;
mod keys;
mod lists;
mod payments;
mod receipts;
mod terms;
mod tokens;

mod confirmed;
pub mod crash_point;
mod event_log;
mod expiry;
mod hosts_heard;
mod key_issuer;
mod market;
mod metrics;
mod operator;
mod other_registries;
mod pages;
pub mod resource_db;
mod search_index;
mod silence;

use std::{
    fs::TryLockError,
    io,
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use thiserror::Error;

use crate::{
    api::{
        http::{ListenError, Shutdown},
        problem::{Code, Problem},
    },
    clock::Clock,
    domain::money::FeeRate,
};
use confirmed::Confirmed;
use key_issuer::KeyIssuer;
use market::Market;
use metrics::Metrics;
use resource_db::{Location, OpenError, ResourceDb, StoreError};

pub use books::{BooksError, credit, deposit, export, payout, set_credit_limit};
pub use operator::{Operator, OperatorError, Role};

/// How a registry is run.
#[derive(Debug, Clone)]
pub struct Settings {
    pub database: Location,
    /// The registry's share of each charge; it is written into the leases made from now on.
    pub fee_rate: FeeRate,
    /// How often a host says that it lives; after two and a half times this long without a word it is hidden.
    pub beat_every: Duration,
    /// How long after its planned end a lease waits for the word of a host that is silent.
    pub host_lost_grace: Duration,
}

/// A running registry: what all its handlers share.
pub struct Registry {
    settings: Settings,
    clock: Arc<Clock>,
    pub(crate) db: ResourceDb,
    issuer: KeyIssuer,
    market: Arc<Market>,
    confirmed: Confirmed,
    metrics: Metrics,
    /// How many follow events.
    event_readers: Arc<AtomicUsize>,
    shutdown: Shutdown,
    /// Held as long as this registry serves the database of a file.
    _lock: Option<std::fs::File>,
}

/// Why a registry does not start, or ends.
#[derive(Debug, Error)]
pub enum RegistryError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("another registry serves the database {}: end it first", .0.display())]
    Served(PathBuf),
    #[error("cannot read the database")]
    Store(#[from] StoreError),
    #[error("the signing key in the database cannot be read")]
    SigningKey(#[from] crate::domain::lending_key::NotAnIssuerKey),
    #[error("cannot register metrics")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl Registry {
    /// Opens the database, and begins to end leases when their time has come.
    pub async fn start(settings: Settings, shutdown: Shutdown) -> Result<Arc<Self>, RegistryError> {
        let registry = Self::open(settings, Arc::new(Clock::system()), shutdown).await?;
        tokio::spawn(expiry::run(Arc::clone(&registry)));
        tokio::spawn(key_issuer::run(Arc::clone(&registry)));
        tokio::spawn(silence::run(Arc::clone(&registry)));
        tokio::spawn(confirmed::run(Arc::clone(&registry)));
        tokio::spawn(other_registries::run(Arc::clone(&registry)));
        Ok(registry)
    }

    /// Opens the database; nothing happens yet without being asked for.
    pub(crate) async fn open(
        settings: Settings,
        clock: Arc<Clock>,
        shutdown: Shutdown,
    ) -> Result<Arc<Self>, RegistryError> {
        let lock = match &settings.database {
            Location::File(file) => Some(lock(file)?),
            Location::Postgres(_) => None,
        };
        let metrics = Metrics::new()?;
        let market = Arc::new(Market::new(settings.beat_every, Arc::clone(&clock), metrics.clone()));
        let committed = Arc::clone(&market);
        let on_commit = Box::new(move |changes| committed.apply(changes));
        let db = ResourceDb::open(settings.database.clone(), Arc::clone(&clock), on_commit).await?;
        market.begin(db.free_partitions().await?);
        let issuer = KeyIssuer::load(&db, Arc::clone(&clock)).await?;
        let confirmed = Confirmed::new(hosts_heard::silent_after(settings.beat_every));
        let event_readers = Arc::default();
        Ok(Arc::new(Self {
            settings,
            clock,
            db,
            issuer,
            market,
            confirmed,
            metrics,
            event_readers,
            shutdown,
            _lock: lock,
        }))
    }
}

/// The search index is one process's; a second one would not hear of changes in a file.
fn lock(database: &std::path::Path) -> Result<std::fs::File, RegistryError> {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let failed = |source| RegistryError::Lock { path: path.clone(), source };
    let file = std::fs::File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RegistryError::Served(database.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if error.is_full() {
            tracing::error!(error = crate::api::http::chain(&error), "the database has no room left");
            return Self::new(
                Code::StorageFull,
                "the disk of the registry's database is full: nothing new is stored until its owner makes room",
            );
        }
        match error {
            StoreError::Sqlite(_)
            | StoreError::Postgres(_)
            | StoreError::Pool(_)
            | StoreError::Commit(_)
            | StoreError::NotBegun => {
                tracing::error!(error = crate::api::http::chain(&error), "the database failed");
                Self::new(
                    Code::StorageFailed,
                    "the registry's database cannot store or read it now; try again later",
                )
            }
            StoreError::Unreadable { .. }
            | StoreError::Unwritable(_)
            | StoreError::NoRow
            | StoreError::WentOn
            | StoreError::Lost(_)
            | StoreError::Refused(_) => Self::internal(&error),
        }
    }
}
