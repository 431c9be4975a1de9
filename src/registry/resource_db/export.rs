//! The whole ledger, for auditors: a line of JSON for each lease, entry and balance, at one point in time.

use std::{
    fs::File,
    io::{self, BufWriter, Seek as _, Write},
};

use thiserror::Error;

use super::{
    ResourceDb, StoreError, entries,
    leases::{self, LeaseRow},
    receipts,
    sql::Sql,
    value::Row,
};
use crate::domain::ledger::audit::{Balance, Line};

#[derive(Debug, Error)]
pub enum ExportError {
    #[error("the export cannot be written")]
    Write(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ResourceDb {
    pub async fn export(&self, to: File) -> Result<(), ExportError> {
        let failed = self
            .read(move |sql| {
                // Where it is read again, it is written again.
                let failed = to.set_len(0).and_then(|()| (&to).rewind()).err();
                let mut lines = Lines { out: BufWriter::new(&to), failed };
                lines.all(sql, &format!("{} ORDER BY l.id", leases::SELECT), |row| {
                    Ok(Line::Lease(LeaseRow::of(row)?.record()))
                })?;
                lines.all(sql, &format!("{} ORDER BY e.at_us, e.id", entries::SELECT), |row| {
                    Ok(Line::Entry(entries::sealed(row)?))
                })?;
                lines.all(sql, receipts::SELECT_ALL, |row| Ok(Line::Segment(receipts::exported(row)?)))?;
                let balances = "SELECT account, currency, balance_micros, held_micros FROM balances \
                                ORDER BY account, currency";
                lines.all(sql, balances, |mut row| {
                    let (account, currency) = (row.take()?, row.take_word()?);
                    Ok(Line::Balance(Balance { account, currency, balance: row.take()?, held: row.take()? }))
                })?;
                Ok(lines.finish())
            })
            .await?;
        Ok(failed?)
    }
}

struct Lines<'a> {
    out: BufWriter<&'a File>,
    failed: Option<io::Error>,
}

impl Lines<'_> {
    /// A line for each row of the answer.
    fn all(
        &mut self,
        sql: &mut dyn Sql,
        select: &str,
        line: impl Fn(Row) -> Result<Line, StoreError>,
    ) -> Result<(), StoreError> {
        sql.query(select, &[], &mut |row| {
            let text = serde_json::to_string(&line(row)?).map_err(StoreError::Unwritable)?;
            if self.failed.is_none() {
                self.failed = writeln!(self.out, "{text}").err();
            }
            Ok(())
        })
    }

    fn finish(mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)?;
        self.out.flush()?;
        self.out.get_ref().sync_all()
    }
}
