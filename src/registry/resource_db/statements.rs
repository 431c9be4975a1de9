//! Statements: an account's month.

use super::{
    Page, ResourceDb, StoreError,
    entries::{SELECT, read, side},
    value::values,
};
use crate::{
    api::registry::{Account, LedgerEntry, StatementSum},
    domain::{money::Micros, month::Month},
};

impl ResourceDb {
    /// How the account stood before and after the month, and what came in between, currency by currency.
    pub async fn month_sums(&self, account: Account, month: Month) -> Result<Vec<StatementSum>, StoreError> {
        let (side, id) = side(account);
        self.read(move |sql| {
            let sum = |condition: &str| {
                format!(
                    "CAST(coalesce(sum(CASE WHEN {condition} THEN {side}_micros ELSE 0 END), 0) AS BIGINT)"
                )
            };
            let of = |kind: &str| sum(&format!("at_us >= $2 AND kind = '{kind}'"));
            let select = format!(
                "SELECT currency, {}, {}, {}, {}, {} FROM entries WHERE {side} = $1 AND at_us < $3 \
                 GROUP BY currency ORDER BY currency",
                sum("at_us < $2"),
                of("lease"),
                of("credit"),
                of("deposit"),
                of("payout"),
            );
            sql.all(&select, values![id, month.start, month.end], |mut row| {
                let (currency, opening, leases) =
                    (row.take_word()?, row.take::<Micros>()?, row.take::<Micros>()?);
                let (credits, deposits, payouts) =
                    (row.take::<Micros>()?, row.take::<Micros>()?, row.take::<Micros>()?);
                let closing = Micros(opening.0 + leases.0 + credits.0 + deposits.0 + payouts.0);
                Ok(StatementSum { currency, opening, leases, credits, deposits, payouts, closing })
            })
        })
        .await
    }

    /// The account's entries of the month, oldest first; `page.before` is the last one that is known already.
    pub async fn month_entries(
        &self,
        account: Account,
        month: Month,
        page: Page,
    ) -> Result<Vec<LedgerEntry>, StoreError> {
        let (side, id) = side(account);
        self.read(move |sql| {
            let select = format!(
                "{SELECT} WHERE e.{side} = $1 AND e.at_us >= $2 AND e.at_us < $3 AND ((e.at_us, e.id) > \
                 (SELECT b.at_us, b.id FROM entries b WHERE b.id = $4) OR $4 IS NULL) ORDER BY e.at_us, e.id LIMIT $5"
            );
            let values = values![id, month.start, month.end, page.before, page.limit];
            sql.all(&select, values, |row| Ok(read(row)?.0))
        })
        .await
    }
}
