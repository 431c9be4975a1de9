//! The resource database in SQLite: one thread writes, several read.

mod backup;
mod open;
mod readers;
mod statements;
mod writer;

use std::{path::PathBuf, sync::Arc};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{
    StoreError,
    meters::{Metered, Meters},
    sql::Sql,
    work::{OnCommit, Work},
};
use crate::clock::Clock;

pub use backup::BackupError;
pub(super) use backup::{backup, restore};
pub use open::OpenSqliteError;
use readers::Readers;
use statements::Statements;
use writer::Job;

/// How many transactions may wait for the writer.
const QUEUE: usize = 4096;

/// An open database. Clones share it; its threads end with the last of them.
#[derive(Clone)]
pub struct Sqlite {
    jobs: mpsc::Sender<Job>,
    meters: Arc<Meters>,
    readers: Readers,
}

impl Sqlite {
    /// Opens the database at `path`, makes it where there is none, and brings its schema up to date.
    pub fn open(path: PathBuf, clock: Arc<Clock>, on_commit: OnCommit) -> Result<Self, OpenSqliteError> {
        let connection = open::open_for_writing(&path)?;
        Self::over(connection, path, clock, on_commit)
    }

    fn over(
        connection: Connection,
        path: PathBuf,
        clock: Arc<Clock>,
        on_commit: OnCommit,
    ) -> Result<Self, OpenSqliteError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let meters = Arc::new(Meters::default());
        let counted = Arc::clone(&meters);
        std::thread::Builder::new()
            .name("resource-db".to_owned())
            .spawn(move || writer::run(connection, queue, &clock, &on_commit, &counted))
            .map_err(OpenSqliteError::Thread)?;
        Ok(Self { jobs, meters, readers: Readers::start(&path)? })
    }

    pub(super) fn metered(&self) -> Metered {
        self.meters.read(self.jobs.max_capacity() - self.jobs.capacity())
    }

    /// Does `act` in the writer's next transaction; answers once that is durable. A refusal undoes what `act`
    /// had done.
    pub(super) async fn write<T, E, A>(&self, act: A) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        A: FnOnce(&mut Work<'_>) -> Result<T, E> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.jobs.send(writer::job(act, answer)).await.map_err(|_| StoreError::NotBegun)?;
        answered.await.map_err(|_| StoreError::NotBegun)?
    }

    /// Reads at one point in time.
    pub(super) async fn read<T, A>(&self, act: A) -> Result<T, StoreError>
    where
        T: Send + 'static,
        A: FnOnce(&mut dyn Sql) -> Result<T, StoreError> + Send + 'static,
    {
        self.readers.read(act).await
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use uuid::Uuid;

    use super::*;
    use crate::registry::resource_db::{StoreError, value::values};

    const INSERT: &str = "INSERT INTO accounts (id, kind, name, created_at_us) VALUES ($1, 'lender', $2, 0)";

    async fn add(db: &Sqlite, name: String) -> Result<String, StoreError> {
        db.write(move |work| {
            work.sql.execute(INSERT, values![Uuid::now_v7(), name.as_str()])?;
            Ok(name)
        })
        .await
    }

    #[tokio::test]
    async fn a_full_disk_is_said_and_exactly_what_was_acknowledged_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.db");
        let connection = open::open_for_writing(&path).unwrap();
        let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        let limited = |_: &rusqlite::Row<'_>| Ok(());
        connection.query_row(&format!("PRAGMA max_page_count = {}", pages + 20), (), limited).unwrap();
        let db = Sqlite::over(connection, path, Arc::new(Clock::system()), Box::new(|_| ())).unwrap();
        let tried = join_all((0..3000).map(|n| add(&db, format!("a name that takes some room: {n}")))).await;
        let (kept, refused): (Vec<_>, Vec<_>) = tried.into_iter().partition(Result::is_ok);
        assert!(
            refused.iter().all(|refused| refused.as_ref().is_err_and(StoreError::is_full)),
            "{refused:?}"
        );
        assert!(!refused.is_empty());
        let names =
            db.read(|sql| sql.all("SELECT name FROM accounts", &[], |mut row| row.take::<String>())).await;
        let (mut names, mut kept) =
            (names.unwrap(), kept.into_iter().map(Result::unwrap).collect::<Vec<_>>());
        names.sort();
        kept.sort();
        assert_eq!(names, kept);
    }
}
