//! The ledger (13): entries, each written once, together with what it changes in how accounts stand.

use thiserror::Error;
use uuid::Uuid;

use super::{
    Page, ResourceDb, StoreError,
    accounts::AccountKind,
    acts::By,
    balances::{AccountError, account_named},
    leases::{LeaseRow, find},
    sql::Sql,
    value::{Row, values},
    work::Work,
};
use crate::{
    api::registry::{Account, Act, LeaseUse, LedgerEntry},
    domain::{
        id::{BorrowerId, EntryId, LeaseId, LenderId},
        lease::End,
        ledger::{
            audit::SealedEntry,
            contract::Contract,
            entry::{Entry, Legs, Occasion},
            record::LeaseRecord,
        },
        money::{Amount, Currency, Micros},
    },
    registry::crash_point::CrashPoint,
};

pub(super) const SELECT: &str = "SELECT e.id, e.at_us, e.currency, e.kind, e.borrower, e.lender, e.lease, e.reason, \
                                 e.reference, e.borrower_micros, e.lender_micros, e.fees_micros, e.outside_micros, e.digest, \
                                 l.host, l.partition, l.started_at_us, l.ended_at_us, l.end_reason, l.contract \
                                 FROM entries e LEFT JOIN leases l ON l.id = e.lease AND e.kind = 'lease'";

