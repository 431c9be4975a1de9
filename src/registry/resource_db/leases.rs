//! Leases: made, ended and found.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{
    Page, ResourceDb, StoreError, partitions,
    sql::Sql,
    value::{Row, json, values},
    work::Work,
};
use crate::{
    api::registry::{Lease, LeaseEnd, MakeLease},
    domain::{
        id::{BorrowerId, HostId, KeyId, LeaseId, LenderId, PartitionId},
        lease::{End, EndReason, LeaseCourse, LeaseEffect, LeaseEvent, LeaseState, LeaseTransition},
        ledger::Billing,
        money::{FeeRate, Rounding},
        registration::{RegistrationEvent, RegistrationNotAllowed},
        terms::{Epoch, Terms},
        tls_key::TlsKey,
    },
    registry::crash_point::CrashPoint,
};

const SELECT: &str = "SELECT l.id, l.host, h.address, l.partition, l.borrower, l.lender, l.epoch, l.contract, \
                      l.started_at_us, l.expires_at_us, l.state, l.ended_at_us, l.end_reason, h.tls_key, l.key_id \
                      FROM leases l JOIN hosts h ON h.id = l.host";
/// Most leases that expire in one transaction.
const EXPIRE_MAX: u32 = 500;

/// What both sides of a lease agreed on; kept with it, so that its bill can be recomputed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    pub terms: Terms,
    pub rounding: Rounding,
    pub fee_rate: FeeRate,
}

