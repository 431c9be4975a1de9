//! What a registry's database holds when a measurement begins. One row of each kind is made by the registry; here it is
//! copied, with what has to differ.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, params_from_iter, types::Value};
use thiserror::Error;
use uuid::Uuid;

use super::market::{Market, Offered, terms};

#[derive(Debug, Error)]
pub enum SeedError {
    #[error("cannot fill the registry's database")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the database has no {0} to copy")]
    Nothing(&'static str),
    #[error("the borrowers were told of {told} leases, the database has {kept}")]
    Lost { told: usize, kept: usize },
}

fn open(database: &Path) -> Result<Connection, SeedError> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Only what is measured needs to be durable.
    connection
        .execute_batch("PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF; PRAGMA cache_size = -200000")?;
    Ok(connection)
}

/// Rows of one table, whatever columns it has.
struct Rows {
    table: &'static str,
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

impl Rows {
    fn read(connection: &Connection, table: &'static str, condition: &str) -> Result<Self, SeedError> {
        let mut statement = connection.prepare(&format!("SELECT * FROM {table} WHERE {condition}"))?;
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let width = columns.len();
        let rows = statement.query_map((), |row| (0..width).map(|column| row.get(column)).collect())?;
        Ok(Self { table, columns, rows: rows.collect::<Result<_, _>>()? })
    }

    fn at(&self, column: &'static str) -> Result<usize, SeedError> {
        self.columns.iter().position(|name| name == column).ok_or(SeedError::Nothing(column))
    }

    fn insert(&self) -> String {
        let places = vec!["?"; self.columns.len()].join(", ");
        format!("INSERT INTO {} ({}) VALUES ({places})", self.table, self.columns.join(", "))
    }
}

fn id() -> (Uuid, Value) {
    let id = Uuid::now_v7();
    (id, Value::Blob(id.as_bytes().to_vec()))
}

/// So many offers in all, spread over the hosts.
pub(super) fn offers(database: &Path, market: &mut Market, count: usize) -> Result<(), SeedError> {
    let mut connection = open(database)?;
    let templates = Rows::read(&connection, "partitions", "state = 'free'")?;
    let (host, name, text) = (templates.at("host")?, templates.at("id")?, templates.at("terms")?);
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare(&templates.insert())?;
        let copies = templates.rows.iter().cycle().take(count.saturating_sub(templates.rows.len()));
        for (number, template) in copies.enumerate() {
            let Some(Value::Blob(of)) = template.get(host).cloned() else {
                return Err(SeedError::Nothing("hosts"));
            };
            let of = Uuid::from_slice(&of).map_err(|_| SeedError::Nothing("hosts"))?;
            let (partition, id) = id();
            let mut row = template.clone();
            let host = market.host_number(of).ok_or(SeedError::Nothing("hosts"))?;
            row[name] = id;
            row[text] = Value::Text(terms(host, templates.rows.len() + number).to_string());
            insert.execute(params_from_iter(row))?;
            market.offered.push(Offered { host, partition });
        }
    }
    Ok(transaction.commit()?)
}

/// So many leases in all: those that have ended, copied with other names and epochs.
pub(super) fn past_leases(database: &Path, count: usize) -> Result<(), SeedError> {
    let mut connection = open(database)?;
    let templates = Rows::read(&connection, "leases", "ended_at_us IS NOT NULL")?;
    let (name, epoch) = (templates.at("id")?, templates.at("epoch")?);
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare(&templates.insert())?;
        let copies = templates.rows.iter().cycle().take(count.saturating_sub(templates.rows.len()));
        for (number, template) in copies.enumerate() {
            let mut row = template.clone();
            row[name] = id().1;
            // Epochs of before the lease that was made, which is of a later one.
            row[epoch] = Value::Integer(-1 - i64::try_from(number).unwrap_or(i64::MAX - 1));
            insert.execute(params_from_iter(row))?;
        }
    }
    transaction.commit()?;
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(())
}

pub(super) fn count(database: &Path, table: &str) -> Result<usize, SeedError> {
    let count = open(database)?.query_row(&format!("SELECT count(*) FROM {table}"), (), |row| row.get(0))?;
    Ok(count)
}
