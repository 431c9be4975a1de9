//! How accounts stand: what their entries have added up to, and what running leases hold of a borrower's credit.

use std::collections::BTreeMap;

use thiserror::Error;
use uuid::Uuid;

use super::{
    ResourceDb, StoreError, accounts::AccountKind, acts::By, entries::side, sql::Sql, value::values,
    work::Work,
};
use crate::{
    api::registry::{Account, AccountBalance, Act},
    domain::{
        id::BorrowerId,
        ledger::entry::Legs,
        money::{Currency, Micros},
    },
};

/// The borrower's running leases could cost more than it was trusted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "this could cost {more} {currency}; running leases could cost {held}, the account stands at {balance}, and the credit \
     limit is {limit}: pay in, end a lease, or ask for less time or a smaller budget"
)]
pub struct CreditExceeded {
    pub more: Micros,
    pub held: Micros,
    pub balance: Micros,
    pub limit: Micros,
    pub currency: Currency,
}

#[derive(Debug, Error)]
pub enum HoldError {
    #[error(transparent)]
    Credit(#[from] CreditExceeded),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Error)]
pub enum AccountError {
    #[error("there is no {} of the name {name:?}", kind.as_str())]
    NoSuchAccount { kind: AccountKind, name: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ResourceDb {
    /// Bounds what the borrower's running leases may cost beyond what it has paid in; none: no bound in this currency.
    pub async fn set_credit_limit(
        &self,
        by: By,
        borrower: String,
        currency: Currency,
        limit: Option<Micros>,
    ) -> Result<(), AccountError> {
        self.write(move |work| {
            let account = account_named(work.sql, AccountKind::Borrower, &borrower)?;
            let upsert = "INSERT INTO balances (account, currency, limit_micros) VALUES ($1, $2, $3) \
                          ON CONFLICT (account, currency) DO UPDATE SET limit_micros = excluded.limit_micros";
            work.sql.execute(upsert, values![account, currency, limit])?;
            let act = Act::CreditLimit { borrower: borrower.clone(), currency, limit };
            Ok(work.note(by, Uuid::now_v7(), &act)?)
        })
        .await
    }

    /// How the account stands, currency by currency.
    pub async fn balances(&self, account: Account) -> Result<Vec<AccountBalance>, StoreError> {
        let (_, account) = side(account);
        self.read(move |sql| {
            let select = "SELECT currency, balance_micros, held_micros, limit_micros FROM balances \
                          WHERE account = $1 ORDER BY currency";
            sql.all(select, values![account], |mut row| {
                let (currency, balance, held) = (row.take_word()?, row.take()?, row.take()?);
                Ok(AccountBalance { currency, balance, held, limit: row.take()? })
            })
        })
        .await
    }
}

/// What the ledger holds in one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerSum {
    pub currency: Currency,
    /// What all entries have added to all accounts of each kind: together nothing (law 7).
    pub legs: Legs,
    /// What all leases that run could cost at most.
    pub held: Micros,
}

impl ResourceDb {
    /// What the ledger holds, currency by currency. It is told from how accounts stand, not from each entry that there ever
    /// was: what is nobody's is the registry's.
    pub async fn ledger_sums(&self) -> Result<Vec<LedgerSum>, StoreError> {
        self.read(|sql| {
            let mut sums: BTreeMap<Currency, (Legs, Micros)> = BTreeMap::new();
            let accounts = "SELECT b.currency, a.kind, CAST(sum(b.balance_micros) AS BIGINT), \
                            CAST(sum(b.held_micros) AS BIGINT) FROM balances b JOIN accounts a ON a.id = b.account \
                            GROUP BY b.currency, a.kind";
            sql.query(accounts, &[], &mut |mut row| {
                let (legs, held) = sums.entry(row.take_word()?).or_default();
                let leg = if row.take::<String>()? == "lender" { &mut legs.lender } else { &mut legs.borrower };
                *leg = row.take()?;
                held.0 += row.take::<Micros>()?.0;
                Ok(())
            })?;
            // These alone have a leg outside, and they have an index.
            let outside = "SELECT currency, CAST(sum(outside_micros) AS BIGINT) FROM entries \
                           WHERE kind IN ('deposit', 'payout') AND reference IS NOT NULL GROUP BY currency";
            sql.query(outside, &[], &mut |mut row| {
                let (currency, outside) = (row.take_word()?, row.take()?);
                sums.entry(currency).or_default().0.outside = outside;
                Ok(())
            })?;
            let sums = sums.into_iter().map(|(currency, (legs, held))| {
                let fees = Micros(-(legs.borrower.0 + legs.lender.0 + legs.outside.0));
                LedgerSum { currency, legs: Legs { fees, ..legs }, held }
            });
            Ok(sums.collect())
        })
        .await
    }
}

pub(super) fn account_named(sql: &mut dyn Sql, kind: AccountKind, name: &str) -> Result<Uuid, AccountError> {
    let select = "SELECT id FROM accounts WHERE kind = $1 AND name = $2";
    let found = sql.first(select, values![kind.as_str(), name], |mut row| row.take())?;
    found.ok_or_else(|| AccountError::NoSuchAccount { kind, name: name.to_owned() })
}

impl Work<'_> {
    /// Holds so much more of the borrower's credit, if that covers it; less: it is let go in any case. Whoever has a
    /// limit in one currency has none of the others' for nothing.
    pub(super) fn hold(
        &mut self,
        borrower: BorrowerId,
        currency: Currency,
        more: Micros,
    ) -> Result<(), HoldError> {
        match more.0 {
            0 => return Ok(()),
            ..0 => return Ok(self.add(borrower.0, currency, Micros(0), more)?),
            1.. => {}
        }
        let update = "UPDATE balances SET held_micros = held_micros + $3 WHERE account = $1 AND currency = $2 AND \
                      ((limit_micros IS NULL AND NOT EXISTS (SELECT 1 FROM balances o WHERE o.account = $1 \
                      AND o.limit_micros IS NOT NULL)) \
                      OR held_micros + $3 - balance_micros <= coalesce(limit_micros, 0))";
        if self.sql.execute(update, values![borrower, currency, more])? == 1 {
            return Ok(());
        }
        match self.exceeded(borrower, currency, more)? {
            Some(exceeded) => Err(exceeded.into()),
            None => Ok(self.add(borrower.0, currency, Micros(0), more)?),
        }
    }

    /// None: there is nothing to exceed, for the account has no row in this currency and a limit in none.
    fn exceeded(
        &mut self,
        borrower: BorrowerId,
        currency: Currency,
        more: Micros,
    ) -> Result<Option<CreditExceeded>, StoreError> {
        let select =
            "SELECT currency, balance_micros, held_micros, limit_micros FROM balances WHERE account = $1";
        let mut rows = self.sql.all(select, values![borrower], |mut row| {
            let (of, balance, held) = (row.take_word::<Currency>()?, row.take()?, row.take()?);
            Ok((of, balance, held, row.take::<Option<Micros>>()?))
        })?;
        let limited = rows.iter().any(|(.., limit)| limit.is_some());
        rows.retain(|(of, ..)| *of == currency);
        let own = rows.pop().map(|(_, balance, held, limit)| (balance, held, limit.unwrap_or_default()));
        let (balance, held, limit) = match own {
            Some(own) => own,
            None if limited => Default::default(),
            None => return Ok(None),
        };
        Ok(Some(CreditExceeded { more, held, balance, limit, currency }))
    }

    /// Adds to an account's balance, and to what is held of it.
    pub(super) fn add(
        &mut self,
        account: Uuid,
        currency: Currency,
        balance: Micros,
        held: Micros,
    ) -> Result<(), StoreError> {
        let update = "UPDATE balances SET balance_micros = balance_micros + $3, held_micros = held_micros + $4 \
                      WHERE account = $1 AND currency = $2";
        if self.sql.execute(update, values![account, currency, balance, held])? == 1 {
            return Ok(());
        }
        let insert = "INSERT INTO balances (account, currency, balance_micros, held_micros) VALUES ($1, $2, $3, $4) \
                      ON CONFLICT (account, currency) DO UPDATE SET \
                      balance_micros = balances.balance_micros + excluded.balance_micros, \
                      held_micros = balances.held_micros + excluded.held_micros";
        self.sql.execute(insert, values![account, currency, balance, held])?;
        Ok(())
    }
}
