//! The ledger (13): a row a settled lease, written once.

use rusqlite::{Row, named_params};
use uuid::Uuid;

use super::{
    super::{Contract, Page, StoreError},
    Sqlite,
    leases::LeaseRow,
    rows::{Json, Moment},
    writer::Work,
};
use crate::{
    api::registry::LedgerRow,
    domain::{
        id::{BorrowerId, HostId, LeaseId, LenderId, PartitionId},
        lease::{End, EndReason},
        money::Micros,
    },
};

impl Sqlite {
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
        self.read(move |db| {
            let sql = format!(
                "SELECT g.id, g.lease, l.host, l.partition, g.borrower, l.started_at_us, l.ended_at_us, \
                 l.end_reason, l.contract, g.charge_micros, g.fee_micros, g.payment_micros \
                 FROM ledger g JOIN leases l ON l.id = g.lease \
                 WHERE g.{side} = ?1 AND (?2 IS NULL OR g.id < ?2) ORDER BY g.id DESC LIMIT ?3"
            );
            let mut statement = db.prepare_cached(&sql)?;
            let rows = statement.query_map((account, page.before, page.limit), ledger_row)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}

fn ledger_row(row: &Row<'_>) -> rusqlite::Result<(Uuid, LedgerRow)> {
    let contract = row.get::<_, Json<Contract>>(8)?.0;
    let view = LedgerRow {
        lease: LeaseId(row.get(1)?),
        host: HostId(row.get(2)?),
        partition: PartitionId(row.get(3)?),
        borrower: BorrowerId(row.get(4)?),
        started_at: row.get::<_, Moment>(5)?.0,
        ended_at: row.get::<_, Moment>(6)?.0,
        reason: reason(&row.get::<_, String>(7)?)?,
        per_hour_micros: contract.terms.price.per_hour_micros,
        currency: contract.terms.price.currency,
        rounding: contract.rounding,
        charge: Micros(row.get(9)?),
        fee_millionths: contract.fee_rate,
        fee: Micros(row.get(10)?),
        payment: Micros(row.get(11)?),
    };
    Ok((row.get(0)?, view))
}

fn reason(text: &str) -> rusqlite::Result<EndReason> {
    text.parse().map_err(|_| {
        rusqlite::Error::InvalidColumnType(7, "end_reason".to_owned(), rusqlite::types::Type::Text)
    })
}

impl Work<'_> {
    pub(super) fn write_ledger_row(&self, lease: &LeaseRow, end: End) -> Result<(), StoreError> {
        let bill = lease.contract.billing(lease.course.started_at, end.at).settle();
        let sql = "INSERT INTO ledger (id, lease, borrower, lender, charge_micros, fee_micros, payment_micros) \
                   VALUES (:id, :lease, :borrower, :lender, :charge, :fee, :payment)";
        self.db.prepare_cached(sql)?.execute(named_params! {
            ":id": Uuid::now_v7(), ":lease": lease.id.0, ":borrower": lease.borrower.0,
            ":lender": lease.lender.0, ":charge": bill.charge.0, ":fee": bill.fee.0,
            ":payment": bill.payment.0,
        })?;
        Ok(())
    }
}
