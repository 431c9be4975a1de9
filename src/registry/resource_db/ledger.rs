//! The ledger (13): a row a settled lease, written once.

use uuid::Uuid;

use super::{
    Page, ResourceDb, StoreError,
    leases::{Contract, LeaseRow},
    value::{Row, values},
    work::Work,
};
use crate::{
    api::registry::LedgerRow,
    domain::{
        id::{BorrowerId, LenderId},
        lease::End,
        money::Micros,
    },
};

impl ResourceDb {
    /// What the borrower was charged, newest first, each with the name by which the next page begins.
    pub async fn charges(
        &self,
        borrower: BorrowerId,
        page: Page,
    ) -> Result<Vec<(Uuid, LedgerRow)>, StoreError> {
        self.ledger("borrower", borrower.0, page).await
    }

    /// What the lender was paid, newest first.
    pub async fn payments(&self, lender: LenderId, page: Page) -> Result<Vec<(Uuid, LedgerRow)>, StoreError> {
        self.ledger("lender", lender.0, page).await
    }

    async fn ledger(
        &self,
        side: &'static str,
        account: Uuid,
        page: Page,
    ) -> Result<Vec<(Uuid, LedgerRow)>, StoreError> {
        self.read(move |sql| {
            let select = format!(
                "SELECT g.id, g.lease, l.host, l.partition, g.borrower, l.started_at_us, l.ended_at_us, \
                 l.end_reason, l.contract, g.charge_micros, g.fee_micros, g.payment_micros \
                 FROM ledger g JOIN leases l ON l.id = g.lease \
                 WHERE g.{side} = $1 AND ($2 IS NULL OR g.id < $2) ORDER BY g.id DESC LIMIT $3"
            );
            sql.all(&select, values![account, page.before, page.limit], ledger_row)
        })
        .await
    }
}

fn ledger_row(mut row: Row) -> Result<(Uuid, LedgerRow), StoreError> {
    let id = row.take()?;
    let (lease, host, partition, borrower) = (row.take()?, row.take()?, row.take()?, row.take()?);
    let (started_at, ended_at, reason) = (row.take()?, row.take()?, row.take_word()?);
    let Contract { terms, rounding, fee_rate } = row.take_json()?;
    let view = LedgerRow {
        lease,
        host,
        partition,
        borrower,
        started_at,
        ended_at,
        reason,
        per_hour_micros: terms.price.per_hour_micros,
        currency: terms.price.currency,
        rounding,
        charge: Micros(row.take()?),
        fee_millionths: fee_rate,
        fee: Micros(row.take()?),
        payment: Micros(row.take()?),
    };
    Ok((id, view))
}

impl Work<'_> {
    pub(super) fn write_ledger_row(&mut self, lease: &LeaseRow, end: End) -> Result<(), StoreError> {
        let bill = lease.contract.billing(lease.course.started_at, end.at).settle();
        let insert = "INSERT INTO ledger (id, lease, borrower, lender, charge_micros, fee_micros, payment_micros) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let (id, charge, fee, payment) = (Uuid::now_v7(), bill.charge.0, bill.fee.0, bill.payment.0);
        let row = values![id, lease.id, lease.borrower, lease.lender, charge, fee, payment];
        self.sql.execute(insert, row)?;
        Ok(())
    }
}
