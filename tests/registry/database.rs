//! A database of a test's own: a file, or where `SUBLET_TEST_DATABASE` names a PostgreSQL server, one there.

use std::{
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
};

use sublet::api::secret::Secret;
use tempfile::TempDir;
use uuid::Uuid;

/// It goes with the last who has it.
#[derive(Clone)]
pub(crate) struct Database(Arc<Kept>);

struct Kept {
    directory: TempDir,
    /// Where it is at a server: the URL of the server's own database, and of the test's.
    postgres: Option<(String, String)>,
}

impl Database {
    pub(crate) fn new() -> Self {
        std::env::var("SUBLET_TEST_DATABASE").map_or_else(|_| Self::in_a_file(), |server| Self::at(&server))
    }

    /// At this PostgreSQL server.
    pub(crate) fn at(server: &str) -> Self {
        let name = format!("test_{}", Uuid::new_v4().simple());
        psql(server, &format!("CREATE DATABASE {name}"));
        let (before, after) = server.split_once("/postgres").unwrap();
        let postgres = Some((server.to_owned(), format!("{before}/{name}{after}")));
        Self(Arc::new(Kept { directory: tempfile::tempdir().unwrap(), postgres }))
    }

    /// For what is promised of a file alone.
    pub(crate) fn in_a_file() -> Self {
        Self(Arc::new(Kept { directory: tempfile::tempdir().unwrap(), postgres: None }))
    }

    /// As `--database` takes it.
    pub(crate) fn location(&self) -> String {
        match &self.0.postgres {
            None => self.path().into_os_string().into_string().unwrap(),
            Some((_, url)) => url.clone(),
        }
    }

    /// Of one in a file.
    pub(crate) fn path(&self) -> PathBuf {
        assert!(self.0.postgres.is_none(), "{} is no file", self.location());
        self.beside("registry.db")
    }

    /// A file that goes with the database.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.0.directory.path().join(name)
    }

    /// All that is stored.
    pub(crate) fn contents(&self) -> Vec<u8> {
        if let Some((_, url)) = &self.0.postgres {
            return done(Command::new("pg_dump").arg(url)).stdout;
        }
        let mut stored = std::fs::read(self.path()).unwrap();
        stored.extend(std::fs::read(self.path().with_extension("db-wal")).unwrap());
        stored
    }

    /// The registry's program on this database.
    pub(crate) fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sublet-registry"));
        command.arg("--database").arg(self.location()).env_remove("RUST_LOG");
        command
    }

    /// Runs the program until it ends.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.program().args(arguments).output().unwrap()
    }

    pub(crate) fn token(&self, whose: &str, name: &str) -> Secret {
        let output = self.run(&["token", "make", whose, "--name", name]);
        assert!(output.status.success(), "{output:?}");
        Secret::new(String::from_utf8(output.stdout).unwrap().trim())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some((server, url)) = &self.postgres {
            let name = url.split_once("/test_").unwrap().1.split('?').next().unwrap();
            psql(server, &format!("DROP DATABASE IF EXISTS test_{name} WITH (FORCE)"));
        }
    }
}

fn psql(url: &str, sql: &str) {
    done(Command::new("psql").args(["--quiet", "--no-psqlrc", "--command", sql, url]));
}

fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}
