//! Statements of SQL, as use cases give them to either database.

use super::{
    StoreError,
    value::{Row, Value},
};

/// A transaction that takes SQL of the dialect that both databases have in common; `$1` stands for the first value.
pub(super) trait Sql {
    /// How many rows the statement changed.
    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError>;

    /// Shows `each` the rows of the answer, one after another.
    fn query(&mut self, sql: &str, values: &[Value], each: &mut Each<'_>) -> Result<(), StoreError>;
}

pub(super) type Each<'a> = dyn FnMut(Row) -> Result<(), StoreError> + 'a;

impl dyn Sql + '_ {
    /// All rows of the answer.
    pub(super) fn all<T>(
        &mut self,
        sql: &str,
        values: &[Value],
        mut read: impl FnMut(Row) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut rows = Vec::new();
        self.query(sql, values, &mut |row| {
            rows.push(read(row)?);
            Ok(())
        })?;
        Ok(rows)
    }

    /// The one row of the answer, if there is any.
    pub(super) fn first<T>(
        &mut self,
        sql: &str,
        values: &[Value],
        read: impl FnMut(Row) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.all(sql, values, read)?.pop())
    }

    /// The one row of an answer that always has one.
    pub(super) fn one<T>(
        &mut self,
        sql: &str,
        values: &[Value],
        read: impl FnMut(Row) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.first(sql, values, read)?.ok_or(StoreError::NoRow)
    }
}