impl Contract {
    pub fn billing(&self, started_at: Timestamp, ended_at: Timestamp) -> Billing {
        Billing {
            started_at,
            ended_at,
            price: self.terms.price,
            rounding: self.rounding,
            fee_rate: self.fee_rate,
        }
    }
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
    pub rounding: Rounding,
    pub fee_rate: FeeRate,
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
    #[error("the lease would end beyond all time")]
    Duration(#[source] jiff::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Error)]
pub enum EndError {
    #[error("there is no such lease")]
    NoSuchLease,
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(super) struct LeaseRow {
    pub(super) id: LeaseId,
    pub(super) host: HostId,
    host_address: String,
    pub(super) partition: PartitionId,
    pub(super) borrower: BorrowerId,
    pub(super) lender: LenderId,
    epoch: Epoch,
    pub(super) contract: Contract,
    pub(super) course: LeaseCourse,
    host_tls_key: Option<TlsKey>,
    pub(super) key: KeyId,
}

impl ResourceDb {
    /// F8: the borrower accepts the terms it was shown; then the partition is its, and billing starts. Of all
    /// who try at the same time one succeeds (law 1).
    pub async fn reserve(&self, reserve: Reserve) -> Result<Reserved, ReserveError> {
        self.write(move |work| match work.granted_before(&reserve)? {
            Some(row) => Ok(Reserved::Before(row.view())),
            None => work.reserve(&reserve).map(|row| Reserved::Now(row.view())),
        })
        .await
    }

    /// S58-S61: the borrower gives the partition back. A lease that has ended stays as it ended.
    pub async fn end_lease(
        &self,
        lease: LeaseId,
        borrower: BorrowerId,
        received_at: Timestamp,
    ) -> Result<Lease, EndError> {
        self.write(move |work| {
            let row = find_of_borrower(work.sql, borrower, lease)?.ok_or(EndError::NoSuchLease)?;
            Ok(work.end(row, LeaseEvent::Return, received_at)?.view())
        })
        .await
    }

    /// Ends the leases whose time has come, and says when the next one's does.
    pub async fn expire_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.write(|work| {
            for row in due(work.sql, work.now)? {
                work.end(row, LeaseEvent::Expire, work.now)?;
                CrashPoint::InExpiry.pass();
            }
            let next = "SELECT min(expires_at_us) FROM leases WHERE state = 'active'";
            work.sql.one(next, &[], |mut row| row.take())
        })
        .await
    }

    pub async fn lease(&self, borrower: BorrowerId, lease: LeaseId) -> Result<Option<Lease>, StoreError> {
        self.read(move |sql| Ok(find_of_borrower(sql, borrower, lease)?.map(LeaseRow::view))).await
    }

    /// The borrower's leases, newest first.
    pub async fn leases(&self, borrower: BorrowerId, page: Page) -> Result<Vec<Lease>, StoreError> {
        self.read(move |sql| {
            let select = format!(
                "{SELECT} WHERE l.borrower = $1 AND ($2 IS NULL OR l.id < $2) ORDER BY l.id DESC LIMIT $3"
            );
            sql.all(&select, values![borrower, page.before, page.limit], |row| Ok(LeaseRow::of(row)?.view()))
        })
        .await
    }

    /// How many leases run.
    pub async fn active_leases(&self) -> Result<u64, StoreError> {
        let count = "SELECT count(*) FROM leases WHERE state = 'active'";
        self.read(move |sql| sql.one(count, &[], |mut row| row.take())).await
    }
}

pub(super) fn find_of_borrower(
    sql: &mut dyn Sql,
    borrower: BorrowerId,
    lease: LeaseId,
) -> Result<Option<LeaseRow>, StoreError> {
    let select = format!("{SELECT} WHERE l.id = $1 AND l.borrower = $2");
    sql.first(&select, values![lease, borrower], LeaseRow::of)
}

pub(super) fn find_of_host(
    sql: &mut dyn Sql,
    host: HostId,
    lease: LeaseId,
) -> Result<Option<LeaseRow>, StoreError> {
    let select = format!("{SELECT} WHERE l.id = $1 AND l.host = $2");
    sql.first(&select, values![lease, host], LeaseRow::of)
}

pub(super) fn find_of_key(sql: &mut dyn Sql, key: KeyId) -> Result<Option<LeaseRow>, StoreError> {
    let select = format!("{SELECT} WHERE l.key_id = $1 OR (l.key_id IS NULL AND l.id = $1)");
    sql.first(&select, values![key], LeaseRow::of)
}

fn due(sql: &mut dyn Sql, now: Timestamp) -> Result<Vec<LeaseRow>, StoreError> {
    let select = format!(
        "{SELECT} WHERE l.state = 'active' AND l.expires_at_us <= $1 ORDER BY l.expires_at_us LIMIT {EXPIRE_MAX}"
    );
    sql.all(&select, values![now], LeaseRow::of)
}

/// What was asked for under this key, and the lease that it came to.
fn lease_request(
    sql: &mut dyn Sql,
    borrower: BorrowerId,
    key: &str,
) -> Result<Option<([u8; 32], LeaseId)>, StoreError> {
    let select =
        "SELECT request_digest, lease FROM lease_requests WHERE borrower = $1 AND idempotency_key = $2";
    sql.first(select, values![borrower, key], |mut row| Ok((row.take()?, row.take()?)))
}

/// Stands for the whole of a wish, to tell whether it is the same one again.
fn digest(wish: &MakeLease) -> [u8; 32] {
    let MakeLease { host, partition, terms_version, duration_seconds } = wish;
    let text = format!("{host} {partition} {} {duration_seconds}", terms_version.0);
    Sha256::digest(text).into()
}

impl Work<'_> {
    fn granted_before(&mut self, reserve: &Reserve) -> Result<Option<LeaseRow>, ReserveError> {
        let Some(key) = &reserve.idempotency_key else { return Ok(None) };
        match lease_request(self.sql, reserve.borrower, key)? {
            None => Ok(None),
            Some((request, _)) if request != digest(&reserve.wish) => Err(ReserveError::IdempotencyKeyReused),
            Some((_, lease)) => Ok(find_of_borrower(self.sql, reserve.borrower, lease)?),
        }
    }

    fn reserve(&mut self, reserve: &Reserve) -> Result<LeaseRow, ReserveError> {
        let MakeLease { host, partition, terms_version, duration_seconds } = reserve.wish;
        let found = partitions::find(self.sql, host, partition)?;
        let before = found.ok_or(ReserveError::NoSuchPartition { host, partition })?;
        let event = RegistrationEvent::Lend { lease: reserve.lease, accepted: terms_version };
        let after = before.registration.apply(event)?;
        if !reserve.host_is_heard {
            return Err(ReserveError::HostSilent(host));
        }
        let course = LeaseCourse::begin(self.now, Duration::from_secs(duration_seconds))
            .map_err(ReserveError::Duration)?;
        self.insert_lease(reserve, &course, after.epoch, &before)?;
        CrashPoint::InLease.pass();
        self.save_partition(&before, after, &before.terms)?;
        let made = find_of_borrower(self.sql, reserve.borrower, reserve.lease)?;
        Ok(made.ok_or(StoreError::Lost("leases"))?)
    }

    fn insert_lease(
        &mut self,
        reserve: &Reserve,
        course: &LeaseCourse,
        epoch: Epoch,
        partition: &partitions::PartitionRow,
    ) -> Result<(), StoreError> {
        let MakeLease { host, partition: id, .. } = reserve.wish;
        let contract = json(&Contract {
            terms: partition.terms.clone(),
            rounding: reserve.rounding,
            fee_rate: reserve.fee_rate,
        })?;
        let insert = "INSERT INTO leases (id, host, partition, borrower, lender, epoch, contract, started_at_us, \
                      expires_at_us, state) SELECT $1, id, $2, $3, lender, $4, $5, $6, $7, 'active' FROM hosts \
                      WHERE id = $8";
        let (started_at, expires_at) = (course.started_at, course.expires_at);
        let row =
            values![reserve.lease, id, reserve.borrower, epoch.0, contract, started_at, expires_at, host];
        self.sql.execute(insert, row)?;
        if let Some(key) = &reserve.idempotency_key {
            let insert = "INSERT INTO lease_requests (borrower, idempotency_key, request_digest, lease) \
                          VALUES ($1, $2, $3, $4)";
            let row = values![reserve.borrower, key.as_str(), digest(&reserve.wish), reserve.lease];
            self.sql.execute(insert, row)?;
        }
        Ok(())
    }

    /// Lets `event` end the lease, with all that follows from it; a lease that has ended stays as it ended.
    pub(super) fn end(
        &mut self,
        mut row: LeaseRow,
        event: LeaseEvent,
        at: Timestamp,
    ) -> Result<LeaseRow, StoreError> {
        if row.course.end().is_some() {
            return Ok(row);
        }
        let mut effects = self.advance(&mut row, event, at)?;
        CrashPoint::InEnd.pass();
        while let Some(effect) = effects.pop() {
            match effect {
                LeaseEffect::AwaitClean => self.await_clean(&row)?,
                LeaseEffect::Settle => effects.extend(self.advance(&mut row, LeaseEvent::Settle, at)?),
                LeaseEffect::WriteLedgerRow(end) => self.write_ledger_row(&row, end)?,
            }
        }
        Ok(row)
    }

    /// Stores the lease's next state, on condition that the one before is what the machine was shown.
    fn advance(
        &mut self,
        row: &mut LeaseRow,
        event: LeaseEvent,
        at: Timestamp,
    ) -> Result<Vec<LeaseEffect>, StoreError> {
        let LeaseTransition { course, effects } = row.course.apply(event, at).map_err(StoreError::Refused)?;
        let update =
            "UPDATE leases SET state = $1, ended_at_us = $2, end_reason = $3 WHERE id = $4 AND state = $5";
        let (ended_at, reason) =
            (course.end().map(|end| end.at), course.end().map(|end| end.reason.as_str()));
        let (state, was) = (state_column(course.state), state_column(row.course.state));
        let updated = self.sql.execute(update, values![state, ended_at, reason, row.id, was])?;
        row.course = course;
        if updated == 1 { Ok(effects) } else { Err(StoreError::Lost("leases")) }
    }

    fn await_clean(&mut self, row: &LeaseRow) -> Result<(), StoreError> {
        let before = partitions::find(self.sql, row.host, row.partition)?;
        let before = before.ok_or(StoreError::Lost("partitions"))?;
        let after = before.registration.apply(RegistrationEvent::LeaseEnded(row.id));
        let after = after.map_err(|_| StoreError::Lost("partitions"))?;
        self.save_partition(&before, after, &before.terms).map(drop)
    }
}

impl LeaseRow {
    fn of(mut row: Row) -> Result<Self, StoreError> {
        let id: LeaseId = row.take()?;
        Ok(Self {
            id,
            host: row.take()?,
            host_address: row.take()?,
            partition: row.take()?,
            borrower: row.take()?,
            lender: row.take()?,
            epoch: Epoch(row.take()?),
            contract: row.take_json()?,
            course: LeaseCourse {
                started_at: row.take()?,
                expires_at: row.take()?,
                state: lease_state(&mut row)?,
            },
            host_tls_key: row.take_word_or_none()?,
            key: row.take::<Option<_>>()?.unwrap_or(KeyId(id.0)),
        })
    }

