//! Where a database is, as `--database` says it.

use std::{fmt, path::PathBuf, str::FromStr};

use super::postgres::{BadServer, Server};

#[derive(Debug, Clone)]
pub enum Location {
    /// SQLite's file, on this machine.
    File(PathBuf),
    /// A PostgreSQL server, `postgres://…`.
    Postgres(Box<Server>),
}

impl FromStr for Location {
    type Err = BadServer;

    fn from_str(text: &str) -> Result<Self, BadServer> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            text.parse().map(|server| Self::Postgres(Box::new(server)))
        } else {
            Ok(Self::File(text.into()))
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Postgres(server) => server.fmt(f),
        }
    }
}
