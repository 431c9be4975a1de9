//! The table of what was announced: written with each transaction that changes something, read by the others.

use std::collections::HashMap;

use deadpool_postgres::{GenericClient, Transaction};
use uuid::Uuid;

use super::super::{StoreError, work::Change};

/// The server's clock, in microseconds since 1970.
pub(super) const NOW: &str = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)";
/// All transactions before this one have ended: what they wrote can be seen, or never will be.
const HORIZON: &str = "SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT)";
const RECORD: &str = "INSERT INTO changes (at_us, registry, change) \
                      SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT), $1, $2";
const SINCE: &str = "SELECT id, transaction, change FROM changes \
                     WHERE transaction >= $1 AND registry <> $2 ORDER BY id";
/// How long changes are kept. Who has not read them for that long reads all partitions anew.
const PRUNE: &str = "DELETE FROM changes WHERE at_us < \
                     CAST(extract(epoch FROM clock_timestamp() - interval '1 hour') * 1000000 AS BIGINT)";

/// Writes what is to be announced, in the transaction that it is of.
pub(super) async fn record(
    transaction: &Transaction<'_>,
    registry: Uuid,
    changes: &[Change],
) -> Result<(), StoreError> {
    let statement = transaction.prepare_cached(RECORD).await?;
    for change in changes {
        let text = serde_json::to_string(change).map_err(StoreError::Unwritable)?;
        transaction.execute(&statement, &[&registry.as_bytes().as_slice(), &text]).await?;
    }
    Ok(())
}

pub(super) async fn prune(client: &impl GenericClient) -> Result<(), tokio_postgres::Error> {
    client.execute(PRUNE, &[]).await.map(drop)
}

/// How far the changes of other registries were read.
///
/// Rows become visible as their transactions commit, in no order that a number of theirs would tell. So all that may
/// have been written by transactions that still ran is read again each time, and what was seen before is left out.
pub(super) struct Reader {
    registry: Uuid,
    horizon: i64,
    /// Changes of transactions from the horizon on that were read already, with their transactions.
    seen: HashMap<i64, i64>,
}

impl Reader {
    /// Reads all that is committed from now on.
    pub(super) async fn begin(client: &impl GenericClient, registry: Uuid) -> Result<Self, StoreError> {
        Ok(Self { registry, horizon: horizon(client).await?, seen: HashMap::new() })
    }

    /// What was not read before.
    pub(super) async fn read(&mut self, client: &impl GenericClient) -> Result<Vec<Change>, StoreError> {
        // Asked for first: a transaction that ends meanwhile is read again next time.
        let next = horizon(client).await?;
        let rows = client.query(SINCE, &[&self.horizon, &self.registry.as_bytes().as_slice()]).await?;
        let mut changes = Vec::new();
        for row in rows {
            if self.seen.insert(row.get(0), row.get(1)).is_none() {
                let change = serde_json::from_str(row.get(2));
                changes.push(change.map_err(|_| StoreError::Unreadable { column: 3 })?);
            }
        }
        self.horizon = next;
        self.seen.retain(|_, transaction| *transaction >= next);
        Ok(changes)
    }
}

async fn horizon(client: &impl GenericClient) -> Result<i64, StoreError> {
    Ok(client.query_one(HORIZON, &[]).await?.get(0))
}
