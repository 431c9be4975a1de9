//! The readers: a few threads, a connection each, which is opened once and keeps its prepared statements.

use std::{num::NonZero, path::Path, thread};

use async_channel::{Receiver, Sender};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    super::{StoreError, sql::Sql},
    OpenSqliteError, Statements, open,
};

/// How many readings may wait.
const QUEUE: usize = 4096;
/// Fewest threads: one that waits for the disk does not keep others from what is in memory.
const THREADS_MIN: usize = 4;

type Job = Box<dyn FnOnce(rusqlite::Result<&mut Connection>) + Send>;

/// They end with the last who can ask.
#[derive(Clone)]
pub(super) struct Readers {
    jobs: Sender<Job>,
}

impl Readers {
    pub(super) fn start(path: &Path) -> Result<Self, OpenSqliteError> {
        let (jobs, queue) = async_channel::bounded(QUEUE);
        let threads = thread::available_parallelism().map_or(THREADS_MIN, NonZero::get).max(THREADS_MIN);
        for _ in 0..threads {
            let (queue, path) = (queue.clone(), path.to_owned());
            thread::Builder::new()
                .name("resource-db-read".to_owned())
                .spawn(move || run(&queue, &path))
                .map_err(OpenSqliteError::Thread)?;
        }
        Ok(Self { jobs })
    }

    /// Reads at one point in time.
    pub(super) async fn read<T, A>(&self, act: A) -> Result<T, StoreError>
    where
        T: Send + 'static,
        A: FnOnce(&mut dyn Sql) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Whoever asked may have gone.
            let _ =
                answer.send(connection.map_err(StoreError::from).and_then(|open| in_transaction(open, act)));
        });
        self.jobs.send(job).await.map_err(|_| StoreError::NotBegun)?;
        answered.await.map_err(|_| StoreError::NotBegun)?
    }
}

fn in_transaction<T>(
    connection: &mut Connection,
    act: impl FnOnce(&mut dyn Sql) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let transaction = connection.transaction()?;
    let result = act(&mut Statements::new(&transaction));
    transaction.finish()?;
    result
}

/// Reads until nobody is left who could ask.
fn run(queue: &Receiver<Job>, path: &Path) {
    let mut kept = None;
    while let Ok(job) = queue.recv_blocking() {
        match kept.take().map_or_else(|| open::open_for_reading(path), Ok) {
            Ok(mut connection) => {
                job(Ok(&mut connection));
                kept = Some(connection);
            }
            Err(error) => job(Err(error)),
        }
    }
}
