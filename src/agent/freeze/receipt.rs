//! The receipts of this host's leases: chains of signed segments in the agent's database, and what the registry is still to
//! be told of them.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::meter::{Link, Meter};
use crate::{
    agent::partition::table::{Table, TableError, json, read_json, unreadable},
    api::registry::ReportedViolation,
    domain::{
        id::{HostId, LeaseId, PartitionId},
        receipt::{
            chain::{Receipt, SignedSegment},
            key::{ReceiptKey, ReceiptSigner},
            segment::{Segment, SegmentEnd, Violation},
        },
    },
};

/// Most leases of a partition whose receipts are kept.
const KEPT_MAX: u32 = 64;
/// Most violations of a partition that wait for the registry; what comes beyond stands in receipts and in the log.
const UNTOLD_MAX: u32 = 64;

/// A segment that the registry was not told yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untold {
    pub lease: LeaseId,
    pub number: u32,
    pub segment: SignedSegment,
}

/// Clones share one database.
#[derive(Debug, Clone)]
pub struct Receipts {
    table: Table,
    signer: Arc<ReceiptSigner>,
    host: HostId,
}

impl Receipts {
    pub fn new(table: Table, signer: ReceiptSigner, host: HostId) -> Self {
        Self { table, signer: Arc::new(signer), host }
    }

    /// By which they are checked.
    pub fn key(&self) -> ReceiptKey {
        self.signer.key()
    }

    /// The meter of the partition's lease whose receipt is not closed.
    pub async fn open_meter(&self, partition: PartitionId) -> Result<Option<Meter>, TableError> {
        self.table
            .run(move |connection| {
                let select = "SELECT meter FROM receipts WHERE partition = ? AND meter IS NOT NULL";
                let meter = connection
                    .query_row(select, [partition.to_string()], |row| read_json(row, "meter"))
                    .optional()?;
                Ok(meter)
            })
            .await
    }

    /// Keeps what was counted; a receipt that is closed stays closed.
    pub async fn keep(&self, partition: PartitionId, meter: Meter) -> Result<(), TableError> {
        self.table
            .run(move |connection| {
                connection.execute(
                    "INSERT INTO receipts (lease, partition, meter) VALUES (?, ?, ?)
                     ON CONFLICT (lease) DO UPDATE SET meter = excluded.meter WHERE meter IS NOT NULL",
                    params![meter.lease.to_string(), partition.to_string(), json(&meter)?],
                )?;
                Ok(())
            })
            .await
    }

    /// Signs what was counted as the next segment, with `end` as the last; what is counted from here on.
    pub async fn append(
        &self,
        partition: PartitionId,
        mut meter: Meter,
        end: Option<SegmentEnd>,
    ) -> Result<Meter, TableError> {
        let (signer, host) = (Arc::clone(&self.signer), self.host);
        self.table
            .run(move |connection| {
                let transaction = connection.transaction()?;
                let lease = meter.lease;
                if !is_closed(&transaction, lease)? {
                    let last = last_segment(&transaction, lease)?;
                    let number = last.as_ref().map_or(0, |(number, _)| number + 1);
                    let before = last.map(|(_, segment)| segment.digest());
                    let segment = meter.close(Link { host, partition, number, before }, end);
                    let kept = if end.is_none() { Some(json(&meter)?) } else { None };
                    transaction.execute(
                        "INSERT INTO receipts (lease, partition, meter) VALUES (?, ?, ?)
                         ON CONFLICT (lease) DO UPDATE SET meter = excluded.meter",
                        params![lease.to_string(), partition.to_string(), kept],
                    )?;
                    insert(&transaction, &segment, &signer)?;
                    forget_oldest(&transaction, partition)?;
                }
                transaction.commit()?;
                Ok(meter)
            })
            .await
    }

