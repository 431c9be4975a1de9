//! The reserve's row: what the owner has now. It is rewritten by the database itself, in the step in which a partition is
//! created, changed or given back (`reserve.sql`).

use rusqlite::params;

use super::{Table, TableError, number};
use crate::api::agent::Capacity;

impl Table {
    /// Takes note of what the host has, and of what each partition's VMM takes beyond its guest's memory.
    pub async fn know_host(&self, has: Capacity, overhead_mib: u64) -> Result<(), TableError> {
        self.run(move |connection| {
            connection.execute(
                "INSERT OR REPLACE INTO reserve SELECT 1, ?1, ?2, ?3, ?4, ?1 - cpus,
                    ?2 - memory_mib - vmms * ?4, ?3 - disk_mib FROM created",
                params![has.cpus, number(has.memory_mib)?, number(has.disk_mib)?, number(overhead_mib)?],
            )?;
            Ok(())
        })
        .await
    }

    /// What is the owner's now.
    pub async fn reserve(&self) -> Result<Capacity, TableError> {
        self.run(|connection| {
            let select = "SELECT cpus, memory_mib, disk_mib FROM reserve";
            // A host that lost memory since, with all of it set aside, leaves nothing.
            let whole = |number: i64| u64::try_from(number).unwrap_or_default();
            Ok(connection.query_row(select, [], |row| {
                Ok(Capacity {
                    cpus: u32::try_from(row.get::<_, i64>(0)?).unwrap_or_default(),
                    memory_mib: whole(row.get(1)?),
                    disk_mib: whole(row.get(2)?),
                })
            })?)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::partition::table::tests::{lent, row, table},
        domain::partition::{Kind, State},
    };

    const HAS: Capacity = Capacity { cpus: 8, memory_mib: 4096, disk_mib: 1000 };

    async fn known() -> (tempfile::TempDir, Table) {
        let (directory, table) = table();
        table.know_host(HAS, 16).await.unwrap();
        (directory, table)
    }

    fn after_one() -> Capacity {
        let allocation = row(1).partition.terms.allocation;
        Capacity {
            cpus: HAS.cpus - 2,
            memory_mib: HAS.memory_mib - allocation.memory_mib - 16,
            disk_mib: HAS.disk_mib - allocation.disk_mib,
        }
    }

    #[tokio::test]
    async fn the_reserve_shrinks_with_each_partition_and_grows_when_it_is_released() {
        let (directory, table) = known().await;
        table.insert(row(1), None).await.unwrap();
        assert_eq!(table.reserve().await.unwrap(), after_one());
        let mut larger = row(1);
        larger.partition.terms.allocation.memory_mib += 100;
        table.update(larger).await.unwrap();
        assert_eq!(table.reserve().await.unwrap().memory_mib, after_one().memory_mib - 100);
        let again = Table::open(&directory.path().join("agent.db")).unwrap();
        again.know_host(HAS, 16).await.unwrap();
        assert_eq!(again.reserve().await.unwrap().memory_mib, after_one().memory_mib - 100);
        table.delete(row(1).id).await.unwrap();
        assert_eq!(table.reserve().await.unwrap(), HAS);
    }

    #[tokio::test]
    async fn a_declared_partition_is_taken_from_the_reserve_in_the_step_in_which_it_is_lent() {
        let (_directory, table) = known().await;
        let mut declared = row(1);
        declared.partition.kind = Kind::Declared;
        table.insert(declared.clone(), None).await.unwrap();
        assert_eq!(table.reserve().await.unwrap(), HAS);
        let mut borrowed = lent(1, 7);
        borrowed.partition.kind = Kind::Declared;
        table.update(borrowed).await.unwrap();
        assert_eq!(table.reserve().await.unwrap(), after_one());
        declared.partition.state = State::Offered { change: None };
        table.update(declared).await.unwrap();
        assert_eq!(table.reserve().await.unwrap(), HAS);
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_written_leaves_the_reserve_as_it_is() {
        let (_directory, table) = known().await;
        table.insert(lent(1, 7), None).await.unwrap();
        let before = table.reserve().await.unwrap();
        // Its lease stands in another row.
        assert!(table.insert(lent(2, 7), None).await.is_err());
        assert_eq!(table.reserve().await.unwrap(), before);
    }

    #[tokio::test]
    async fn partitions_with_shares_of_one_cpu_take_it_once() {
        let (_directory, table) = known().await;
        table.insert(row(1), None).await.unwrap();
        table.insert(row(2), None).await.unwrap();
        assert_eq!(table.reserve().await.unwrap().cpus, HAS.cpus - 2);
    }
}
