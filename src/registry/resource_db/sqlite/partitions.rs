//! Rows of the resource database (101)-(105).

use rusqlite::{Connection, OptionalExtension as _, Row, named_params, types::Type};
use uuid::Uuid;

use super::{
    super::{Change, RegisterError, StoreError},
    Sqlite,
    rows::{Json, Moment},
    writer::Work,
};
use crate::{
    api::registry::{LendingState, RegisteredPartition},
    domain::{
        id::{BorrowerId, HostId, LeaseId, PartitionId},
        registration::{Registration, RegistrationEvent, RegistrationState},
        terms::{Epoch, Terms, TermsVersion},
    },
};

const SELECT: &str = "SELECT p.host, p.id, p.terms, p.version, p.epoch, p.state, p.lease, l.borrower, \
                      l.expires_at_us FROM partitions p LEFT JOIN leases l ON l.id = p.lease";

pub(super) struct PartitionRow {
    host: HostId,
    id: PartitionId,
    pub(super) terms: Terms,
    pub(super) registration: Registration,
    /// Borrower of the lease that the row names, and when that expires.
    lent: Option<(BorrowerId, Moment)>,
}

impl Sqlite {
    /// F6: the host offers a partition; true with it: it was not on offer before.
    pub async fn register(
        &self,
        host: HostId,
        partition: PartitionId,
        terms: Terms,
    ) -> Result<(RegisteredPartition, bool), RegisterError> {
        self.write(move |work| {
            let Some(row) = find(work.db, host, partition)? else {
                return Ok((work.insert_partition(host, partition, &terms)?, true));
            };
            let event = RegistrationEvent::Register { other_terms: row.terms != terms };
            let was_withdrawn = row.registration.state == RegistrationState::Withdrawn;
            let after = row.registration.apply(event)?;
            Ok((
                work.save_partition(&row, after, &terms)?.ok_or(StoreError::Lost("partitions"))?,
                was_withdrawn,
            ))
        })
        .await
    }

    /// F7: the host changes the terms of this version.
    pub async fn change(
        &self,
        host: HostId,
        partition: PartitionId,
        version: TermsVersion,
        terms: Terms,
    ) -> Result<RegisteredPartition, RegisterError> {
        self.write(move |work| {
            let row = find(work.db, host, partition)?.ok_or(RegisterError::NoSuchPartition(partition))?;
            let after = row.registration.apply(RegistrationEvent::Change { version })?;
            Ok(work.save_partition(&row, after, &terms)?.ok_or(StoreError::Lost("partitions"))?)
        })
        .await
    }

    /// The host takes a free partition off the market.
    pub async fn withdraw(&self, host: HostId, partition: PartitionId) -> Result<(), RegisterError> {
        self.write(move |work| {
            let row = find(work.db, host, partition)?.ok_or(RegisterError::NoSuchPartition(partition))?;
            let after = row.registration.apply(RegistrationEvent::Withdraw)?;
            work.save_partition(&row, after, &row.terms)?;
            Ok(())
        })
        .await
    }

    /// All partitions that are free, of all hosts: what the search index begins with.
    pub async fn free_partitions(&self) -> Result<Vec<RegisteredPartition>, StoreError> {
        self.read(|db| views(db, &format!("{SELECT} WHERE p.state = 'free'"), ())).await
    }
}

/// The host's partitions that are registered, oldest name first.
pub(super) fn of_host(db: &Connection, host: HostId) -> Result<Vec<RegisteredPartition>, StoreError> {
    views(db, &format!("{SELECT} WHERE p.host = ?1 AND p.state <> 'withdrawn' ORDER BY p.id"), [host.0])
}

