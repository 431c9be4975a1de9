//! A registry's process, on a database of its own.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use thiserror::Error;

/// What Linux counts processes' time in, on x86-64 always (USER_HZ).
const TICKS_PER_S: f64 = 100.0;

#[derive(Debug, Error)]
pub enum ServerError {
    #[error("cannot run the registry")]
    Run(#[source] io::Error),
    #[error("the registry did not start: {0}")]
    NotStarted(String),
}

/// It is killed when it is dropped.
pub(super) struct Server {
    program: PathBuf,
    database: PathBuf,
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts it on `registry.db` in `directory`, and waits until it listens.
    pub(super) fn start(program: &Path, directory: &Path, beat: Duration) -> Result<Self, ServerError> {
        let database = directory.join("registry.db");
        let beat = beat.as_millis().to_string();
        let mut child = command(program, &database)
            .args(["serve", "--listen", "127.0.0.1:0", "--beat-every-ms", &beat])
            .stderr(Stdio::piped())
            .spawn()
            .map_err(ServerError::Run)?;
        let said = BufReader::new(child.stderr.take().ok_or(ServerError::NotStarted(String::new()))?);
        let mut lines = said.lines().map_while(Result::ok);
        let mut seen = String::new();
        let address = loop {
            let Some(line) = lines.next() else { return Err(ServerError::NotStarted(seen)) };
            let address = line.strip_prefix("listening on http://").and_then(|address| address.parse().ok());
            match address {
                Some(address) => break address,
                None => seen.push_str(&line),
            }
        };
        // Its log is read and forgotten: a pipe that nobody reads would hold it up.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { program: program.to_owned(), database, child, address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A token of an account of this name.
    pub(super) fn token(&self, whose: &str, name: &str) -> Result<String, ServerError> {
        let output = command(&self.program, &self.database)
            .args(["token", "make", whose, "--name", name])
            .output()
            .map_err(ServerError::Run)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// CPU time that its process has used (proc_pid_stat(5): utime and stime).
    pub(super) fn cpu_s(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let ticks = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
        ticks.sum::<f64>() / TICKS_PER_S
    }

    /// SIGKILL, as a power cut would do it; the database stays.
    pub(super) fn kill(self) -> PathBuf {
        self.database.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(program: &Path, database: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--database").arg(database).env_remove("RUST_LOG");
    command
}
