//! Use cases in transactions, each as if there were no other at that time.
//!
//! Writing ones are `SERIALIZABLE`: where two could not have happened one after the other, the server fails one of them,
//! and it is begun again (`docs/adr/0035`). Reading ones see one moment.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_postgres::Object;
use jiff::Timestamp;
use tokio_postgres::IsolationLevel;

use super::{
    super::{StoreError, sql::Sql, work::Work},
    Shared,
    changes::{self, NOW},
    statements::{Failure, Statements, went},
};
use crate::registry::crash_point::CrashPoint;

/// How long a use case is begun again and again.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest pause before it is.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What came of one attempt.
enum Attempt<T, E> {
    Ended(Result<T, E>),
    /// It left nothing behind, and may succeed when it is begun again.
    Again(E),
}

impl Shared {
    /// From a thread that may wait.
    pub(super) fn write<T, E: From<StoreError>>(
        &self,
        mut client: Object,
        act: impl Fn(&mut Work<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let began = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            match self.attempt(&mut client, &act) {
                Attempt::Ended(result) => return result,
                Attempt::Again(error) if began.elapsed() > PATIENCE => return Err(error),
                Attempt::Again(_) => {
                    std::thread::sleep(pause.mul_f64(rand::random()));
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
            if client.is_closed() {
                drop(client);
                client = self.runtime.block_on(self.pool.get()).map_err(StoreError::from)?;
            }
        }
    }

    fn attempt<T, E: From<StoreError>>(
        &self,
        client: &mut Object,
        act: &impl Fn(&mut Work<'_>) -> Result<T, E>,
    ) -> Attempt<T, E> {
        let began = Instant::now();
        let begun = self.runtime.block_on(async {
            let builder = client.build_transaction().isolation_level(IsolationLevel::Serializable);
            let transaction = builder.start().await?;
            let now = transaction.query_one(&transaction.prepare_cached(NOW).await?, &[]).await?.get(0);
            Ok((transaction, now))
        });
        let (transaction, now) = match begun {
            Ok(begun) => begun,
            Err(error) => return failed(error),
        };
        let now = self.clock.unless_held(Timestamp::from_microsecond(now).unwrap_or(Timestamp::MAX));
        let mut changes = Vec::new();
        let mut statements = Statements::new(&self.runtime, &transaction);
        // Dropped without commit, the transaction is rolled back.
        let result = match (
            act(&mut Work { sql: &mut statements, now, changes: &mut changes }),
            statements.failed(),
        ) {
            (Ok(result), None) => result,
            (Ok(_), Some(_)) => return Attempt::Ended(Err(StoreError::WentOn.into())),
            (Err(error), Some(Failure::Passing)) => return Attempt::Again(error),
            (Err(error), _) => return Attempt::Ended(Err(error)),
        };
        if let Err(error) = self.runtime.block_on(changes::record(&transaction, self.registry, &changes)) {
            return failed(error);
        }
        CrashPoint::BeforeCommit.pass();
        if let Err(error) = self.runtime.block_on(transaction.commit()) {
            return match Failure::of(&error) {
                Failure::Passing if !went(&error) => Attempt::Again(StoreError::from(error).into()),
                // It may have been made durable all the same.
                _ => Attempt::Ended(Err(StoreError::Commit(Arc::new(error)).into())),
            };
        }
        CrashPoint::AfterCommit.pass();
        self.meters.committed(1, began.elapsed());
        if !changes.is_empty() {
            self.announcer.announce(changes);
            self.committed.notify_one();
        }
        CrashPoint::BeforeAnswer.pass();
        Attempt::Ended(Ok(result))
    }

    /// From a thread that may wait. Reading again harms nobody.
    pub(super) fn read<T>(
        &self,
        mut client: Object,
        act: impl Fn(&mut dyn Sql) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        loop {
            match self.read_once(&mut client, &act) {
                Err(StoreError::Postgres(error)) if went(&error) && began.elapsed() < PATIENCE => {}
                result => return result,
            }
            drop(client);
            client = self.runtime.block_on(self.pool.get())?;
        }
    }

    fn read_once<T>(
        &self,
        client: &mut Object,
        act: &impl Fn(&mut dyn Sql) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let builder =
            client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        let transaction = self.runtime.block_on(builder.start())?;
        let result = act(&mut Statements::new(&self.runtime, &transaction))?;
        self.runtime.block_on(transaction.commit())?;
        Ok(result)
    }
}

fn failed<T, E: From<StoreError>>(error: StoreError) -> Attempt<T, E> {
    match &error {
        StoreError::Postgres(cause) if Failure::of(cause) == Failure::Passing => Attempt::Again(error.into()),
        _ => Attempt::Ended(Err(error.into())),
    }
}
