//! Opening a database file: who may read it, how durable it is, which schema it has.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};
use thiserror::Error;

use super::super::schema::{self, MIGRATIONS};

/// How long to wait for another process at the same database (the `token` command).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum OpenSqliteError {
    #[error("cannot open the database file {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "the database file {} holds the registry's signing key, and others can read it (mode {mode:o}): \
         chmod 600 it",
        path.display()
    )]
    ReadableByOthers { path: PathBuf, mode: u32 },
    #[error("cannot use {} as a database", path.display())]
    Sqlite { path: PathBuf, source: rusqlite::Error },
    #[error(
        "the database {} has schema {found}, this program knows up to {}: use the newer program",
        path.display(), MIGRATIONS.len()
    )]
    TooNew { path: PathBuf, found: usize },
    #[error("cannot start the database's thread")]
    Thread(#[source] io::Error),
}

pub(super) fn open_for_writing(path: &Path) -> Result<Connection, OpenSqliteError> {
    make_private(path)?;
    let refused = |source| OpenSqliteError::Sqlite { path: path.to_owned(), source };
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(refused)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(refused)?;
    // Law 6: what was acknowledged survives a power cut.
    connection.pragma_update(None, "synchronous", "FULL").map_err(refused)?;
    migrate(&mut connection, path)?;
    Ok(connection)
}

pub(super) fn open_for_reading(path: &Path) -> rusqlite::Result<Connection> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn connect(path: &Path, mode: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(256);
    // Else it plans a prepared statement anew whenever another value is bound to it, in case the best plan changes.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// SQLite gives the files beside it (`-wal`, `-shm`) the same mode.
fn make_private(path: &Path) -> Result<(), OpenSqliteError> {
    let failed = |source| OpenSqliteError::File { path: path.to_owned(), source };
    let open = |path| -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
    };
    let mode = open(path).and_then(|file| file.metadata()).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(OpenSqliteError::ReadableByOthers { path: path.to_owned(), mode });
    }
    Ok(())
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenSqliteError> {
    let refused = |source| OpenSqliteError::Sqlite { path: path.to_owned(), source };
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(refused)?;
    let found: usize =
        transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(refused)?;
    let missing =
        MIGRATIONS.get(found..).ok_or_else(|| OpenSqliteError::TooNew { path: path.to_owned(), found })?;
    for migration in missing {
        transaction.execute_batch(&schema::for_sqlite(migration)).map_err(refused)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len()).map_err(refused)?;
    transaction.commit().map_err(refused)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn database() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.db");
        (directory, path)
    }

    #[test]
    fn a_new_database_is_readable_by_its_owner_alone_and_durable() {
        let (_directory, path) = database();
        let connection = open_for_writing(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!((pragma("synchronous"), pragma("foreign_keys")), (2, 1));
        let journal: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(journal, "wal");
    }

    #[test]
    fn a_database_that_others_can_read_is_refused() {
        let (_directory, path) = database();
        File::create(&path).unwrap().set_permissions(Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            open_for_writing(&path),
            Err(OpenSqliteError::ReadableByOthers { mode: 0o644, .. })
        ));
    }

    #[test]
    fn a_database_is_opened_again_with_the_schema_it_has() {
        let (_directory, path) = database();
        drop(open_for_writing(&path).unwrap());
        open_for_writing(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_database_is_refused() {
        let (_directory, path) = database();
        std::fs::write(&path, "not a database, but long enough to be looked at as one".repeat(100)).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(open_for_writing(&path), Err(OpenSqliteError::Sqlite { .. })));
    }
}