    pub(super) fn view(self) -> Lease {
        let end = self.course.end().map(|end| self.end_view(end));
        Lease {
            id: self.id,
            host: self.host,
            host_address: self.host_address,
            host_tls_key: self.host_tls_key,
            partition: self.partition,
            borrower: self.borrower,
            terms: self.contract.terms,
            rounding: self.contract.rounding,
            key: self.key,
            epoch: self.epoch,
            started_at: self.course.started_at,
            expires_at: self.course.expires_at,
            end,
        }
    }

    fn end_view(&self, end: End) -> LeaseEnd {
        let bill = self.contract.billing(self.course.started_at, end.at).settle();
        let currency = self.contract.terms.price.currency;
        LeaseEnd { at: end.at, reason: end.reason, charge: bill.charge, currency }
    }
}

/// State, moment and reason of the end, as they follow one another.
fn lease_state(row: &mut Row) -> Result<LeaseState, StoreError> {
    let (state, at) = (row.take::<String>()?, row.take::<Option<_>>()?);
    let reason = row.take::<Option<String>>()?.map(|reason| reason.parse::<EndReason>());
    let reason = reason.transpose().map_err(|_| row.unreadable())?;
    match (state.as_str(), at.zip(reason).map(|(at, reason)| End { at, reason })) {
        ("active", None) => Ok(LeaseState::Active),
        ("ended", Some(end)) => Ok(LeaseState::Ended(end)),
        ("settled", Some(end)) => Ok(LeaseState::Settled(end)),
        _ => Err(row.unreadable()),
    }
}

fn state_column(state: LeaseState) -> &'static str {
    match state {
        LeaseState::Active => "active",
        LeaseState::Ended(_) => "ended",
        LeaseState::Settled(_) => "settled",
    }
}
