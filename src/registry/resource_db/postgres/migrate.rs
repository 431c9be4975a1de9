//! Brings a server's database up to date. Where several registries start at once, one of them does it.

use tokio_postgres::Client;

use super::{super::schema, OpenPostgresError};

/// Any number, the same at each registry: whoever holds this lock migrates.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7386205123)";
/// Where it is written which schema the database has.
pub(in super::super) const VERSION: &str = "CREATE TABLE IF NOT EXISTS schema_version (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    version BIGINT NOT NULL
)";

pub(super) async fn migrate(client: &mut Client) -> Result<(), OpenPostgresError> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(LOCK).await?;
    transaction.batch_execute(VERSION).await?;
    let found: Option<i64> =
        transaction.query_opt("SELECT version FROM schema_version", &[]).await?.map(|row| row.get(0));
    let found = usize::try_from(found.unwrap_or(0)).unwrap_or(usize::MAX);
    let missing = schema::MIGRATIONS.get(found..).ok_or(OpenPostgresError::TooNew { found })?;
    for migration in missing {
        transaction.batch_execute(&schema::for_postgres(migration)).await?;
    }
    let version = i64::try_from(schema::MIGRATIONS.len()).unwrap_or(i64::MAX);
    let store = "INSERT INTO schema_version VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET version = $1";
    transaction.execute(store, &[&version]).await?;
    Ok(transaction.commit().await?)
}
