//! A database of a test's own: a file, or where `SUBLET_TEST_DATABASE` names a PostgreSQL server, one there.

use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls};
use uuid::Uuid;

use super::Location;

pub(super) enum Database {
    File(TempDir),
    /// The URL of the server's own database, and the name of the test's.
    Postgres {
        server: String,
        name: String,
    },
}

impl Database {
    pub(super) async fn new() -> Self {
        let Ok(server) = std::env::var("SUBLET_TEST_DATABASE") else {
            return Self::File(tempfile::tempdir().unwrap());
        };
        let name = format!("test_{}", Uuid::new_v4().simple());
        connect(server.parse().unwrap())
            .await
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .unwrap();
        Self::Postgres { server, name }
    }

    pub(super) fn location(&self) -> Location {
        match self {
            Self::File(directory) => Location::File(directory.path().join("registry.db")),
            Self::Postgres { server, name } => {
                let (server, _) = server.rsplit_once('/').unwrap();
                format!("{server}/{name}").parse().unwrap()
            }
        }
    }

    /// Past all use cases and all that the schema forbids.
    pub(super) async fn tamper(&self, change: &str) {
        let unguarded = match self {
            Self::File(_) => "PRAGMA foreign_keys = OFF; DROP TRIGGER IF EXISTS entries_stay",
            Self::Postgres { .. } => "SET session_replication_role = replica",
        };
        self.execute(&format!("{unguarded}; {change}")).await.unwrap();
    }

    /// Past all use cases; where it fails, with what the database said.
    pub(super) async fn execute(&self, sql: &str) -> Result<(), String> {
        match self.location() {
            Location::File(path) => {
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.execute_batch(sql).map_err(|error| error.to_string())
            }
            Location::Postgres(server) => {
                let client = connect(server.to_string().parse().unwrap()).await;
                client.batch_execute(sql).await.map_err(|error| error.as_db_error().unwrap().to_string())
            }
        }
    }
}

async fn connect(config: Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
