//! Statements, as PostgreSQL takes them.

use std::{error::Error as _, io};

use bytes::BytesMut;
use deadpool_postgres::Transaction;
use futures::TryStreamExt as _;
use tokio::runtime::Handle;
use tokio_postgres::{
    Error,
    error::SqlState,
    types::{FromSql, IsNull, ToSql, Type, to_sql_checked},
};

use super::super::{
    StoreError,
    sql::{Each, Sql},
    value::{Row, Value},
};

/// A transaction, from a thread that may wait.
pub(super) struct Statements<'a> {
    runtime: &'a Handle,
    transaction: &'a Transaction<'a>,
    /// What a statement failed of: nothing more can be done in this transaction.
    failed: Option<Failure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Another transaction was in the way, or the server went: begun again, it may succeed.
    Passing,
    Lasting,
}

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        // Who else inserts what was looked for and not found, is the other whose row is found next time.
        let passing = [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::UNIQUE_VIOLATION,
            SqlState::LOCK_NOT_AVAILABLE,
        ];
        let passes = went(error) || error.code().is_some_and(|code| passing.contains(code));
        if passes { Self::Passing } else { Self::Lasting }
    }
}

/// Whether the server went, or ended the session, or the connection broke.
pub(super) fn went(error: &Error) -> bool {
    let ended = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
    let broke = error.source().is_some_and(|cause| cause.is::<io::Error>());
    error.is_closed() || broke || error.code().is_some_and(|code| ended.contains(code))
}

impl<'a> Statements<'a> {
    pub(super) fn new(runtime: &'a Handle, transaction: &'a Transaction<'a>) -> Self {
        Self { runtime, transaction, failed: None }
    }

    pub(super) fn failed(&self) -> Option<Failure> {
        self.failed
    }

    fn noted<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Postgres(error)) = &result {
            self.failed = Some(Failure::of(error));
        }
        result
    }
}

impl Sql for Statements<'_> {
    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        let transaction = self.transaction;
        let changed = self.runtime.block_on(async {
            let statement = transaction.prepare_cached(sql).await?;
            Ok(transaction.execute_raw(&statement, values).await?)
        });
        self.noted(changed)
    }

    fn query(&mut self, sql: &str, values: &[Value], each: &mut Each<'_>) -> Result<(), StoreError> {
        let transaction = self.transaction;
        let read = self.runtime.block_on(async {
            let statement = transaction.prepare_cached(sql).await?;
            let mut rows = std::pin::pin!(transaction.query_raw(&statement, values).await?);
            while let Some(row) = rows.try_next().await? {
                let column =
                    |place| row.try_get(place).map_err(|_| StoreError::Unreadable { column: place + 1 });
                each(Row::new((0..row.len()).map(column).collect::<Result<_, _>>()?))?;
            }
            Ok(())
        });
        self.noted(read)
    }
}

impl ToSql for Value {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(number) => number.to_sql_checked(kind, out),
            Self::Text(text) => text.to_sql_checked(kind, out),
            Self::Bytes(bytes) => bytes.to_sql_checked(kind, out),
        }
    }

    /// Whether the value at hand is of that kind is seen when it is written.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        match *kind {
            Type::INT4 => i32::from_sql(kind, raw).map(|number| Self::Integer(number.into())),
            Type::INT8 => i64::from_sql(kind, raw).map(Self::Integer),
            Type::BYTEA => Vec::from_sql(kind, raw).map(Self::Bytes),
            _ => String::from_sql(kind, raw).map(Self::Text),
        }
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT4, Type::INT8, Type::BYTEA, Type::TEXT].contains(kind)
    }
}
