//! The resource database at a PostgreSQL server, which several registries may have open at the same time. What one
//! commits, the others hear of: [`follower`].

mod announcer;
mod changes;
mod connect;
mod follower;
mod migrate;
mod passfile;
mod server;
mod statements;
mod transactions;

use std::{sync::Arc, time::Duration};

use deadpool_postgres::{GenericClient, Pool, PoolError};
use jiff::Timestamp;
use thiserror::Error;
use tokio::{runtime::Handle, sync::Notify};
use uuid::Uuid;

use super::{
    StoreError,
    meters::{Metered, Meters},
    sql::Sql,
    work::{OnCommit, Work},
};
use crate::clock::Clock;
use announcer::Announcer;
use changes::Reader;
use connect::{ConnectError, Connector};
use follower::Follower;

#[cfg(test)]
pub(super) use migrate::VERSION;
pub use server::{BadServer, Server};

#[derive(Debug, Error)]
pub enum OpenPostgresError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no connection to the database server")]
    Pool(#[from] PoolError),
    #[error("the database server refused")]
    Server(#[from] tokio_postgres::Error),
    #[error(
        "the database has schema {found}, this program knows up to {}: use the newer program",
        super::schema::MIGRATIONS.len()
    )]
    TooNew { found: usize },
    #[error("the database cannot be read")]
    Store(#[source] Box<StoreError>),
}

/// An open database. Clones share it.
#[derive(Clone)]
pub struct Postgres(Arc<Shared>);

struct Shared {
    /// This registry, among those that have the database open.
    registry: Uuid,
    pool: Pool,
    runtime: Handle,
    clock: Arc<Clock>,
    announcer: Announcer,
    meters: Meters,
    /// Something was committed that others are to hear of.
    committed: Arc<Notify>,
}

impl Postgres {
    /// Comes to the server, and brings the database's schema up to date.
    pub async fn open(
        server: &Server,
        clock: Arc<Clock>,
        on_commit: OnCommit,
    ) -> Result<Self, OpenPostgresError> {
        let connector = Connector::to(server)?;
        let pool = connector.pool()?;
        let mut client = pool.get().await?;
        migrate::migrate(&mut client).await?;
        let shared = Arc::new(Shared {
            registry: Uuid::now_v7(),
            pool,
            runtime: Handle::current(),
            clock,
            announcer: Announcer::new(on_commit),
            meters: Meters::default(),
            committed: Arc::default(),
        });
        let unreadable = |error| OpenPostgresError::Store(Box::new(error));
        shared.set_clock(&client).await.map_err(unreadable)?;
        let reader = Reader::begin(&client, shared.registry).await.map_err(unreadable)?;
        let follower = Follower::new(&shared, connector, reader);
        tokio::spawn(follower.run(Arc::clone(&shared.committed)));
        Ok(Self(shared))
    }

    pub(super) fn registry(&self) -> Uuid {
        self.0.registry
    }

    pub(super) fn metered(&self) -> Metered {
        self.0.meters.read(self.0.pool.status().waiting)
    }

    pub(super) async fn write<T, E, A>(&self, act: A) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        A: Fn(&mut Work<'_>) -> Result<T, E> + Send + 'static,
    {
        let shared = Arc::clone(&self.0);
        let client = shared.pool.get().await.map_err(StoreError::from)?;
        let writing = tokio::task::spawn_blocking(move || shared.write(client, act));
        writing.await.map_err(|_| StoreError::NotBegun)?
    }

    pub(super) async fn read<T, A>(&self, act: A) -> Result<T, StoreError>
    where
        T: Send + 'static,
        A: Fn(&mut dyn Sql) -> Result<T, StoreError> + Send + 'static,
    {
        let shared = Arc::clone(&self.0);
        let client = shared.pool.get().await?;
        let reading = tokio::task::spawn_blocking(move || shared.read(client, act));
        reading.await.map_err(|_| StoreError::NotBegun)?
    }
}

impl Shared {
    /// One clock for money: the server's. This process's clock is set by it, and again from time to time.
    async fn set_clock(&self, client: &impl GenericClient) -> Result<(), StoreError> {
        let (asked_at, asked) = (Timestamp::now(), std::time::Instant::now());
        let theirs: i64 = client.query_one(changes::NOW, &[]).await?.get(0);
        let theirs = Timestamp::from_microsecond(theirs).map_err(|_| StoreError::Unreadable { column: 1 })?;
        let half: Duration = asked.elapsed() / 2;
        self.clock.set(theirs.duration_since(asked_at + half));
        Ok(())
    }
}
