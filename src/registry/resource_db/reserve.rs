//! Leases, as they are quoted and made (F8, S41-S48).

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{
    ResourceDb, StoreError,
    balances::HoldError,
    leases::{LeaseRow, find_of_borrower},
    partitions,
    sql::Sql,
    value::{json, values},
    work::Work,
};
use crate::{
    api::{
        problem::{Code, Problem},
        registry::{AskQuote, Lease, MakeLease, Quote},
    },
    domain::{
        id::{BorrowerId, HostId, LeaseId, PartitionId},
        lease::LeaseCourse,
        ledger::contract::{BadWish, Contract},
        money::{Amount, FeeRate, Micros, Rounding},
        receipt::{
            credit::{CreditRule, ReceiptTerms},
            key::ReceiptKey,
        },
        registration::{RegistrationEvent, RegistrationNotAllowed},
        terms::{Epoch, Terms},
    },
    registry::crash_point::CrashPoint,
};

/// What the registry adds to every contract.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    pub rounding: Rounding,
    pub fee_rate: FeeRate,
    /// Where the host signs receipts.
    pub credit: CreditRule,
}

/// A wish for a lease, with what the registry adds to it.
#[derive(Debug, Clone)]
pub struct Reserve {
    /// The name of the lease, if one is made.
    pub lease: LeaseId,
    pub borrower: BorrowerId,
    pub wish: MakeLease,
    pub idempotency_key: Option<String>,
    pub host_is_heard: bool,
    pub conditions: Conditions,
}

/// The lease that a wish came to.
#[derive(Debug, Clone)]
pub enum Reserved {
    Now(Lease),
    /// The same wish was granted before.
    Before(Lease),
}

