//! Rows of the resource database (101)-(105).

use std::collections::HashMap;

use jiff::Timestamp;
use thiserror::Error;

use super::{
    ResourceDb, StoreError,
    sql::Sql,
    value::{Row, Value, json, values},
    work::{Change, Happened, Work},
};
use crate::{
    api::registry::{ChangeOffer, LendingState, OfferPartition, RegisteredPartition},
    domain::{
        id::{BorrowerId, HostId, LeaseId, LenderId, PartitionId},
        lease::EndReason,
        registration::{Registration, RegistrationEvent, RegistrationNotAllowed, RegistrationState},
        terms::{Epoch, Terms, TermsVersion},
    },
    registry::crash_point::CrashPoint,
};

const SELECT: &str = "SELECT p.host, p.id, p.terms, p.version, p.epoch, p.state, p.lease, l.borrower, \
                      l.expires_at_us, l.end_reason FROM partitions p LEFT JOIN leases l ON l.id = p.lease";

/// Why a partition's registration does not change.
#[derive(Debug, Error)]
pub enum RegisterError {
    #[error("partition {0} is not registered")]
    NoSuchPartition(PartitionId),
    #[error(transparent)]
    NotAllowed(#[from] RegistrationNotAllowed),
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(super) struct PartitionRow {
    host: HostId,
    id: PartitionId,
    pub(super) terms: Terms,
    pub(super) registration: Registration,
    /// Borrower of the lease that the row names, and when that expires.
    lent: Option<(BorrowerId, Timestamp)>,
    /// Why that lease ended.
    end_reason: Option<EndReason>,
}

impl ResourceDb {
    /// F6: the host offers a partition; true with it: it was not on offer before.
    pub async fn register(
        &self,
        host: HostId,
        partition: PartitionId,
        offer: OfferPartition,
    ) -> Result<(RegisteredPartition, bool), RegisterError> {
        self.write(move |work| {
            let OfferPartition { terms, known_version: known } = &offer;
            let Some(row) = find(work.sql, host, partition)? else {
                return Ok((work.insert_partition(host, partition, &offer)?, true));
            };
            let event = RegistrationEvent::Register { other_terms: row.terms != *terms, known: *known };
            let was_withdrawn = row.registration.state == RegistrationState::Withdrawn;
            let after = row.registration.apply(event)?;
            Ok((
                work.save_partition(&row, after, terms)?.ok_or(StoreError::Lost("partitions"))?,
                was_withdrawn,
            ))
        })
        .await
    }

    /// F7: the host changes the terms of this version, and the key where it says so.
    pub async fn change(
        &self,
        host: HostId,
        partition: PartitionId,
        version: TermsVersion,
        offer: ChangeOffer,
    ) -> Result<RegisteredPartition, RegisterError> {
        self.write(move |work| {
            let row = find(work.sql, host, partition)?.ok_or(RegisterError::NoSuchPartition(partition))?;
            let event = RegistrationEvent::Change { version, new_key: offer.new_key };
            let after = row.registration.apply(event)?;
            Ok(work.save_partition(&row, after, &offer.terms)?.ok_or(StoreError::Lost("partitions"))?)
        })
        .await
    }

    /// The host takes a free partition off the market: with terms of this version, where it says so.
    pub async fn withdraw(
        &self,
        host: HostId,
        partition: PartitionId,
        version: Option<TermsVersion>,
    ) -> Result<(), RegisterError> {
        self.write(move |work| {
            let row = find(work.sql, host, partition)?.ok_or(RegisterError::NoSuchPartition(partition))?;
            let after = row.registration.apply(RegistrationEvent::Withdraw { version })?;
            work.save_partition(&row, after, &row.terms)?;
            Ok(())
        })
        .await
    }

    /// All partitions that are free, of all hosts: what the search index begins with.
    pub async fn free_partitions(&self) -> Result<Vec<RegisteredPartition>, StoreError> {
        self.read(|sql| views(sql, &format!("{SELECT} WHERE p.state = 'free'"), &[])).await
    }
}

/// How each partition of all hosts is now, as if it had just become so.
pub(super) async fn all(db: &ResourceDb) -> Result<Vec<Change>, StoreError> {
    db.read(|sql| {
        let mut hosts = HashMap::new();
        sql.query("SELECT id, revision, lender FROM hosts", &[], &mut |mut row| {
            hosts.insert(row.take::<HostId>()?, (row.take::<u64>()?, row.take::<LenderId>()?));
            Ok(())
        })?;
        sql.all(SELECT, &[], |row| {
            let row = PartitionRow::of(row)?;
            let (revision, lender) = *hosts.get(&row.host).ok_or(StoreError::Lost("hosts"))?;
            let happened = match row.registration.state {
                RegistrationState::Withdrawn => Happened::Withdrawn,
                _ => Happened::Changed,
            };
            Ok(row.change(happened, lender, revision))
        })
    })
    .await
}

/// The host's partitions that are registered, oldest name first.
pub(super) fn of_host(sql: &mut dyn Sql, host: HostId) -> Result<Vec<RegisteredPartition>, StoreError> {
    let select = format!("{SELECT} WHERE p.host = $1 AND p.state <> 'withdrawn' ORDER BY p.id");
    views(sql, &select, values![host])
}

fn views(sql: &mut dyn Sql, select: &str, values: &[Value]) -> Result<Vec<RegisteredPartition>, StoreError> {
    let mut views = Vec::new();
    sql.query(select, values, &mut |row| {
        views.extend(PartitionRow::of(row)?.view());
        Ok(())
    })?;
    Ok(views)
}

pub(super) fn find(
    sql: &mut dyn Sql,
    host: HostId,
    partition: PartitionId,
) -> Result<Option<PartitionRow>, StoreError> {
    let select = format!("{SELECT} WHERE p.host = $1 AND p.id = $2");
    sql.first(&select, values![host, partition], PartitionRow::of)
}

impl PartitionRow {
    fn of(mut row: Row) -> Result<Self, StoreError> {
        let (host, id, terms) = (row.take()?, row.take()?, row.take_json()?);
        let (version, epoch) = (TermsVersion(row.take()?), Epoch(row.take()?));
        let state = match (row.take::<String>()?.as_str(), row.take()?) {
            ("free", None) => RegistrationState::Free,
            ("withdrawn", None) => RegistrationState::Withdrawn,
            ("lent", Some(lease)) => RegistrationState::Lent(lease),
            ("awaiting_clean", Some(lease)) => RegistrationState::AwaitingClean(lease),
            _ => return Err(row.unreadable()),
        };
        let lent = row.take::<Option<_>>()?.zip(row.take()?);
        let end_reason = row.take::<Option<String>>()?.map(|reason| reason.parse());
        let end_reason = end_reason.transpose().map_err(|_| row.unreadable())?;
        Ok(Self { host, id, terms, registration: Registration { version, epoch, state }, lent, end_reason })
    }

    fn change(self, happened: Happened, lender: LenderId, revision: u64) -> Change {
        let (host, partition, end_reason) = (self.host, self.id, self.end_reason);
        let borrower = self.lent.map(|(borrower, _)| borrower);
        Change { happened, host, lender, borrower, end_reason, revision, partition, row: self.view() }
    }

    /// As its host sees it; none: it is not registered any more.
    fn view(self) -> Option<RegisteredPartition> {
        let state = match (self.registration.state, self.lent) {
            (RegistrationState::Free, _) => LendingState::Free,
            (RegistrationState::AwaitingClean(lease), _) => LendingState::AwaitingClean { lease },
            (RegistrationState::Lent(lease), Some((borrower, expires_at))) => {
                LendingState::Lent { lease, borrower, expires_at }
            }
            // A foreign key keeps a lent row's lease.
            (RegistrationState::Withdrawn | RegistrationState::Lent(_), _) => return None,
        };
        Some(RegisteredPartition {
            host: self.host,
            partition: self.id,
            terms: self.terms,
            version: self.registration.version,
            epoch: self.registration.epoch,
            state,
        })
    }
}

fn columns(state: RegistrationState) -> (&'static str, Option<LeaseId>) {
    match state {
        RegistrationState::Free => ("free", None),
        RegistrationState::Withdrawn => ("withdrawn", None),
        RegistrationState::Lent(lease) => ("lent", Some(lease)),
        RegistrationState::AwaitingClean(lease) => ("awaiting_clean", Some(lease)),
    }
}

fn happened(was: RegistrationState, is: RegistrationState) -> Happened {
    match (was, is) {
        (_, RegistrationState::Withdrawn) => Happened::Withdrawn,
        (RegistrationState::Lent(_), RegistrationState::Lent(_)) => Happened::LeaseRenewed,
        (_, RegistrationState::Lent(_)) => Happened::LeaseMade,
        (_, RegistrationState::AwaitingClean(_)) => Happened::LeaseEnded,
        (RegistrationState::Withdrawn, RegistrationState::Free) => Happened::Registered,
        (RegistrationState::AwaitingClean(_), RegistrationState::Free) => Happened::Freed,
        (RegistrationState::Free | RegistrationState::Lent(_), RegistrationState::Free) => Happened::Changed,
    }
}

impl Work<'_> {
    fn insert_partition(
        &mut self,
        host: HostId,
        partition: PartitionId,
        offer: &OfferPartition,
    ) -> Result<RegisteredPartition, StoreError> {
        let Registration { version, epoch, state } = Registration::new(offer.known_version);
        let insert =
            "INSERT INTO partitions (host, id, terms, version, epoch, state) VALUES ($1, $2, $3, $4, $5, $6)";
        let row = values![host, partition, json(&offer.terms)?, version.0, epoch.0, columns(state).0];
        self.sql.execute(insert, row)?;
        CrashPoint::InPartition.pass();
        self.announce(host, partition, Happened::Registered)?.ok_or(StoreError::Lost("partitions"))
    }

    /// Stores what the machine decided, on condition that the row is what the machine was shown.
    pub(super) fn save_partition(
        &mut self,
        before: &PartitionRow,
        after: Registration,
        terms: &Terms,
    ) -> Result<Option<RegisteredPartition>, StoreError> {
        let was = before.registration;
        if was == after && before.terms == *terms {
            return Ok(find(self.sql, before.host, before.id)?.and_then(PartitionRow::view));
        }
        let update = "UPDATE partitions SET terms = $1, version = $2, epoch = $3, state = $4, lease = $5 \
                      WHERE host = $6 AND id = $7 AND version = $8 AND epoch = $9 AND state = $10 \
                      AND lease IS NOT DISTINCT FROM $11";
        let ((state, lease), (was_state, was_lease)) = (columns(after.state), columns(was.state));
        let updated = self.sql.execute(
            update,
            values![
                json(terms)?,
                after.version.0,
                after.epoch.0,
                state,
                lease,
                before.host,
                before.id,
                was.version.0,
                was.epoch.0,
                was_state,
                was_lease,
            ],
        )?;
        if updated != 1 {
            return Err(StoreError::Lost("partitions"));
        }
        CrashPoint::InPartition.pass();
        self.announce(before.host, before.id, happened(was.state, after.state))
    }

    /// Has the change told to the host, to the search index and to whoever follows events, once it is durable.
    pub(super) fn announce(
        &mut self,
        host: HostId,
        partition: PartitionId,
        happened: Happened,
    ) -> Result<Option<RegisteredPartition>, StoreError> {
        let update = "UPDATE hosts SET revision = revision + 1 WHERE id = $1 RETURNING revision, lender";
        let (revision, lender) =
            self.sql.one(update, values![host], |mut row| Ok((row.take()?, row.take()?)))?;
        let found = find(self.sql, host, partition)?.ok_or(StoreError::Lost("partitions"))?;
        let change = found.change(happened, lender, revision);
        let shown = change.row.clone();
        self.changes.push(change);
        Ok(shown)
    }
}
