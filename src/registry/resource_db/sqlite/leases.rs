//! Leases: made, ended and found.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params, types::Type};
use sha2::{Digest as _, Sha256};

use super::{
    super::{Contract, EndError, Page, Reserve, ReserveError, Reserved, StoreError},
    Sqlite, partitions,
    rows::{Json, Moment},
    writer::Work,
};
use crate::{
    api::registry::{Lease, LeaseEnd, MakeLease},
    domain::{
        id::{BorrowerId, HostId, LeaseId, LenderId, PartitionId},
        lease::{End, LeaseCourse, LeaseEffect, LeaseEvent, LeaseState, LeaseTransition},
        registration::RegistrationEvent,
        terms::Epoch,
    },
};

const SELECT: &str = "SELECT l.id, l.host, h.address, l.partition, l.borrower, l.lender, l.epoch, l.contract, \
                      l.started_at_us, l.expires_at_us, l.state, l.ended_at_us, l.end_reason \
                      FROM leases l JOIN hosts h ON h.id = l.host";
/// Most leases that expire in one transaction.
const EXPIRE_MAX: u32 = 500;

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
}

impl Sqlite {
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
            let row = find_of_borrower(work.db, borrower, lease)?.ok_or(EndError::NoSuchLease)?;
            Ok(work.end(row, LeaseEvent::Return, received_at)?.view())
        })
        .await
    }

    /// Ends the leases whose time has come, and says when the next one's does.
    pub async fn expire_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.write(|work| {
            for row in due(work.db, work.now)? {
                work.end(row, LeaseEvent::Expire, work.now)?;
            }
            let sql = "SELECT min(expires_at_us) FROM leases WHERE state = 'active'";
            let next: Option<Moment> = work.db.prepare_cached(sql)?.query_row((), |row| row.get(0))?;
            Ok(next.map(|moment| moment.0))
        })
        .await
    }

    pub async fn lease(&self, borrower: BorrowerId, lease: LeaseId) -> Result<Option<Lease>, StoreError> {
        self.read(move |db| Ok(find_of_borrower(db, borrower, lease)?.map(|row| row.view()))).await
    }

    /// The borrower's leases, newest first.
    pub async fn leases(&self, borrower: BorrowerId, page: Page) -> Result<Vec<Lease>, StoreError> {
        self.read(move |db| {
            let sql = format!(
                "{SELECT} WHERE l.borrower = ?1 AND (?2 IS NULL OR l.id < ?2) ORDER BY l.id DESC LIMIT ?3"
            );
            let mut statement = db.prepare_cached(&sql)?;
            let rows = statement.query_map((borrower.0, page.before, page.limit), LeaseRow::of)?;
            Ok(rows.map(|row| row.map(LeaseRow::view)).collect::<Result<_, _>>()?)
        })
        .await
    }

    /// How many leases run.
    pub async fn active_leases(&self) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM leases WHERE state = 'active'";
        self.read(move |db| Ok(db.query_row(sql, (), |row| row.get(0))?)).await
    }
}

fn find_of_borrower(
    db: &Connection,
    borrower: BorrowerId,
    lease: LeaseId,
) -> Result<Option<LeaseRow>, StoreError> {
    let sql = format!("{SELECT} WHERE l.id = ?1 AND l.borrower = ?2");
    Ok(db.prepare_cached(&sql)?.query_row((lease.0, borrower.0), LeaseRow::of).optional()?)
}

pub(super) fn find_of_host(
    db: &Connection,
    host: HostId,
    lease: LeaseId,
) -> Result<Option<LeaseRow>, StoreError> {
    let sql = format!("{SELECT} WHERE l.id = ?1 AND l.host = ?2");
    Ok(db.prepare_cached(&sql)?.query_row((lease.0, host.0), LeaseRow::of).optional()?)
}

fn due(db: &Connection, now: Timestamp) -> Result<Vec<LeaseRow>, StoreError> {
    let sql = format!(
        "{SELECT} WHERE l.state = 'active' AND l.expires_at_us <= ?1 ORDER BY l.expires_at_us LIMIT {EXPIRE_MAX}"
    );
    Ok(db.prepare_cached(&sql)?.query_map([Moment(now)], LeaseRow::of)?.collect::<Result<_, _>>()?)
}

/// What was asked for under this key, and the lease that it came to.
fn lease_request(
    db: &Connection,
    borrower: BorrowerId,
    key: &str,
) -> Result<Option<([u8; 32], LeaseId)>, StoreError> {
    let sql = "SELECT request_digest, lease FROM lease_requests WHERE borrower = ?1 AND idempotency_key = ?2";
    let mut statement = db.prepare_cached(sql)?;
    let found = statement.query_row((borrower.0, key), |row| Ok((row.get(0)?, LeaseId(row.get(1)?))));
    Ok(found.optional()?)
}

/// Stands for the whole of a wish, to tell whether it is the same one again.
fn digest(wish: &MakeLease) -> [u8; 32] {
    let MakeLease { host, partition, terms_version, duration_seconds } = wish;
    let text = format!("{host} {partition} {} {duration_seconds}", terms_version.0);
    Sha256::digest(text).into()
}