    /// A lease's receipt, as far as there is one.
    pub async fn receipt(&self, partition: PartitionId, lease: LeaseId) -> Result<Receipt, TableError> {
        let (host, key) = (self.host, self.key());
        self.table
            .run(move |connection| {
                Ok(Receipt { lease, host, partition, key, segments: segments(connection, lease)? })
            })
            .await
    }

    /// Of which of the partition's leases there is a receipt: the latest.
    pub async fn latest(&self, partition: PartitionId) -> Result<Option<LeaseId>, TableError> {
        self.table
            .run(move |connection| {
                let select = "SELECT lease FROM receipts WHERE partition = ? ORDER BY rowid DESC LIMIT 1";
                let lease = connection.query_row(select, [partition.to_string()], lease_of).optional()?;
                Ok(lease)
            })
            .await
    }

    /// Whether the partition had this lease.
    pub async fn is_of(&self, partition: PartitionId, lease: LeaseId) -> Result<bool, TableError> {
        self.table
            .run(move |connection| {
                let select = "SELECT count(*) FROM receipts WHERE partition = ? AND lease = ?";
                let names = [partition.to_string(), lease.to_string()];
                Ok(connection.query_row(select, names, |row| row.get::<_, u32>(0))? > 0)
            })
            .await
    }

    /// The registry's next segments, each lease's in order.
    pub async fn untold(&self, limit: u32) -> Result<Vec<Untold>, TableError> {
        self.table
            .run(move |connection| {
                let mut rows = connection.prepare(
                    "SELECT lease, number, text, signature FROM segments WHERE NOT told ORDER BY rowid LIMIT ?",
                )?;
                let read = |row: &Row<'_>| {
                    let segment = signed(row)?;
                    Ok(Untold { lease: lease_of(row)?, number: row.get("number")?, segment })
                };
                let untold = rows.query_map([limit], read)?.collect::<Result<_, _>>()?;
                Ok(untold)
            })
            .await
    }

    /// The registry has the segment, or will never take it.
    pub async fn told(&self, lease: LeaseId, number: u32) -> Result<(), TableError> {
        self.table
            .run(move |connection| {
                let update = "UPDATE segments SET told = 1 WHERE lease = ? AND number = ?";
                connection.execute(update, params![lease.to_string(), number])?;
                Ok(())
            })
            .await
    }

    /// Something was found changed; the registry is to hear of it.
    pub async fn violated(
        &self,
        partition: PartitionId,
        lease: Option<LeaseId>,
        violation: Violation,
    ) -> Result<(), TableError> {
        self.table
            .run(move |connection| {
                connection.execute(
                    "INSERT INTO violations (partition, lease, violation) SELECT ?1, ?2, ?3
                     WHERE (SELECT count(*) FROM violations WHERE partition = ?1) < ?4",
                    params![
                        partition.to_string(),
                        lease.map(|lease| lease.to_string()),
                        json(&violation)?,
                        UNTOLD_MAX
                    ],
                )?;
                Ok(())
            })
            .await
    }

    /// What the registry is to hear of violations, with the number of the last of them.
    pub async fn violations(&self, limit: u32) -> Result<(Vec<ReportedViolation>, i64), TableError> {
        self.table
            .run(move |connection| {
                let mut rows = connection.prepare(
                    "SELECT number, partition, lease, violation FROM violations ORDER BY number LIMIT ?",
                )?;
                let read = |row: &Row<'_>| {
                    let partition = row.get::<_, String>("partition")?;
                    let partition = partition.parse().map_err(|error| unreadable("partition", error))?;
                    let lease = row.get::<_, Option<String>>("lease")?.map(|lease| lease.parse());
                    let lease = lease.transpose().map_err(|error| unreadable("lease", error))?;
                    let violation = read_json(row, "violation")?;
                    Ok((row.get("number")?, ReportedViolation { partition, lease, violation }))
                };
                let found: Vec<(i64, ReportedViolation)> =
                    rows.query_map([limit], read)?.collect::<Result<_, _>>()?;
                let last = found.last().map_or(0, |(number, _)| *number);
                Ok((found.into_iter().map(|(_, violation)| violation).collect(), last))
            })
            .await
    }

    /// The registry has heard of violations up to this number.
    pub async fn told_violations(&self, last: i64) -> Result<(), TableError> {
        self.table
            .run(move |connection| {
                connection.execute("DELETE FROM violations WHERE number <= ?", [last])?;
                Ok(())
            })
            .await
    }
}