#[derive(Debug, Error)]
pub enum ReserveError {
    #[error("host {host} offers no partition {partition}")]
    NoSuchPartition { host: HostId, partition: PartitionId },
    #[error("host {0} was not heard of lately")]
    HostSilent(HostId),
    #[error(transparent)]
    NotAllowed(#[from] RegistrationNotAllowed),
    #[error("the idempotency key was used for another request")]
    IdempotencyKeyReused,
    /// The same request was refused before.
    #[error("{}", .0.detail)]
    RefusedBefore(Box<Problem>),
    #[error(transparent)]
    BadWish(#[from] BadWish),
    #[error(transparent)]
    Hold(#[from] HoldError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ReserveError {
    /// What the borrower is told; none: the fault is the registry's.
    pub fn problem(&self) -> Option<Problem> {
        let code = match self {
            Self::NoSuchPartition { .. } => Code::NotFound,
            Self::HostSilent(_) => Code::HostSilent,
            Self::IdempotencyKeyReused => Code::IdempotencyKeyReused,
            Self::RefusedBefore(problem) => return Some(Problem::clone(problem)),
            Self::BadWish(_) => Code::InvalidRequest,
            Self::Hold(HoldError::Credit(_)) => Code::CreditExceeded,
            Self::NotAllowed(refusal) => match refusal {
                RegistrationNotAllowed::Lent | RegistrationNotAllowed::AwaitingClean => Code::AlreadyLent,
                RegistrationNotAllowed::Withdrawn => Code::NotFound,
                RegistrationNotAllowed::OtherVersion { .. } => Code::TermsChanged,
                RegistrationNotAllowed::NotLentBy(_)
                | RegistrationNotAllowed::StillLent(_)
                | RegistrationNotAllowed::Outdated { .. } => return None,
            },
            Self::Hold(HoldError::Store(_)) | Self::Store(_) => return None,
        };
        Some(Problem::new(code, self.to_string()))
    }
}

impl ResourceDb {
    /// What a lease of the partition would cost at most, by its terms of now.
    pub async fn quote(&self, wish: AskQuote, conditions: Conditions) -> Result<Quote, ReserveError> {
        let AskQuote { host, partition, .. } = wish;
        let found = self
            .read(move |sql| {
                let Some(row) = partitions::find(sql, host, partition)? else { return Ok(None) };
                let select = "SELECT address, receipt_key FROM hosts WHERE id = $1";
                let about =
                    sql.one(select, values![host], |mut row| Ok((row.take()?, row.take_word_or_none()?)))?;
                Ok(Some((row, about)))
            })
            .await?;
        let (row, about) = found.ok_or(ReserveError::NoSuchPartition { host, partition })?;
        // Whether it could be lent now.
        let (lease, accepted) = (LeaseId(uuid::Uuid::nil()), row.registration.version);
        row.registration.apply(RegistrationEvent::Lend { lease, accepted })?;
        Ok(quote(&wish, about, row, conditions)?)
    }

    /// F8: the borrower accepts the terms it was shown; then the partition is its, and billing starts. Of all
    /// who try at the same time one succeeds (law 1).
    pub async fn reserve(&self, reserve: Reserve) -> Result<Reserved, ReserveError> {
        self.write(move |work| {
            if let Some(row) = work.granted_before(&reserve)? {
                return Ok(Ok(Reserved::Before(row.view())));
            }
            let refused = match work.reserve(&reserve) {
                Ok(row) => return Ok(Ok(Reserved::Now(row.view()))),
                Err(refused) => refused,
            };
            // Nothing was changed by then.
            match refused.problem() {
                Some(problem) => work.remember_refusal(&reserve, &problem).map(|()| Err(refused)),
                None => Err(refused),
            }
        })
        .await?
    }
}

fn quote(
    wish: &AskQuote,
    (host_address, receipt_key): (String, Option<ReceiptKey>),
    row: partitions::PartitionRow,
    conditions: Conditions,
) -> Result<Quote, BadWish> {
    let contract = conditions.contract(row.terms, receipt_key);
    let budget = contract.budget(wish.budget)?;
    // How long it is does not depend on when it begins.
    let course = contract.begin(jiff::Timestamp::UNIX_EPOCH, wish.duration_seconds, budget)?;
    let currency = contract.terms.price.currency;
    Ok(Quote {
        host: wish.host,
        host_address,
        partition: wish.partition,
        terms_version: row.registration.version,
        rounding: contract.rounding,
        receipts: contract.receipts,
        ends_after_seconds: course.length().as_secs(),
        ends_for: course.planned_end().reason,
        worst_case: Amount { micros: contract.worst_case(&course), currency },
        terms: contract.terms,
    })
}

impl Conditions {
    fn contract(self, terms: Terms, receipt_key: Option<ReceiptKey>) -> Contract {
        let Self { rounding, fee_rate, credit } = self;
        let receipts = receipt_key.map(|key| ReceiptTerms { key, credit });
        Contract { terms, rounding, fee_rate, receipts }
    }
}

/// A request under an idempotency key, and what it came to.
struct EarlierRequest {
    digest: [u8; 32],
    lease: Option<LeaseId>,
    refusal: Option<Problem>,
}

fn earlier_request(
    sql: &mut dyn Sql,
    borrower: BorrowerId,
    key: &str,
) -> Result<Option<EarlierRequest>, StoreError> {
    let select = "SELECT request_digest, lease, refusal FROM lease_requests \
                  WHERE borrower = $1 AND idempotency_key = $2";
    sql.first(select, values![borrower, key], |mut row| {
        Ok(EarlierRequest { digest: row.take()?, lease: row.take()?, refusal: row.take_json_or_none()? })
    })
}

/// Stands for the whole of a wish, to tell whether it is the same one again.
fn digest(wish: &MakeLease) -> [u8; 32] {
    let MakeLease { host, partition, terms_version, duration_seconds, budget } = wish;
    let budget = budget.map_or_else(String::new, |budget| format!(" {budget}"));
    Sha256::digest(format!("{host} {partition} {} {duration_seconds}{budget}", terms_version.0)).into()
}

/// A lease that is about to be made.
struct Planned {
    epoch: Epoch,
    contract: Contract,
    course: LeaseCourse,
    budget: Option<Micros>,
    worst_case: Micros,
}

impl Work<'_> {
    fn granted_before(&mut self, reserve: &Reserve) -> Result<Option<LeaseRow>, ReserveError> {
        let Some(key) = &reserve.idempotency_key else { return Ok(None) };
        let Some(earlier) = earlier_request(self.sql, reserve.borrower, key)? else { return Ok(None) };
        match (earlier.lease, earlier.refusal) {
            _ if earlier.digest != digest(&reserve.wish) => Err(ReserveError::IdempotencyKeyReused),
            (Some(lease), _) => Ok(find_of_borrower(self.sql, reserve.borrower, lease)?),
            (None, Some(refusal)) => Err(ReserveError::RefusedBefore(refusal.into())),
            (None, None) => Err(StoreError::Lost("lease_requests").into()),
        }
    }

    fn remember_refusal(&mut self, reserve: &Reserve, problem: &Problem) -> Result<(), ReserveError> {
        let Some(key) = &reserve.idempotency_key else { return Ok(()) };
        let insert = "INSERT INTO lease_requests (borrower, idempotency_key, request_digest, refusal) \
                      VALUES ($1, $2, $3, $4)";
        let row = values![reserve.borrower, key.as_str(), digest(&reserve.wish), json(problem)?];
        self.sql.execute(insert, row)?;
        Ok(())
    }

    fn reserve(&mut self, reserve: &Reserve) -> Result<LeaseRow, ReserveError> {
        let MakeLease { host, partition, terms_version, duration_seconds, budget } = reserve.wish;
        let found = partitions::find(self.sql, host, partition)?;
        let before = found.ok_or(ReserveError::NoSuchPartition { host, partition })?;
        let event = RegistrationEvent::Lend { lease: reserve.lease, accepted: terms_version };
        let after = before.registration.apply(event)?;
        if !reserve.host_is_heard {
            return Err(ReserveError::HostSilent(host));
        }
        let select = "SELECT receipt_key FROM hosts WHERE id = $1";
        let receipt_key = self.sql.one(select, values![host], |mut row| row.take_word_or_none())?;
        let contract = reserve.conditions.contract(before.terms.clone(), receipt_key);
        let budget = contract.budget(budget)?;
        let course = contract.begin(self.now, duration_seconds, budget)?;
        let worst_case = contract.worst_case(&course);
        self.hold(reserve.borrower, contract.terms.price.currency, worst_case)?;
        let planned = Planned { epoch: after.epoch, contract, course, budget, worst_case };
        self.insert_lease(reserve, &planned)?;
        CrashPoint::InLease.pass();
        self.save_partition(&before, after, &before.terms)?;
        let made = find_of_borrower(self.sql, reserve.borrower, reserve.lease)?;
        Ok(made.ok_or(StoreError::Lost("leases"))?)
    }

    fn insert_lease(&mut self, reserve: &Reserve, planned: &Planned) -> Result<(), StoreError> {
        let MakeLease { host, partition, .. } = reserve.wish;
        let Planned { epoch, contract, course, budget, worst_case } = planned;
        let insert = "INSERT INTO leases (id, host, partition, borrower, lender, epoch, contract, started_at_us, \
                      asked_until_us, expires_at_us, budget_micros, worst_case_micros, state) \
                      SELECT $1, id, $2, $3, lender, $4, $5, $6, $7, $8, $9, $10, 'active' FROM hosts WHERE id = $11";
        let row = values![
            reserve.lease,
            partition,
            reserve.borrower,
            epoch.0,
            json(contract)?,
            course.started_at,
            course.asked_until,
            course.planned_end().at,
            *budget,
            *worst_case,
            host,
        ];
        self.sql.execute(insert, row)?;
        if let Some(key) = &reserve.idempotency_key {
            let insert = "INSERT INTO lease_requests (borrower, idempotency_key, request_digest, lease) \
                          VALUES ($1, $2, $3, $4)";
            let row = values![reserve.borrower, key.as_str(), digest(&reserve.wish), reserve.lease];
            self.sql.execute(insert, row)?;
        }
        Ok(())
    }
}
