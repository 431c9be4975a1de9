//! The writer: one thread, one connection. What waits is done together in one transaction, a savepoint each, and
//! answered after the commit: so many share one fsync, and none is told of what is not durable.

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;
use rusqlite::{Connection, Transaction, TransactionBehavior, ffi};
use tokio::sync::{mpsc, oneshot};

use super::{
    super::{
        StoreError,
        meters::Meters,
        work::{Change, OnCommit, Work},
    },
    Statements,
};
use crate::{clock::Clock, registry::crash_point::CrashPoint};

/// Most use cases in one transaction.
const BATCH_MAX: usize = 256;

type Durable = Result<(), Arc<rusqlite::Error>>;
/// Answers whoever waits, once it is known whether the transaction is durable.
type Answer = Box<dyn FnOnce(&Durable) + Send>;
pub(super) type Job = Box<dyn FnOnce(&mut Transaction<'_>, Timestamp, &mut Vec<Change>) -> Done + Send>;

/// A use case that was done, or refused.
pub(super) struct Done {
    answer: Answer,
    /// What a statement of it failed of.
    failed: Option<ffi::Error>,
}

/// Wraps a use case, so that jobs of all kinds can wait in one queue.
pub(super) fn job<T, E, A>(act: A, answer: oneshot::Sender<Result<T, E>>) -> Job
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
    A: FnOnce(&mut Work<'_>) -> Result<T, E> + Send + 'static,
{
    Box::new(move |transaction, now, changes| {
        let mut failed = None;
        let result = in_savepoint(transaction, now, changes, &mut failed, act);
        let answer: Answer = Box::new(move |durable| {
            let result = match durable {
                Ok(()) => result,
                Err(error) => Err(E::from(StoreError::Commit(Arc::<rusqlite::Error>::clone(error)))),
            };
            // Whoever asked may have gone; what was done stays done.
            let _ = answer.send(result);
        });
        Done { answer, failed }
    })
}

fn in_savepoint<T, E: From<StoreError>>(
    transaction: &mut Transaction<'_>,
    now: Timestamp,
    changes: &mut Vec<Change>,
    failed: &mut Option<ffi::Error>,
    act: impl FnOnce(&mut Work<'_>) -> Result<T, E>,
) -> Result<T, E> {
    // Dropped without commit, a savepoint rolls back.
    let savepoint = transaction.savepoint().map_err(StoreError::from)?;
    let mut made = Vec::new();
    let mut statements = Statements::new(&savepoint);
    let result = act(&mut Work { sql: &mut statements, now, changes: &mut made });
    *failed = statements.failed();
    let result = result?;
    savepoint.commit().map_err(StoreError::from)?;
    changes.append(&mut made);
    Ok(result)
}

/// Works until nobody is left who could ask.
pub(super) fn run(
    mut connection: Connection,
    mut queue: mpsc::Receiver<Job>,
    clock: &Clock,
    on_commit: &OnCommit,
    meters: &Meters,
) {
    while let Some(first) = queue.blocking_recv() {
        let mut changes = Vec::new();
        let mut answers = Vec::new();
        let started = Instant::now();
        let durable = batch(&mut connection, first, &mut queue, clock, &mut changes, &mut answers);
        let durable = durable.map_err(|error| {
            tracing::error!(%error, uncommitted = answers.len(), "a transaction failed");
            Arc::new(error)
        });
        meters.committed(answers.len(), started.elapsed());
        if durable.is_ok() && !changes.is_empty() {
            on_commit(changes);
        }
        CrashPoint::BeforeAnswer.pass();
        answers.into_iter().for_each(|answer| answer(&durable));
    }
}

fn batch(
    connection: &mut Connection,
    first: Job,
    queue: &mut mpsc::Receiver<Job>,
    clock: &Clock,
    changes: &mut Vec<Change>,
    answers: &mut Vec<Answer>,
) -> rusqlite::Result<()> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut next = Some(first);
    while let Some(job) = next {
        let Done { answer, failed } = job(&mut transaction, clock.now(), changes);
        answers.push(answer);
        if transaction.is_autocommit() {
            // On a full disk SQLite gives up the whole transaction: what others did in it is undone too.
            return Err(rusqlite::Error::SqliteFailure(
                failed.unwrap_or(ffi::Error::new(ffi::SQLITE_ABORT)),
                None,
            ));
        }
        next = if answers.len() < BATCH_MAX { queue.try_recv().ok() } else { None };
    }
    CrashPoint::BeforeCommit.pass();
    transaction.commit()?;
    CrashPoint::AfterCommit.pass();
    Ok(())
}