fn is_closed(connection: &Connection, lease: LeaseId) -> Result<bool, TableError> {
    let select = "SELECT meter IS NULL FROM receipts WHERE lease = ?";
    let closed = connection.query_row(select, [lease.to_string()], |row| row.get(0)).optional()?;
    Ok(closed.unwrap_or(false))
}

/// Oldest first.
fn segments(connection: &Connection, lease: LeaseId) -> Result<Vec<SignedSegment>, TableError> {
    let mut rows =
        connection.prepare("SELECT text, signature FROM segments WHERE lease = ? ORDER BY number")?;
    let segments = rows.query_map([lease.to_string()], signed)?.collect::<Result<_, _>>()?;
    Ok(segments)
}

/// With its number.
fn last_segment(connection: &Connection, lease: LeaseId) -> Result<Option<(u32, SignedSegment)>, TableError> {
    let select = "SELECT number, text, signature FROM segments WHERE lease = ? ORDER BY number DESC LIMIT 1";
    let read = |row: &Row<'_>| Ok((row.get("number")?, signed(row)?));
    Ok(connection.query_row(select, [lease.to_string()], read).optional()?)
}

fn signed(row: &Row<'_>) -> rusqlite::Result<SignedSegment> {
    let signature = row.get::<_, String>("signature")?;
    let signature = signature.parse().map_err(|error| unreadable("signature", error))?;
    Ok(SignedSegment { text: row.get("text")?, signature })
}

fn lease_of(row: &Row<'_>) -> rusqlite::Result<LeaseId> {
    row.get::<_, String>("lease")?.parse().map_err(|error| unreadable("lease", error))
}

fn insert(connection: &Connection, segment: &Segment, signer: &ReceiptSigner) -> Result<(), TableError> {
    let SignedSegment { text, signature } = segment.sign(signer)?;
    connection.execute(
        "INSERT INTO segments (lease, number, text, signature) VALUES (?, ?, ?, ?)",
        params![segment.lease.to_string(), segment.number, text, signature.to_string()],
    )?;
    Ok(())
}