/// Why an entry is not written.
#[derive(Debug, Error)]
pub enum BookError {
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error("there is no such lease")]
    NoSuchLease,
    #[error("the lease has not ended yet: it is credited once it is settled")]
    NotSettled,
    #[error("the amount must be more than nothing, not {0}")]
    Nothing(Amount),
    #[error("the lease cost {charged}, of which {credited} are credited already: {wanted} more are too much")]
    TooMuch { charged: Amount, credited: Amount, wanted: Amount },
    #[error("the lease is billed in {0}")]
    Currency(Currency),
    #[error("the reference {0:?} stands for another entry")]
    ReferenceUsed(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ResourceDb {
    /// A borrower has paid; the same reference again is the same payment.
    pub async fn deposit(
        &self,
        by: By,
        borrower: String,
        amount: Amount,
        reference: String,
    ) -> Result<Entry, BookError> {
        self.write(move |work| {
            let account = BorrowerId(account_named(work.sql, AccountKind::Borrower, &borrower)?);
            let occasion = Occasion::Deposit { borrower: account, reference: reference.clone() };
            let entry = work.book_once(amount.currency, occasion, Legs::of_deposit(positive(amount)?))?;
            let (borrower, reference) = (borrower.clone(), reference.clone());
            work.note(by, entry.id.0, &Act::Deposit { borrower, amount, reference })?;
            Ok(entry)
        })
        .await
    }

    /// Pays a lender all that stands to its credit, currency by currency; the same reference again is the same payment.
    pub async fn payout(&self, by: By, lender: String, reference: String) -> Result<Vec<Entry>, BookError> {
        self.write(move |work| {
            let account = LenderId(account_named(work.sql, AccountKind::Lender, &lender)?);
            let occasion = Occasion::Payout { lender: account, reference: reference.clone() };
            let mut paid = work.booked(&occasion)?;
            if paid.iter().any(|entry| entry.occasion != occasion) {
                return Err(BookError::ReferenceUsed(reference.clone()));
            }
            let balances =
                "SELECT currency, balance_micros FROM balances WHERE account = $1 AND balance_micros > 0";
            let owed =
                work.sql.all(balances, values![account], |mut row| Ok((row.take_word()?, row.take()?)))?;
            // What was earned since it was paid is another payment's.
            let owed = owed.into_iter().filter(|_| paid.is_empty()).collect::<Vec<(Currency, Micros)>>();
            for (currency, balance) in owed {
                let entry = work.book_new(currency, occasion.clone(), Legs::of_payout(balance))?;
                let (lender, reference) = (lender.clone(), reference.clone());
                let amount = Amount { micros: balance, currency };
                work.note(by, entry.id.0, &Act::Payout { lender, amount, reference })?;
                paid.push(entry);
            }
            Ok(paid)
        })
        .await
    }

    /// Gives a borrower back a part of what a lease cost; the same reference again is the same credit.
    pub async fn credit(
        &self,
        by: By,
        lease: LeaseId,
        amount: Amount,
        reason: String,
        reference: String,
    ) -> Result<Entry, BookError> {
        self.write(move |work| {
            let row = find(work.sql, lease)?.ok_or(BookError::NoSuchLease)?;
            let contract = &row.contract;
            let currency = contract.terms.price.currency;
            if currency != amount.currency {
                return Err(BookError::Currency(currency));
            }
            let legs = Legs::of_credit(positive(amount)?, contract.fee_rate);
            let occasion = Occasion::Credit {
                lease,
                borrower: row.borrower,
                lender: row.lender,
                reason: reason.clone(),
                reference: reference.clone(),
            };
            if work.booked(&occasion)?.is_empty() {
                work.may_be_credited(&row, amount)?;
            }
            let entry = work.book_once(currency, occasion, legs)?;
            let (reason, reference) = (reason.clone(), reference.clone());
            work.note(by, entry.id.0, &Act::Credit { lease, amount, reason, reference })?;
            Ok(entry)
        })
        .await
    }

    /// The account's entries, newest first.
    pub async fn entries(&self, account: Account, page: Page) -> Result<Vec<LedgerEntry>, StoreError> {
        let (side, id) = side(account);
        self.read(move |sql| {
            let select = format!(
                "{SELECT} WHERE e.{side} = $1 AND ((e.at_us, e.id) < \
                 (SELECT b.at_us, b.id FROM entries b WHERE b.id = $2) OR $2 IS NULL) ORDER BY e.at_us DESC, e.id DESC LIMIT $3"
            );
            sql.all(&select, values![id, page.before, page.limit], |row| Ok(read(row)?.0))
        })
        .await
    }
}

/// The column of an account of this kind, and the account.
pub(super) fn side(account: Account) -> (&'static str, Uuid) {
    match account {
        Account::Borrower(borrower) => ("borrower", borrower.0),
        Account::Lender(lender) => ("lender", lender.0),
    }
}

fn positive(amount: Amount) -> Result<Micros, BookError> {
    if amount.micros.0 > 0 { Ok(amount.micros) } else { Err(BookError::Nothing(amount)) }
}

/// An entry as it is shown, and its digest.
pub(super) fn read(mut row: Row) -> Result<(LedgerEntry, Option<[u8; 32]>), StoreError> {
    let (id, at, currency) = (row.take()?, row.take()?, row.take_word()?);
    let occasion = occasion(&mut row)?;
    let (borrower, lender, fees, outside) = (row.take()?, row.take()?, row.take()?, row.take()?);
    let legs = Legs { borrower, lender, fees, outside };
    let (digest, settles) = (row.take()?, matches!(occasion, Occasion::Lease { .. }));
    let used = if settles { Some(lease_use(&mut row)?) } else { None };
    Ok((LedgerEntry { entry: Entry { id, at, currency, occasion, legs }, used }, digest))
}

fn occasion(row: &mut Row) -> Result<Occasion, StoreError> {
    let kind: String = row.take()?;
    let (borrower, lender, lease) = (row.take()?, row.take()?, row.take()?);
    match (kind.as_str(), borrower, lender, lease, row.take()?, row.take()?) {
        ("lease", Some(borrower), Some(lender), Some(lease), None, None) => {
            Ok(Occasion::Lease { lease, borrower, lender })
        }
        ("deposit", Some(borrower), None, None, None, Some(reference)) => {
            Ok(Occasion::Deposit { borrower, reference })
        }
        ("payout", None, Some(lender), None, None, Some(reference)) => {
            Ok(Occasion::Payout { lender, reference })
        }
        ("credit", Some(borrower), Some(lender), Some(lease), Some(reason), Some(reference)) => {
            Ok(Occasion::Credit { lease, borrower, lender, reason, reference })
        }
        _ => Err(row.unreadable()),
    }
}

fn lease_use(row: &mut Row) -> Result<LeaseUse, StoreError> {
    let (host, partition, started_at, ended_at) = (row.take()?, row.take()?, row.take()?, row.take()?);
    let (reason, Contract { terms, rounding, fee_rate, .. }) = (row.take_word()?, row.take_json()?);
    Ok(LeaseUse {
        host,
        partition,
        started_at,
        ended_at,
        reason,
        per_hour_micros: terms.price.per_hour_micros,
        rounding,
        fee_millionths: fee_rate,
    })
}

impl Work<'_> {
    /// The lease's row in the ledger; what it held of the borrower's credit is let go.
    pub(super) fn settle(&mut self, lease: &LeaseRow, end: End) -> Result<(), StoreError> {
        let bill = lease.contract.billing(lease.course.started_at, end.at).settle();
        let (borrower, lender) = (lease.borrower, lease.lender);
        let entry = Entry {
            id: EntryId(Uuid::now_v7()),
            at: self.now,
            currency: lease.contract.terms.price.currency,
            occasion: Occasion::Lease { lease: lease.id, borrower, lender },
            legs: Legs::of_lease(&bill),
        };
        self.book(&entry, Some(&lease.record()), Micros(-lease.worst_case.0))
    }

    /// Writes the entry, unless one of this reference was written before: then that is the answer, if it says the same.
    pub(super) fn book_once(
        &mut self,
        currency: Currency,
        occasion: Occasion,
        legs: Legs,
    ) -> Result<Entry, BookError> {
        match self.booked(&occasion)?.pop() {
            Some(before)
                if (before.currency, &before.occasion, before.legs) == (currency, &occasion, legs) =>
            {
                Ok(before)
            }
            Some(before) => {
                Err(BookError::ReferenceUsed(before.occasion.reference().unwrap_or_default().to_owned()))
            }
            None => self.book_new(currency, occasion, legs),
        }
    }

    /// The entries of this kind and reference.
    fn booked(&mut self, occasion: &Occasion) -> Result<Vec<Entry>, StoreError> {
        let select = format!("{SELECT} WHERE e.kind = $1 AND e.reference = $2");
        let values = values![occasion.kind(), occasion.reference().unwrap_or_default()];
        self.sql.all(&select, values, |row| Ok(read(row)?.0.entry))
    }

    fn book_new(&mut self, currency: Currency, occasion: Occasion, legs: Legs) -> Result<Entry, BookError> {
        let entry = Entry { id: EntryId(Uuid::now_v7()), at: self.now, currency, occasion, legs };
        self.book(&entry, None, Micros(0))?;
        Ok(entry)
    }

    /// Writes the entry, and what it changes in how accounts stand.
    fn book(&mut self, entry: &Entry, settles: Option<&LeaseRecord>, held: Micros) -> Result<(), StoreError> {
        let Entry { id, at, currency, occasion, legs } = entry;
        let insert = "INSERT INTO entries (id, at_us, kind, borrower, lender, lease, currency, borrower_micros, \
                      lender_micros, fees_micros, outside_micros, reason, reference, digest) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
        let digest = entry.digest(settles.map(LeaseRecord::digest).as_ref());
        self.sql.execute(
            insert,
            values![
                *id,
                *at,
                occasion.kind(),
                occasion.borrower(),
                occasion.lender(),
                occasion.lease(),
                *currency,
                legs.borrower,
                legs.lender,
                legs.fees,
                legs.outside,
                occasion.reason(),
                occasion.reference(),
                digest,
            ],
        )?;
        CrashPoint::InEntry.pass();
        if let Some(borrower) = occasion.borrower() {
            self.add(borrower.0, *currency, legs.borrower, held)?;
        }
        if let Some(lender) = occasion.lender() {
            self.add(lender.0, *currency, legs.lender, Micros(0))?;
        }
        Ok(())
    }

    /// No more is credited for a lease than it cost.
    fn may_be_credited(&mut self, lease: &LeaseRow, wanted: Amount) -> Result<(), BookError> {
        let end = lease.course.end().ok_or(BookError::NotSettled)?;
        let charge = lease.contract.billing(lease.course.started_at, end.at).settle().charge;
        let credited = credited(self.sql, lease.id)?;
        if credited.0.saturating_add(wanted.micros.0) <= charge.0 {
            return Ok(());
        }
        let amount = |micros| Amount { micros, currency: wanted.currency };
        Err(BookError::TooMuch { charged: amount(charge), credited: amount(credited), wanted })
    }
}

/// What was credited for the lease so far.
pub(super) fn credited(sql: &mut dyn Sql, lease: LeaseId) -> Result<Micros, StoreError> {
    let select = "SELECT CAST(coalesce(sum(borrower_micros), 0) AS BIGINT) FROM entries \
                  WHERE lease = $1 AND kind = 'credit'";
    sql.one(select, values![lease], |mut row| row.take())
}

/// As auditors see it.
pub(super) fn sealed(row: Row) -> Result<SealedEntry, StoreError> {
    let (LedgerEntry { entry, .. }, digest) = read(row)?;
    Ok(SealedEntry { entry, digest: digest.map(hex::encode) })
}
