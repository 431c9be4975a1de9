use uuid::Uuid;

use super::*;
use crate::domain::{
    id::BorrowerId,
    partition::{Kind, OpenLease, State},
};

pub(in crate::agent) fn row(id: u128) -> PartitionRow {
    let terms = Terms {
        allocation: Allocation { cpus: 1, memory_mib: 256, disk_mib: 64 },
        price: Price { per_hour_micros: 1000, currency: "EUR".parse().unwrap() },
        os_images: ["debian-micro".to_owned()].into(),
        cpu_model: "a CPU".to_owned(),
        network: Default::default(),
        qualities: Default::default(),
        lending: Default::default(),
    };
    let partition = Partition::carved(terms, vec![1, 3]);
    PartitionRow {
        id: PartitionId(Uuid::from_u128(id)),
        shape: None,
        partition,
        effects: vec![Effect::ShapeDisk],
        machine: MachineRecord::default(),
    }
}

pub(super) fn lent(id: u128, lease: u128) -> PartitionRow {
    let lease = OpenLease {
        lease: LeaseId(Uuid::from_u128(lease)),
        borrower: BorrowerId(Uuid::from_u128(5)),
        epoch: Epoch(3),
        expires_at: "2030-01-01T00:00:00Z".parse().unwrap(),
    };
    let mut row = row(id);
    row.partition.state = State::Lent { lease };
    row.partition.version = Some(TermsVersion(9));
    row
}

pub(super) fn table() -> (tempfile::TempDir, Table) {
    let directory = tempfile::tempdir().unwrap();
    let table = Table::open(&directory.path().join("agent.db")).unwrap();
    (directory, table)
}

#[tokio::test]
async fn a_row_is_read_as_it_was_written_by_an_agent_before() {
    let (directory, table) = table();
    table.insert(row(1), None).await.unwrap();
    table.update(lent(1, 7)).await.unwrap();
    let again = Table::open(&directory.path().join("agent.db")).unwrap();
    assert_eq!(again.rows().await.unwrap(), [lent(1, 7)]);
}

#[tokio::test]
async fn a_table_from_before_partitions_had_networks_is_read_as_it_was_written() {
    let (directory, table) = table();
    table.insert(row(1), None).await.unwrap();
    let to_first = "DROP TRIGGER reserve_after_insert; DROP TRIGGER reserve_after_update;
                    DROP TRIGGER reserve_after_delete; DROP VIEW created; DROP TABLE reserve;
                    ALTER TABLE partitions DROP COLUMN kind; ALTER TABLE partitions DROP COLUMN created;
                    ALTER TABLE partitions DROP COLUMN shape;
                    ALTER TABLE partitions DROP COLUMN network; ALTER TABLE partitions DROP COLUMN qualities;
                    ALTER TABLE partitions DROP COLUMN lending;
                    DROP TABLE segments; DROP TABLE receipts; DROP TABLE violations; PRAGMA user_version = 1";
    table.run(move |connection| Ok(connection.execute_batch(to_first)?)).await.unwrap();
    let again = Table::open(&directory.path().join("agent.db")).unwrap();
    assert_eq!(again.rows().await.unwrap(), [row(1)]);
    let mut connected = row(2);
    connected.partition.terms.network = crate::domain::network::Network::Nat;
    connected.partition.kind = Kind::Owners;
    connected.shape = Some("small".to_owned());
    again.insert(connected.clone(), None).await.unwrap();
    assert_eq!(again.rows().await.unwrap(), [row(1), connected]);
}

#[tokio::test]
async fn one_lease_never_stands_in_two_rows() {
    let (_directory, table) = table();
    table.insert(lent(1, 7), None).await.unwrap();
    table.insert(row(2), None).await.unwrap();
    assert!(table.update(lent(2, 7)).await.is_err());
    assert_eq!(table.rows().await.unwrap()[1], row(2));
}

#[tokio::test]
async fn a_row_that_was_deleted_does_not_come_back() {
    let (_directory, table) = table();
    table.insert(row(1), None).await.unwrap();
    table.delete(row(1).id).await.unwrap();
    assert!(table.update(row(1)).await.is_err());
    assert_eq!(table.rows().await.unwrap(), []);
}

#[tokio::test]
async fn a_repeated_carving_finds_its_partition_and_another_one_does_not() {
    let (_directory, table) = table();
    let mark = RequestMark { key: "k".to_owned(), digest: [1; 32] };
    table.insert(row(1), Some(mark.clone())).await.unwrap();
    assert_eq!(table.carved_by(mark.clone()).await.unwrap(), Earlier::Same(row(1).id));
    let other = RequestMark { digest: [2; 32], ..mark.clone() };
    assert_eq!(table.carved_by(other).await.unwrap(), Earlier::Other);
    let unused = RequestMark { key: "l".to_owned(), ..mark };
    assert_eq!(table.carved_by(unused).await.unwrap(), Earlier::None);
}

#[tokio::test]
async fn no_context_id_is_given_twice() {
    let (directory, table) = table();
    let first = table.next_cid().await.unwrap();
    let again = Table::open(&directory.path().join("agent.db")).unwrap();
    assert!(again.next_cid().await.unwrap() > first);
}

#[tokio::test]
async fn a_report_stays_until_the_registry_was_told_all_of_it() {
    let (_directory, table) = table();
    let lease = LeaseId(Uuid::from_u128(1));
    table.report_ended(lease, EndReason::Expired).await.unwrap();
    let sent = table.reports().await.unwrap();
    assert_eq!(sent.ended, [EndedAtHost { lease, reason: EndReason::Expired }]);
    table.report_cleaned(lease).await.unwrap();
    table.told(sent).await.unwrap();
    let rest = table.reports().await.unwrap();
    assert_eq!(rest.cleaned, [lease]);
    table.told(rest).await.unwrap();
    assert!(table.reports().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_table_of_another_version_is_left_alone() {
    let (directory, table) = table();
    table.run(|connection| Ok(connection.execute_batch("PRAGMA user_version = 99")?)).await.unwrap();
    let again = Table::open(&directory.path().join("agent.db"));
    assert!(matches!(again, Err(TableError::Version { version: 99, .. })));
}
