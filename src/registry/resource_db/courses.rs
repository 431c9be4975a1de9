//! Leases, as they go on and end: returned, renewed, recalled, overdue.

use jiff::Timestamp;
use thiserror::Error;

use super::{
    ResourceDb, StoreError,
    balances::HoldError,
    leases::{LeaseRow, SELECT, find, find_of_borrower, find_of_lender, state_column},
    partitions,
    value::values,
    work::{Happened, Work},
};
use crate::{
    api::registry::{Lease, RenewLease},
    domain::{
        id::{BorrowerId, HostId, LeaseId, LenderId},
        lease::{HostWord, LeaseCourse, LeaseEffect, LeaseEvent, LeaseNotAllowed, LeaseTransition},
        ledger::contract::BadWish,
        money::Micros,
        registration::RegistrationEvent,
    },
    registry::crash_point::CrashPoint,
};

#[derive(Debug, Error)]
pub enum EndError {
    #[error("there is no such lease")]
    NoSuchLease,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a lease's end does not move.
#[derive(Debug, Error)]
pub enum MoveEndError {
    #[error("there is no such lease")]
    NoSuchLease,
    #[error(transparent)]
    NotAllowed(#[from] LeaseNotAllowed),
    #[error(transparent)]
    BadWish(#[from] BadWish),
    #[error(transparent)]
    Hold(#[from] HoldError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A lease whose planned end has come.
#[derive(Debug, Clone, Copy)]
pub struct Overdue {
    pub lease: LeaseId,
    pub host: HostId,
    pub course: LeaseCourse,
    /// The last moment that the database knows of at which its host was heard.
    pub host_confirmed_at: Option<Timestamp>,
}

impl ResourceDb {
    /// S58-S61: the borrower gives the partition back. A lease that has ended stays as it ended; of a host that is
    /// silent it is not billed for what that did not confirm.
    pub async fn end_lease(
        &self,
        lease: LeaseId,
        borrower: BorrowerId,
        host: HostWord,
        received_at: Timestamp,
    ) -> Result<Lease, EndError> {
        self.write(move |work| {
            let row = find_of_borrower(work.sql, borrower, lease)?.ok_or(EndError::NoSuchLease)?;
            let event = match host {
                HostWord::Heard | HostWord::NotYetHeard => LeaseEvent::Return,
                HostWord::SilentSince(confirmed_at) => LeaseEvent::Lost { confirmed_at },
            };
            Ok(work.end(row, event, received_at)?.view())
        })
        .await
    }

    /// The borrower wants the lease longer, or its budget larger.
    pub async fn renew_lease(
        &self,
        lease: LeaseId,
        borrower: BorrowerId,
        wish: RenewLease,
    ) -> Result<Lease, MoveEndError> {
        self.write(move |work| {
            let mut row = find_of_borrower(work.sql, borrower, lease)?.ok_or(MoveEndError::NoSuchLease)?;
            let budget = row.contract.budget(wish.budget)?.or(row.budget);
            let event = row.contract.renewal(&row.course, wish.duration_seconds, budget)?;
            let transition = row.course.apply(event, work.now)?;
            row.budget = budget;
            work.replan(row, transition, Happened::LeaseRenewed).map(LeaseRow::view)
        })
        .await
    }

    /// The lender wants its partition back, after the notice that the terms state.
    pub async fn recall_lease(&self, lease: LeaseId, lender: LenderId) -> Result<Lease, MoveEndError> {
        self.write(move |work| {
            let row = find_of_lender(work.sql, lender, lease)?.ok_or(MoveEndError::NoSuchLease)?;
            let event = LeaseEvent::Recall { notice: row.contract.terms.lending.recall_notice() };
            let transition = row.course.apply(event, work.now)?;
            work.replan(row, transition, Happened::LeaseRecalled).map(LeaseRow::view)
        })
        .await
    }

    /// Leases whose planned end has come by `now`, soonest end first: those after the one of `after`.
    pub async fn overdue(
        &self,
        now: Timestamp,
        after: Option<(Timestamp, LeaseId)>,
        limit: u32,
    ) -> Result<Vec<Overdue>, StoreError> {
        let (at, lease) = after.unwrap_or((Timestamp::UNIX_EPOCH, LeaseId(uuid::Uuid::nil())));
        self.read(move |sql| {
            let select = format!(
                "{SELECT} WHERE l.state = 'active' AND l.expires_at_us <= $1 AND (l.expires_at_us, l.id) > ($2, $3) \
                 ORDER BY l.expires_at_us, l.id LIMIT $4"
            );
            sql.all(&select, values![now, at, lease, limit], |row| Ok(LeaseRow::of(row)?.overdue()))
        })
        .await
    }

    /// Lets each event end its lease, if it still applies. That they were due at `now` was judged by another clock than the
    /// database's, which may be a little behind.
    pub async fn end_overdue(
        &self,
        ends: Vec<(LeaseId, LeaseEvent)>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(move |work| {
            let now = work.now.max(now);
            for (lease, event) in &ends {
                let row = find(work.sql, *lease)?.ok_or(StoreError::Lost("leases"))?;
                // Renewed in the meantime, it runs on.
                if row.course.apply(*event, now).is_ok() {
                    work.end(row, *event, now)?;
                    CrashPoint::InExpiry.pass();
                }
            }
            Ok(())
        })
        .await
    }

    /// When the next lease's planned end comes, of those whose has not come by `now`.
    pub async fn next_planned_end(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let next = "SELECT min(expires_at_us) FROM leases WHERE state = 'active' AND expires_at_us > $1";
        self.read(move |sql| sql.one(next, values![now], |mut row| row.take())).await
    }
}

impl LeaseRow {
    fn overdue(self) -> Overdue {
        let Self { id: lease, host, course, host_confirmed_at, .. } = self;
        Overdue { lease, host, course, host_confirmed_at }
    }
}

impl Work<'_> {
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
                LeaseEffect::Tell => self.tell(&row, Happened::LeaseEnded)?,
                LeaseEffect::AwaitClean => self.await_clean(&row)?,
                LeaseEffect::Settle => effects.extend(self.advance(&mut row, LeaseEvent::Settle, at)?),
                LeaseEffect::WriteLedgerRow(end) => self.settle(&row, end)?,
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

    /// Stores a planned end that moved; what the lease holds of the borrower's credit moves with it.
    fn replan(
        &mut self,
        mut row: LeaseRow,
        transition: LeaseTransition,
        happened: Happened,
    ) -> Result<LeaseRow, MoveEndError> {
        let LeaseTransition { course, effects } = transition;
        let (was, worst_case) = (row.course, row.contract.worst_case(&course));
        let more = Micros(worst_case.0 - row.worst_case.0);
        self.hold(row.borrower, row.contract.terms.price.currency, more)?;
        let update = "UPDATE leases SET asked_until_us = $1, expires_at_us = $2, budget_micros = $3, \
                      recalled_at_us = $4, recall_until_us = $5, worst_case_micros = $6 \
                      WHERE id = $7 AND state = 'active' AND expires_at_us = $8";
        let recall = course.recall.map(|recall| (recall.asked_at, recall.until)).unzip();
        let updated = self.sql.execute(
            update,
            values![
                course.asked_until,
                course.planned_end().at,
                row.budget,
                recall.0,
                recall.1,
                worst_case,
                row.id,
                was.planned_end().at,
            ],
        )?;
        if updated != 1 {
            return Err(StoreError::Lost("leases").into());
        }
        (row.course, row.worst_case) = (course, worst_case);
        if effects.contains(&LeaseEffect::Tell) {
            self.tell(&row, happened)?;
        }
        Ok(row)
    }

    fn tell(&mut self, row: &LeaseRow, happened: Happened) -> Result<(), StoreError> {
        self.announce(row.host, row.partition, happened).map(drop)
    }

    fn await_clean(&mut self, row: &LeaseRow) -> Result<(), StoreError> {
        let before = partitions::find(self.sql, row.host, row.partition)?;
        let before = before.ok_or(StoreError::Lost("partitions"))?;
        let after = before.registration.apply(RegistrationEvent::LeaseEnded(row.id));
        let after = after.map_err(|_| StoreError::Lost("partitions"))?;
        self.save_partition(&before, after, &before.terms).map(drop)
    }
}