/// What the registry has, and nobody is likely to ask this host for any more.
fn forget_oldest(connection: &Connection, partition: PartitionId) -> Result<(), TableError> {
    connection.execute(
        "DELETE FROM receipts WHERE partition = ?1 AND meter IS NULL AND lease NOT IN
         (SELECT lease FROM receipts WHERE partition = ?1 ORDER BY rowid DESC LIMIT ?2)",
        params![partition.to_string(), KEPT_MAX],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::domain::{
        lease::EndReason,
        receipt::{
            chain::tests::{moment, signer},
            segment::{SetAside, SetAsideCpu, Watched},
        },
        resources::Allocation,
    };

    const PARTITION: PartitionId = PartitionId(Uuid::from_u128(2));

    fn receipts(directory: &tempfile::TempDir) -> Receipts {
        let table = Table::open(&directory.path().join("agent.db")).unwrap();
        Receipts::new(table, signer(), HostId(Uuid::from_u128(1)))
    }

    fn meter(lease: u128) -> Meter {
        let set_aside = SetAside {
            allocation: Allocation { cpus: 1, memory_mib: 64, disk_mib: 0 },
            cpus: vec![SetAsideCpu { cpu: 1, siblings: vec![1], node: None }],
            huge_pages: false,
            cpu_share_percent: None,
        };
        Meter::begin(LeaseId(Uuid::from_u128(lease)), set_aside, None, moment(0))
    }

    fn end(second: u64) -> Option<SegmentEnd> {
        Some(SegmentEnd { at: moment(second).at, reason: Some(EndReason::Returned) })
    }

    #[tokio::test]
    async fn a_chain_goes_on_where_an_agent_before_has_left_it_and_stays_closed() {
        let directory = tempfile::tempdir().unwrap();
        let first = receipts(&directory);
        let mut opened = first.append(PARTITION, meter(7), None).await.unwrap();
        opened.pass(moment(5), false);
        first.keep(PARTITION, opened.clone()).await.unwrap();

        let again = receipts(&directory);
        let mut found = again.open_meter(PARTITION).await.unwrap().unwrap();
        assert_eq!(found, opened);
        found.pass(moment(6), false);
        let lease = found.lease;
        again.append(PARTITION, found.clone(), end(6)).await.unwrap();
        assert_eq!(again.open_meter(PARTITION).await.unwrap(), None);
        // Asked for again, because it was not known whether it was done.
        again.append(PARTITION, found.clone(), end(9)).await.unwrap();
        again.keep(PARTITION, found).await.unwrap();
        assert_eq!(again.open_meter(PARTITION).await.unwrap(), None);

        let receipt = again.receipt(PARTITION, lease).await.unwrap();
        let segments = receipt.verify(again.key()).unwrap();
        assert_eq!(segments.len(), 2);
        assert_eq!((segments[1].from, segments[1].to), (moment(0), moment(6)));
        assert_eq!(segments[1].end, end(6));
        assert_eq!(again.latest(PARTITION).await.unwrap(), Some(lease));
        assert!(again.is_of(PARTITION, lease).await.unwrap());
        assert!(!again.is_of(PartitionId(Uuid::max()), lease).await.unwrap());
    }

    #[tokio::test]
    async fn the_registry_is_told_of_each_segment_once_and_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let receipts = receipts(&directory);
        let opened = receipts.append(PARTITION, meter(7), None).await.unwrap();
        receipts.append(PARTITION, opened, end(1)).await.unwrap();
        let numbers = |untold: &[Untold]| untold.iter().map(|untold| untold.number).collect::<Vec<_>>();
        let untold = receipts.untold(10).await.unwrap();
        assert_eq!(numbers(&untold), [0, 1]);
        receipts.told(untold[0].lease, 0).await.unwrap();
        assert_eq!(numbers(&receipts.untold(10).await.unwrap()), [1]);
    }

    #[tokio::test]
    async fn only_so_many_receipts_of_a_partition_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let receipts = receipts(&directory);
        for lease in 0..u128::from(KEPT_MAX) + 3 {
            receipts.append(PARTITION, meter(lease), end(0)).await.unwrap();
        }
        let lease = |number| LeaseId(Uuid::from_u128(number));
        assert!(!receipts.is_of(PARTITION, lease(2)).await.unwrap());
        assert!(receipts.is_of(PARTITION, lease(3)).await.unwrap());
        assert!(receipts.receipt(PARTITION, lease(2)).await.unwrap().segments.is_empty());
    }

    #[tokio::test]
    async fn violations_wait_for_the_registry_and_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let receipts = receipts(&directory);
        let text = str::to_owned;
        let violation = Violation {
            at: Timestamp::UNIX_EPOCH,
            what: Watched::Nice,
            subject: text("thread vcpu0"),
            before: text("0"),
            after: text("19"),
            restored: true,
        };
        let lease = Some(LeaseId(Uuid::from_u128(7)));
        for _ in 0..UNTOLD_MAX + 9 {
            receipts.violated(PARTITION, lease, violation.clone()).await.unwrap();
        }
        let (told, last) = receipts.violations(UNTOLD_MAX * 2).await.unwrap();
        assert_eq!(told.len(), UNTOLD_MAX as usize);
        assert_eq!(told[0], ReportedViolation { partition: PARTITION, lease, violation });
        receipts.told_violations(last).await.unwrap();
        assert_eq!(receipts.violations(10).await.unwrap(), (vec![], 0));
    }
}
