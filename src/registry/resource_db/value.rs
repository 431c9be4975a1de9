//! What goes into a column and comes out of one, in the few kinds that both databases have.
//!
//! | in Rust | in SQLite | in PostgreSQL |
//! |---|---|---|
//! | numbers, money; moments as microseconds since 1970 | `INTEGER` | `BIGINT` |
//! | names of things (16 bytes), digests | `BLOB` | `BYTEA` |
//! | words, and JSON by [`json`] | `TEXT` | `TEXT` |

use std::str::FromStr;

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::StoreError;
use crate::domain::{
    id::{BorrowerId, EntryId, HostId, IssuerId, KeyId, LeaseId, LenderId, PartitionId},
    money::{Currency, Micros},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// The values of a statement's `$1`, `$2`, …: `values![host, epoch.0, json(&terms)?]`.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::registry::resource_db::value::Value::from($value)),*] };
}
pub(super) use values;

/// A value that is written as JSON.
pub(super) fn json(value: &impl Serialize) -> Result<Value, StoreError> {
    serde_json::to_string(value).map(Value::Text).map_err(StoreError::Unwritable)
}

/// One row of an answer. Its columns are taken out one after another, in the order in which `SELECT` names them.
pub(super) struct Row {
    columns: std::vec::IntoIter<Value>,
    taken: usize,
}

impl Row {
    pub(super) fn new(columns: Vec<Value>) -> Self {
        Self { columns: columns.into_iter(), taken: 0 }
    }

    /// The next column.
    pub(super) fn take<T: FromValue>(&mut self) -> Result<T, StoreError> {
        self.taken += 1;
        self.columns.next().and_then(T::from_value).ok_or_else(|| self.unreadable())
    }

    /// The next column, JSON.
    pub(super) fn take_json<T: DeserializeOwned>(&mut self) -> Result<T, StoreError> {
        let text = self.take::<String>()?;
        serde_json::from_str(&text).map_err(|_| self.unreadable())
    }

    /// The next column, JSON or nothing.
    pub(super) fn take_json_or_none<T: DeserializeOwned>(&mut self) -> Result<Option<T>, StoreError> {
        let value = self.take::<Option<String>>()?.map(|text| serde_json::from_str(&text));
        value.transpose().map_err(|_| self.unreadable())
    }

    /// The next column, one word of a few.
    pub(super) fn take_word<T: FromStr>(&mut self) -> Result<T, StoreError> {
        self.take::<String>()?.parse().map_err(|_| self.unreadable())
    }

    /// The next column, one word of a few, or nothing.
    pub(super) fn take_word_or_none<T: FromStr>(&mut self) -> Result<Option<T>, StoreError> {
        let word = self.take::<Option<String>>()?.map(|word| word.parse());
        word.transpose().map_err(|_| self.unreadable())
    }

    /// What was taken last cannot be, or not beside what was taken before it.
    pub(super) fn unreadable(&self) -> StoreError {
        StoreError::Unreadable { column: self.taken }
    }
}

/// What a column can be read as; none: it holds something else.
pub(super) trait FromValue: Sized {
    fn from_value(value: Value) -> Option<Self>;
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl FromValue for i64 {
    fn from_value(value: Value) -> Option<Self> {
        if let Value::Integer(number) = value { Some(number) } else { None }
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl FromValue for u64 {
    fn from_value(value: Value) -> Option<Self> {
        i64::from_value(value)?.try_into().ok()
    }
}

impl From<u64> for Value {
    /// Versions, epochs and revisions: none counts further than this.
    fn from(count: u64) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl FromValue for Timestamp {
    fn from_value(value: Value) -> Option<Self> {
        Self::from_microsecond(i64::from_value(value)?).ok()
    }
}

impl From<Timestamp> for Value {
    fn from(moment: Timestamp) -> Self {
        Self::Integer(moment.as_microsecond())
    }
}

impl FromValue for String {
    fn from_value(value: Value) -> Option<Self> {
        if let Value::Text(text) = value { Some(text) } else { None }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl<const N: usize> FromValue for [u8; N] {
    fn from_value(value: Value) -> Option<Self> {
        if let Value::Bytes(bytes) = value { bytes.try_into().ok() } else { None }
    }
}

impl<const N: usize> From<[u8; N]> for Value {
    fn from(bytes: [u8; N]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl FromValue for Uuid {
    fn from_value(value: Value) -> Option<Self> {
        FromValue::from_value(value).map(Self::from_bytes)
    }
}

impl From<Uuid> for Value {
    fn from(name: Uuid) -> Self {
        Self::from(name.into_bytes())
    }
}

impl FromValue for Micros {
    fn from_value(value: Value) -> Option<Self> {
        i64::from_value(value).map(Self)
    }
}

impl From<Micros> for Value {
    fn from(amount: Micros) -> Self {
        Self::Integer(amount.0)
    }
}

impl From<Currency> for Value {
    fn from(currency: Currency) -> Self {
        Self::Text(currency.into())
    }
}

macro_rules! names {
    ($($name:ident),* $(,)?) => {$(
        impl FromValue for $name {
            fn from_value(value: Value) -> Option<Self> {
                Uuid::from_value(value).map(Self)
            }
        }

        impl From<$name> for Value {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }
    )*};
}

names!(BorrowerId, EntryId, HostId, IssuerId, KeyId, LeaseId, LenderId, PartitionId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let moment = "2026-01-01T12:00:00.000001Z".parse::<Timestamp>().unwrap();
        let values = values![HostId(Uuid::max()), 7u64, moment, "word", [1u8; 32], None::<i64>];
        let mut row = Row::new(values.to_vec());
        assert_eq!(row.take::<HostId>().unwrap(), HostId(Uuid::max()));
        assert_eq!(row.take::<u64>().unwrap(), 7);
        assert_eq!(row.take::<Timestamp>().unwrap(), moment);
        assert_eq!(row.take::<String>().unwrap(), "word");
        assert_eq!(row.take::<[u8; 32]>().unwrap(), [1; 32]);
        assert_eq!(row.take::<Option<i64>>().unwrap(), None);
    }

    #[test]
    fn a_column_of_another_kind_is_named_by_its_place() {
        let mut row = Row::new(values![1i64, "word", -1i64].to_vec());
        row.take::<i64>().unwrap();
        assert!(matches!(row.take::<Uuid>(), Err(StoreError::Unreadable { column: 2 })));
        assert!(matches!(row.take::<u64>(), Err(StoreError::Unreadable { column: 3 })));
        assert!(matches!(row.take::<u64>(), Err(StoreError::Unreadable { column: 4 })), "there is no more");
    }
}
