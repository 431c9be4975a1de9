//! Statements, as SQLite takes them.

use rusqlite::{
    CachedStatement, Connection, ToSql, ffi,
    types::{ToSqlOutput, ValueRef},
};

use super::super::{
    StoreError,
    sql::{Each, Sql},
    value::{Row, Value},
};

/// A transaction, or a savepoint in one.
pub(super) struct Statements<'a> {
    db: &'a Connection,
    /// What the last statement that failed did so of.
    failed: Option<ffi::Error>,
}

impl<'a> Statements<'a> {
    pub(super) fn new(db: &'a Connection) -> Self {
        Self { db, failed: None }
    }

    pub(super) fn failed(&self) -> Option<ffi::Error> {
        self.failed
    }

    fn noted<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Sqlite(rusqlite::Error::SqliteFailure(error, _))) = &result {
            self.failed = Some(*error);
        }
        result
    }
}

impl Sql for Statements<'_> {
    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        let changed = prepare(self.db, sql, values).and_then(|mut statement| Ok(statement.raw_execute()?));
        Ok(self.noted(changed)?.try_into().unwrap_or(u64::MAX))
    }

    fn query(&mut self, sql: &str, values: &[Value], each: &mut Each<'_>) -> Result<(), StoreError> {
        let read = prepare(self.db, sql, values).and_then(|mut statement| read(&mut statement, each));
        self.noted(read)
    }
}

fn read(statement: &mut CachedStatement<'_>, each: &mut Each<'_>) -> Result<(), StoreError> {
    let count = statement.column_count();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        let column = |place| value(row.get_ref(place)?).ok_or(StoreError::Unreadable { column: place + 1 });
        each(Row::new((0..count).map(column).collect::<Result<_, _>>()?))?;
    }
    Ok(())
}

/// SQLite takes `$1` for a name, and numbers names as it meets them.
fn prepare<'a>(db: &'a Connection, sql: &str, values: &[Value]) -> Result<CachedStatement<'a>, StoreError> {
    let mut statement = db.prepare_cached(sql)?;
    for place in 1..=statement.parameter_count() {
        let number = statement.parameter_name(place).and_then(|name| name.strip_prefix('$')?.parse().ok());
        let value = number.and_then(|number: usize| values.get(number.checked_sub(1)?));
        let value = value.ok_or(rusqlite::Error::InvalidParameterCount(values.len(), place))?;
        statement.raw_bind_parameter(place, value)?;
    }
    Ok(statement)
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// None: it is of a kind that no column has.
fn value(column: ValueRef<'_>) -> Option<Value> {
    match column {
        ValueRef::Null => Some(Value::Null),
        ValueRef::Integer(number) => Some(Value::Integer(number)),
        ValueRef::Text(text) => String::from_utf8(text.to_owned()).ok().map(Value::Text),
        ValueRef::Blob(bytes) => Some(Value::Bytes(bytes.to_owned())),
        ValueRef::Real(_) => None,
    }
}