fn views(
    db: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<RegisteredPartition>, StoreError> {
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map(values, PartitionRow::of)?;
    Ok(rows.filter_map(|row| row.map(PartitionRow::view).transpose()).collect::<Result<_, _>>()?)
}

pub(super) fn find(
    db: &Connection,
    host: HostId,
    partition: PartitionId,
) -> Result<Option<PartitionRow>, StoreError> {
    let sql = format!("{SELECT} WHERE p.host = ?1 AND p.id = ?2");
    Ok(db.prepare_cached(&sql)?.query_row((host.0, partition.0), PartitionRow::of).optional()?)
}

impl PartitionRow {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let state = row.get::<_, String>(5)?;
        let lease = row.get::<_, Option<Uuid>>(6)?.map(LeaseId);
        let borrower: Option<Uuid> = row.get(7)?;
        let expires_at: Option<Moment> = row.get(8)?;
        Ok(Self {
            host: HostId(row.get(0)?),
            id: PartitionId(row.get(1)?),
            terms: row.get::<_, Json<Terms>>(2)?.0,
            registration: Registration {
                version: TermsVersion(row.get(3)?),
                epoch: Epoch(row.get(4)?),
                state: registration_state(&state, lease)?,
            },
            lent: borrower.map(BorrowerId).zip(expires_at),
        })
    }

    /// As its host sees it; none: it is not registered any more.
    fn view(self) -> Option<RegisteredPartition> {
        let state = match (self.registration.state, self.lent) {
            (RegistrationState::Free, _) => LendingState::Free,
            (RegistrationState::AwaitingClean(lease), _) => LendingState::AwaitingClean { lease },
            (RegistrationState::Lent(lease), Some((borrower, expires_at))) => {
                LendingState::Lent { lease, borrower, expires_at: expires_at.0 }
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

fn registration_state(state: &str, lease: Option<LeaseId>) -> rusqlite::Result<RegistrationState> {
    match (state, lease) {
        ("free", None) => Ok(RegistrationState::Free),
        ("withdrawn", None) => Ok(RegistrationState::Withdrawn),
        ("lent", Some(lease)) => Ok(RegistrationState::Lent(lease)),
        ("awaiting_clean", Some(lease)) => Ok(RegistrationState::AwaitingClean(lease)),
        _ => Err(rusqlite::Error::InvalidColumnType(5, "state".to_owned(), Type::Text)),
    }
}

fn columns(state: RegistrationState) -> (&'static str, Option<Uuid>) {
    match state {
        RegistrationState::Free => ("free", None),
        RegistrationState::Withdrawn => ("withdrawn", None),
        RegistrationState::Lent(lease) => ("lent", Some(lease.0)),
        RegistrationState::AwaitingClean(lease) => ("awaiting_clean", Some(lease.0)),
    }
}

impl Work<'_> {
    fn insert_partition(
        &mut self,
        host: HostId,
        partition: PartitionId,
        terms: &Terms,
    ) -> Result<RegisteredPartition, StoreError> {
        let Registration { version, epoch, state } = Registration::NEW;
        let sql =
            "INSERT INTO partitions (host, id, terms, version, epoch, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let values = (host.0, partition.0, Json(terms), version.0, epoch.0, columns(state).0);
        self.db.prepare_cached(sql)?.execute(values)?;
        self.announce(host, partition)?.ok_or(StoreError::Lost("partitions"))
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
            return Ok(find(self.db, before.host, before.id)?.and_then(PartitionRow::view));
        }
        let sql = "UPDATE partitions SET terms = :terms, version = :version, epoch = :epoch, state = :state, \
                       lease = :lease WHERE host = :host AND id = :id AND version = :was_version \
                       AND epoch = :was_epoch AND state = :was_state AND lease IS :was_lease";
        let ((state, lease), (was_state, was_lease)) = (columns(after.state), columns(was.state));
        let updated = self.db.prepare_cached(sql)?.execute(named_params! {
            ":terms": Json(terms), ":version": after.version.0, ":epoch": after.epoch.0,
            ":state": state, ":lease": lease,
            ":host": before.host.0, ":id": before.id.0, ":was_version": was.version.0,
            ":was_epoch": was.epoch.0, ":was_state": was_state, ":was_lease": was_lease,
        })?;
        if updated != 1 {
            return Err(StoreError::Lost("partitions"));
        }
        self.announce(before.host, before.id)
    }

    /// Has the change told to the host and to the search index, once it is durable.
    fn announce(
        &mut self,
        host: HostId,
        partition: PartitionId,
    ) -> Result<Option<RegisteredPartition>, StoreError> {
        let sql = "UPDATE hosts SET revision = revision + 1 WHERE id = ?1";
        self.db.prepare_cached(sql)?.execute([host.0])?;
        let row = find(self.db, host, partition)?.and_then(PartitionRow::view);
        self.changes.push(Change { host, partition, row: row.clone() });
        Ok(row)
    }
}
