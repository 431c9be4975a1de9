//! A database of a test's own: a file, or where `SUBLET_TEST_DATABASE` names a PostgreSQL server, one there.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt as _};

use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls};
use uuid::Uuid;

use super::Location;
use crate::registry::resource_db::{postgres::VERSION, schema};

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
            return Self::in_a_file();
        };
        let name = format!("test_{}", Uuid::new_v4().simple());
        connect(server.parse().unwrap())
            .await
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .unwrap();
        Self::Postgres { server, name }
    }

    fn in_a_file() -> Self {
        // None of this is about what a disk may lose; memory is faster.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut private = OpenOptions::new();
        private.write(true).create_new(true).mode(0o600);
        private.open(directory.path().join("registry.db")).unwrap();
        Self::File(directory)
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

    /// Runs these migrations, and says that it has this schema now.
    pub(super) async fn make(&self, migrations: &[&str], schema: usize) {
        let (dialect, version): (fn(&str) -> String, _) = match self {
            Self::File(_) => (schema::for_sqlite, format!("PRAGMA user_version = {schema}")),
            Self::Postgres { .. } => {
                let store = "ON CONFLICT (one) DO UPDATE SET version = excluded.version";
                (
                    schema::for_postgres,
                    format!("{VERSION}; INSERT INTO schema_version VALUES (1, {schema}) {store}"),
                )
            }
        };
        for migration in migrations {
            self.execute(&dialect(migration)).await.unwrap();
        }
        self.execute(&version).await.unwrap();
    }

    /// A literal.
    pub(super) fn bytes(&self, bytes: &[u8]) -> String {
        match self {
            Self::File(_) => format!("X'{}'", hex::encode(bytes)),
            Self::Postgres { .. } => format!("'\\x{}'", hex::encode(bytes)),
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