impl Work<'_> {
    fn granted_before(&self, reserve: &Reserve) -> Result<Option<LeaseRow>, ReserveError> {
        let Some(key) = &reserve.idempotency_key else { return Ok(None) };
        match lease_request(self.db, reserve.borrower, key)? {
            None => Ok(None),
            Some((request, _)) if request != digest(&reserve.wish) => Err(ReserveError::IdempotencyKeyReused),
            Some((_, lease)) => Ok(find_of_borrower(self.db, reserve.borrower, lease)?),
        }
    }

    fn reserve(&mut self, reserve: &Reserve) -> Result<LeaseRow, ReserveError> {
        let MakeLease { host, partition, terms_version, duration_seconds } = reserve.wish;
        let found = partitions::find(self.db, host, partition)?;
        let before = found.ok_or(ReserveError::NoSuchPartition { host, partition })?;
        let event = RegistrationEvent::Lend { lease: reserve.lease, accepted: terms_version };
        let after = before.registration.apply(event)?;
        if !reserve.host_is_heard {
            return Err(ReserveError::HostSilent(host));
        }
        let course = LeaseCourse::begin(self.now, Duration::from_secs(duration_seconds))
            .map_err(ReserveError::Duration)?;
        self.insert_lease(reserve, &course, after.epoch, &before)?;
        self.save_partition(&before, after, &before.terms)?;
        let made = find_of_borrower(self.db, reserve.borrower, reserve.lease)?;
        Ok(made.ok_or(StoreError::Lost("leases"))?)
    }

    fn insert_lease(
        &self,
        reserve: &Reserve,
        course: &LeaseCourse,
        epoch: Epoch,
        partition: &partitions::PartitionRow,
    ) -> Result<(), StoreError> {
        let contract = Contract {
            terms: partition.terms.clone(),
            rounding: reserve.rounding,
            fee_rate: reserve.fee_rate,
        };
        let sql = "INSERT INTO leases (id, host, partition, borrower, lender, epoch, contract, started_at_us, \
                   expires_at_us, state) SELECT :id, id, :partition, :borrower, lender, :epoch, :contract, \
                   :started_at, :expires_at, 'active' FROM hosts WHERE id = :host";
        self.db.prepare_cached(sql)?.execute(named_params! {
            ":id": reserve.lease.0, ":host": reserve.wish.host.0, ":partition": reserve.wish.partition.0,
            ":borrower": reserve.borrower.0, ":epoch": epoch.0, ":contract": Json(contract),
            ":started_at": Moment(course.started_at), ":expires_at": Moment(course.expires_at),
        })?;
        if let Some(key) = &reserve.idempotency_key {
            let sql = "INSERT INTO lease_requests (borrower, idempotency_key, request_digest, lease) \
                       VALUES (?1, ?2, ?3, ?4)";
            let values = (reserve.borrower.0, key, digest(&reserve.wish), reserve.lease.0);
            self.db.prepare_cached(sql)?.execute(values)?;
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
        &self,
        row: &mut LeaseRow,
        event: LeaseEvent,
        at: Timestamp,
    ) -> Result<Vec<LeaseEffect>, StoreError> {
        let LeaseTransition { course, effects } = row.course.apply(event, at).map_err(StoreError::Refused)?;
        let sql = "UPDATE leases SET state = :state, ended_at_us = :ended_at, end_reason = :reason \
                   WHERE id = :id AND state = :was";
        let updated = self.db.prepare_cached(sql)?.execute(named_params! {
            ":state": state_column(course.state), ":ended_at": course.end().map(|end| Moment(end.at)),
            ":reason": course.end().map(|end| end.reason.as_str()), ":id": row.id.0,
            ":was": state_column(row.course.state),
        })?;
        row.course = course;
        if updated == 1 { Ok(effects) } else { Err(StoreError::Lost("leases")) }
    }

    fn await_clean(&mut self, row: &LeaseRow) -> Result<(), StoreError> {
        let before = partitions::find(self.db, row.host, row.partition)?;
        let before = before.ok_or(StoreError::Lost("partitions"))?;
        let after = before.registration.apply(RegistrationEvent::LeaseEnded(row.id));
        let after = after.map_err(|_| StoreError::Lost("partitions"))?;
        self.save_partition(&before, after, &before.terms).map(drop)
    }
}

impl LeaseRow {
    pub(super) fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let reason: Option<String> = row.get(12)?;
        let ended_at: Option<Moment> = row.get(11)?;
        Ok(Self {
            id: LeaseId(row.get(0)?),
            host: HostId(row.get(1)?),
            host_address: row.get(2)?,
            partition: PartitionId(row.get(3)?),
            borrower: BorrowerId(row.get(4)?),
            lender: LenderId(row.get(5)?),
            epoch: Epoch(row.get(6)?),
            contract: row.get::<_, Json<Contract>>(7)?.0,
            course: LeaseCourse {
                started_at: row.get::<_, Moment>(8)?.0,
                expires_at: row.get::<_, Moment>(9)?.0,
                state: lease_state(&row.get::<_, String>(10)?, ended_at.zip(reason))?,
            },
        })
    }

    fn view(self) -> Lease {
        let end = self.course.end().map(|end| self.end_view(end));
        Lease {
            id: self.id,
            host: self.host,
            host_address: self.host_address,
            partition: self.partition,
            borrower: self.borrower,
            terms: self.contract.terms,
            rounding: self.contract.rounding,
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

fn lease_state(state: &str, end: Option<(Moment, String)>) -> rusqlite::Result<LeaseState> {
    let unreadable = || rusqlite::Error::InvalidColumnType(10, "state".to_owned(), Type::Text);
    let end = match end {
        None => None,
        Some((at, reason)) => Some(End { at: at.0, reason: reason.parse().map_err(|_| unreadable())? }),
    };
    match (state, end) {
        ("active", None) => Ok(LeaseState::Active),
        ("ended", Some(end)) => Ok(LeaseState::Ended(end)),
        ("settled", Some(end)) => Ok(LeaseState::Settled(end)),
        _ => Err(unreadable()),
    }
}

fn state_column(state: LeaseState) -> &'static str {
    match state {
        LeaseState::Active => "active",
        LeaseState::Ended(_) => "ended",
        LeaseState::Settled(_) => "settled",
    }
}
