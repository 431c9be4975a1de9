//! The partition table (patent fig. 2), in SQLite: one row a partition, written before anything is done about it.

mod reserve;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params, types::Type};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::machine::MachineRecord;
use crate::{
    api::registry::{EndReason, EndedAtHost},
    domain::{
        id::{LeaseId, PartitionId},
        money::Price,
        partition::{Effect, Partition},
        resources::Allocation,
        terms::{Epoch, Terms, TermsVersion},
    },
};

const SCHEMA: &str = include_str!("table.sql");
/// Each schema from the one before it; the first had neither networks nor qualities nor rules of lending nor receipts,
/// nor the reserve's row.
const LATER: [&str; 5] = [
    "ALTER TABLE partitions ADD COLUMN network TEXT NOT NULL DEFAULT 'none';",
    "ALTER TABLE partitions ADD COLUMN qualities TEXT NOT NULL DEFAULT '{}';",
    "ALTER TABLE partitions ADD COLUMN lending TEXT NOT NULL DEFAULT '{}';",
    include_str!("receipts.sql"),
    include_str!("table/reserve.sql"),
];
/// How many of them `table.sql` has already.
const IN_SCHEMA: usize = 3;
const SCHEMA_VERSION: usize = 1 + LATER.len();

#[derive(Debug, Error)]
pub enum TableError {
    #[error("cannot open the partition table {path:?}")]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("the partition table {path:?} is of version {version}; this agent knows {SCHEMA_VERSION}")]
    Version { path: PathBuf, version: usize },
    #[error("the partition table cannot be read or written")]
    Sqlite(#[from] rusqlite::Error),
    #[error("a row of the partition table cannot be put into words")]
    Encode(#[from] serde_json::Error),
    #[error("cannot delete {path:?}")]
    Files { path: PathBuf, source: std::io::Error },
    #[error("the partition table's thread ended")]
    Gone(#[from] tokio::task::JoinError),
}

impl TableError {
    /// Whether the disk that it is on has no room left.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            Self::Files { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

/// The table, shared by all that read and write it. One writer at a time.
#[derive(Debug, Clone)]
pub struct Table {
    connection: Arc<Mutex<Connection>>,
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionRow {
    pub id: PartitionId,
    /// What the host has carved by itself is of a shape that its owner has named.
    pub shape: Option<String>,
    pub partition: Partition,
    /// What is still to be done about it.
    pub effects: Vec<Effect>,
    /// The VMM that stands for it.
    pub machine: MachineRecord,
}

/// A request that may be repeated: its idempotency key, and a digest of what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestMark {
    pub key: String,
    pub digest: [u8; 32],
}

/// What stands in the table for the idempotency key of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier<T> {
    None,
    Same(T),
    /// The key was used for something else.
    Other,
}

impl<T> Earlier<T> {
    pub fn of(found: Option<(T, [u8; 32])>, mark: &RequestMark) -> Self {
        match found {
            None => Self::None,
            Some((id, digest)) if digest == mark.digest => Self::Same(id),
            Some(_) => Self::Other,
        }
    }
}

impl Table {
    pub fn open(path: &Path) -> Result<Self, TableError> {
        let failed = |source| TableError::Open { path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(failed)?;
        prepare(&connection).map_err(failed)?;
        let version = version(&connection).map_err(failed)?;
        if version != SCHEMA_VERSION {
            return Err(TableError::Version { path: path.to_owned(), version });
        }
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Does something with the connection, off the async threads.
    pub async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Connection) -> Result<T, TableError> + Send + 'static,
    ) -> Result<T, TableError> {
        let connection = Arc::clone(&self.connection);
        tokio::task::spawn_blocking(move || {
            // What a panic left unfinished was rolled back with its transaction.
            act(&mut connection.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await?
    }

    pub async fn rows(&self) -> Result<Vec<PartitionRow>, TableError> {
        self.run(|connection| {
            let mut rows = connection.prepare("SELECT * FROM partitions ORDER BY rowid")?;
            let rows = rows.query_map([], read_row)?.collect::<Result<_, _>>()?;
            Ok(rows)
        })
        .await
    }

    pub async fn insert(&self, row: PartitionRow, mark: Option<RequestMark>) -> Result<(), TableError> {
        self.run(move |connection| {
            let transaction = connection.transaction()?;
            write_row(&transaction, INSERT, &row)?;
            if let Some(mark) = mark {
                transaction.execute(
                    "UPDATE partitions SET request_key = ?, request_digest = ? WHERE id = ?",
                    params![mark.key, mark.digest, row.id.to_string()],
                )?;
            }
            Ok(transaction.commit()?)
        })
        .await
    }

    /// Stores the row as it is now, with what is still to be done.
    pub async fn update(&self, row: PartitionRow) -> Result<(), TableError> {
        self.run(move |connection| write_row(connection, UPDATE, &row)).await
    }

    pub async fn delete(&self, id: PartitionId) -> Result<(), TableError> {
        self.run(move |connection| {
            connection.execute("DELETE FROM partitions WHERE id = ?", [id.to_string()])?;
            Ok(())
        })
        .await
    }

    /// The partition that was carved by an earlier request with this key.
    pub async fn carved_by(&self, mark: RequestMark) -> Result<Earlier<PartitionId>, TableError> {
        self.run(move |connection| {
            let found = connection
                .query_row(
                    "SELECT id, request_digest FROM partitions WHERE request_key = ?",
                    [&mark.key],
                    |row| Ok((PartitionId(uuid(row, 0)?), row.get(1)?)),
                )
                .optional()?;
            Ok(Earlier::of(found, &mark))
        })
        .await
    }

    /// A number that was never given before: context ids of guests.
    pub async fn next_cid(&self) -> Result<u32, TableError> {
        self.run(|connection| {
            let next = "UPDATE counters SET value = value + 1 WHERE name = 'guest_cid' RETURNING value";
            Ok(connection.query_row(next, [], |row| row.get(0))?)
        })
        .await
    }

    pub async fn report_ended(&self, lease: LeaseId, reason: EndReason) -> Result<(), TableError> {
        self.run(move |connection| {
            connection.execute(
                "INSERT INTO reports (lease, ended) VALUES (?, ?) ON CONFLICT (lease) DO UPDATE SET ended = excluded.ended",
                params![lease.to_string(), serde_json::to_string(&reason)?],
            )?;
            Ok(())
        })
        .await
    }

    pub async fn report_cleaned(&self, lease: LeaseId) -> Result<(), TableError> {
        self.run(move |connection| {
            connection.execute(
                "INSERT INTO reports (lease, cleaned) VALUES (?, 1) ON CONFLICT (lease) DO UPDATE SET cleaned = 1",
                [lease.to_string()],
            )?;
            Ok(())
        })
        .await
    }

    /// What the registry is still to be told.
    pub async fn reports(&self) -> Result<Reports, TableError> {
        self.run(|connection| {
            let mut rows = connection.prepare("SELECT lease, ended, cleaned FROM reports ORDER BY rowid")?;
            let mut reports = Reports::default();
            let mut rows = rows.query([])?;
            while let Some(row) = rows.next()? {
                let lease = LeaseId(uuid(row, 0)?);
                if let Some(reason) = row.get::<_, Option<String>>(1)? {
                    let reason = serde_json::from_str(&reason)?;
                    reports.ended.push(EndedAtHost { lease, reason });
                }
                if row.get(2)? {
                    reports.cleaned.push(lease);
                }
            }
            Ok(reports)
        })
        .await
    }

    /// Forgets reports that the registry has answered. A report that grew in the meantime stays.
    pub async fn told(&self, reports: Reports) -> Result<(), TableError> {
        self.run(move |connection| {
            let transaction = connection.transaction()?;
            for lease in &reports.cleaned {
                transaction.execute("DELETE FROM reports WHERE lease = ?", [lease.to_string()])?;
            }
            for ended in &reports.ended {
                transaction.execute(
                    "DELETE FROM reports WHERE lease = ? AND NOT cleaned",
                    [ended.lease.to_string()],
                )?;
            }
            Ok(transaction.commit()?)
        })
        .await
    }
}

/// What the registry is to be told about leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reports {
    pub ended: Vec<EndedAtHost>,
    pub cleaned: Vec<LeaseId>,
}

impl Reports {
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.cleaned.is_empty()
    }
}

fn prepare(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
         PRAGMA secure_delete = ON; PRAGMA busy_timeout = 5000;",
    )?;
    let missing = match version(connection)? {
        0 => [SCHEMA, &LATER[IN_SCHEMA..].concat()].concat(),
        known @ 1..SCHEMA_VERSION => LATER[known - 1..].concat(),
        _ => return Ok(()),
    };
    connection.execute_batch(&format!("BEGIN; {missing} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"))
}

fn version(connection: &Connection) -> Result<usize, rusqlite::Error> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

const INSERT: &str = "INSERT INTO partitions (state, effects, machine, cpus, memory_mib, disk_mib, host_cpus,
        cpu_model, os_images, price_per_hour_micros, currency, network, qualities, lending, terms_version,
        least_epoch, kind, created, shape, id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const UPDATE: &str = "UPDATE partitions SET state = ?, effects = ?, machine = ?, cpus = ?, memory_mib = ?,
        disk_mib = ?, host_cpus = ?, cpu_model = ?, os_images = ?, price_per_hour_micros = ?, currency = ?,
        network = ?, qualities = ?, lending = ?, terms_version = ?, least_epoch = ?,
        kind = ?, created = ?, shape = ?
    WHERE id = ?";

fn write_row(connection: &Connection, statement: &str, row: &PartitionRow) -> Result<(), TableError> {
    let Partition { kind, state, terms, host_cpus, version, least_epoch } = &row.partition;
    let Terms { allocation, price, os_images, cpu_model, network, qualities, lending } = terms;
    let changed = connection.execute(
        statement,
        params![
            json(state)?,
            json(&row.effects)?,
            json(&row.machine)?,
            allocation.cpus,
            number(allocation.memory_mib)?,
            number(allocation.disk_mib)?,
            json(host_cpus)?,
            cpu_model,
            json(os_images)?,
            price.per_hour_micros,
            price.currency.to_string(),
            network.to_string(),
            json(qualities)?,
            json(lending)?,
            version.map(|version| number(version.0)).transpose()?,
            number(least_epoch.0)?,
            json(kind)?,
            row.partition.is_created(),
            row.shape,
            row.id.to_string()
        ],
    )?;
    if changed == 1 { Ok(()) } else { Err(rusqlite::Error::QueryReturnedNoRows.into()) }
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<PartitionRow> {
    let currency: String = row.get("currency")?;
    let price = Price {
        per_hour_micros: row.get("price_per_hour_micros")?,
        currency: currency.parse().map_err(|error| unreadable("currency", error))?,
    };
    let allocation = Allocation {
        cpus: row.get("cpus")?,
        memory_mib: unsigned(row, "memory_mib")?,
        disk_mib: unsigned(row, "disk_mib")?,
    };
    let network: String = row.get("network")?;
    let terms = Terms {
        allocation,
        price,
        os_images: read_json(row, "os_images")?,
        cpu_model: row.get("cpu_model")?,
        network: network.parse().map_err(|error| unreadable("network", error))?,
        qualities: read_json(row, "qualities")?,
        lending: read_json(row, "lending")?,
    };
    let version: Option<i64> = row.get("terms_version")?;
    let partition = Partition {
        kind: read_json(row, "kind")?,
        state: read_json(row, "state")?,
        terms,
        host_cpus: read_json(row, "host_cpus")?,
        version: version.map(|version| TermsVersion(version.unsigned_abs())),
        least_epoch: Epoch(unsigned(row, "least_epoch")?),
    };
    let id = row.get::<_, String>("id")?.parse().map_err(|error| unreadable("id", error))?;
    Ok(PartitionRow {
        id,
        shape: row.get("shape")?,
        partition,
        effects: read_json(row, "effects")?,
        machine: read_json(row, "machine")?,
    })
}

/// A value as JSON, for a column.
pub fn json<T: Serialize>(value: &T) -> Result<String, TableError> {
    Ok(serde_json::to_string(value)?)
}

/// A column that was written with [`json`].
pub fn read_json<T: DeserializeOwned>(row: &Row<'_>, column: &'static str) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| unreadable(column, error))
}

/// A count as SQLite has them.
pub fn number(count: u64) -> Result<impl ToSql, TableError> {
    i64::try_from(count).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()).into())
}

/// A column that holds a count.
pub fn unsigned(row: &Row<'_>, column: &'static str) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column)?.try_into().map_err(|error| unreadable(column, error))
}

fn uuid(row: &Row<'_>, column: usize) -> rusqlite::Result<uuid::Uuid> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error| unreadable("id", error))
}

/// What stands in `column` is none of ours.
pub fn unreadable(
    column: &'static str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    #[derive(Debug, Error)]
    #[error("column {0} cannot be read")]
    struct Unreadable(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>);
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Unreadable(column, error.into()).into())
}

#[cfg(test)]
pub(in crate::agent) mod tests;
