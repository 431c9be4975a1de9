//! Copies of a database's file: taken while registries serve it, and put back where there is none.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, backup::Backup};
use thiserror::Error;

use super::{super::schema::MIGRATIONS, open};

#[derive(Debug, Error)]
pub enum BackupError {
    #[error("{} is there already, and is not overwritten", .0.display())]
    InTheWay(PathBuf),
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot copy {}", path.display())]
    Copy { path: PathBuf, source: rusqlite::Error },
    #[error("{} is no backup of a registry's database: {found}", path.display())]
    Damaged { path: PathBuf, found: String },
    #[error("{} has schema {found}, this program knows up to {}: use the newer program", path.display(), MIGRATIONS.len())]
    TooNew { path: PathBuf, found: usize },
    #[error("the database is at a PostgreSQL server, which has pg_dump and pg_restore for that")]
    AtAServer,
}

/// Copies the database as it is at one moment; whoever serves it goes on. Nobody but the owner can read the copy: the
/// registry's signing key is in it.
pub(in super::super) fn backup(database: &Path, to: &Path) -> Result<(), BackupError> {
    let copying = |source| BackupError::Copy { path: database.to_owned(), source };
    let from = open::open_for_reading(database).map_err(copying)?;
    copy(&from, database, to)
}

/// Makes the database out of a copy of it. What was committed after the copy was made is not in it.
pub(in super::super) fn restore(backup: &Path, database: &Path) -> Result<(), BackupError> {
    let copying = |source| BackupError::Copy { path: backup.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let from = Connection::open_with_flags(backup, flags).map_err(copying)?;
    let damaged = |found: String| BackupError::Damaged { path: backup.to_owned(), found };
    let found: String = from
        .query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))
        .map_err(|error| damaged(error.to_string()))?;
    if found != "ok" {
        return Err(damaged(found));
    }
    match from.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(copying)? {
        0 => Err(damaged("it has no schema".to_owned())),
        _ if log_of(database).exists() => Err(BackupError::InTheWay(log_of(database))),
        found if found > MIGRATIONS.len() => Err(BackupError::TooNew { path: backup.to_owned(), found }),
        _ => copy(&from, backup, database),
    }
}

/// Where one was left behind, SQLite would take what is in it for the database's.
fn log_of(database: &Path) -> PathBuf {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Whole and durable, or not at all.
fn copy(from: &Connection, named: &Path, to: &Path) -> Result<(), BackupError> {
    let writing = |source| BackupError::Write { path: to.to_owned(), source };
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    // A file that was not finished is nobody's.
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(writing(error)),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).map_err(writing)?;
    let copied = copy_pages(from, &partial);
    copied.map_err(|source| BackupError::Copy { path: named.to_owned(), source })?;
    File::open(&partial).and_then(|file| file.sync_all()).map_err(writing)?;
    publish(&partial, to)
}

/// All of them in one step: a read transaction, which holds nobody up.
fn copy_pages(from: &Connection, to: &Path) -> rusqlite::Result<()> {
    let mut to =
        Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    Backup::new(from, &mut to)?.step(-1)?;
    // One file, without a log beside it; whoever serves it has it otherwise.
    to.pragma_update(None, "journal_mode", "DELETE")
}

/// Gives the file its name, if nothing has that yet; durably.
fn publish(partial: &Path, to: &Path) -> Result<(), BackupError> {
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    match rustix::fs::renameat_with(rustix::fs::CWD, partial, rustix::fs::CWD, to, flags) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => {
            // What is in the way is what matters.
            let _ = std::fs::remove_file(partial);
            return Err(BackupError::InTheWay(to.to_owned()));
        }
        Err(error) => return Err(BackupError::Write { path: to.to_owned(), source: error.into() }),
    }
    let directory = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| BackupError::Write { path: to.to_owned(), source })
}
