//! One lender host of a lab.

mod log;
mod start;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::log::{EMULATOR_FAULT, LOST_GUESTS};
pub use self::start::HostStartError;
use crate::exec::client::Connection;
use crate::exec::handshake::SecretError;
use crate::exec::{Command, ExecError, Outcome, Output, Secret};
use crate::prepare::System;
use crate::qemu::{KillError, Process};

/// What a host is made of; fixed when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostOptions {
    pub cpus: u32,
    pub memory_mib: u64,
    /// Size of its own disk, of which only what is written takes space.
    pub disk_mib: u64,
    /// Repeatable time, counted in instructions; for one CPU only.
    pub icount: bool,
    /// Whether its first program is systemd, rather than busybox's init.
    #[serde(default)]
    pub systemd: bool,
    /// Whether an agent runs in it.
    pub agent: bool,
    /// Registry at which the agent registers, as seen from this machine.
    pub registry: Option<String>,
    /// File with the token with which it enrols there.
    pub enrolment_token_file: Option<PathBuf>,
    /// None: its agent speaks plain HTTP, as all of its network is within this machine.
    #[serde(default)]
    pub tls: Option<HostTls>,
}

/// With what an agent speaks TLS with its registry (files in PEM, on this machine); to others it has a key of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTls {
    /// Whose word is taken for who the registry is.
    pub registry_authority: PathBuf,
    /// What the host shows there, and its key.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            cpus: 4,
            memory_mib: 3072,
            disk_mib: 8192,
            icount: false,
            systemd: false,
            agent: true,
            registry: None,
            enrolment_token_file: None,
            tls: None,
        }
    }
}

/// What is written down of a host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) options: HostOptions,
    /// What it starts from.
    pub(crate) system: System,
    pub(crate) agent_port: u16,
    pub(crate) exec_port: u16,
}

/// A host that was made; it may be off.
#[derive(Debug, Clone)]
pub struct Host {
    pub(crate) name: String,
    /// Everything of this host alone.
    pub(crate) directory: PathBuf,
    pub(crate) lab: PathBuf,
    pub(crate) record: Record,
}

/// What can be asked of the service manager in a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentAction {
    Start,
    Stop,
    /// `kill -9`
    Kill,
    Restart,
    Status,
}

impl AgentAction {
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Status => "status",
        }
    }
}

impl Host {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn options(&self) -> &HostOptions {
        &self.record.options
    }

    /// What it was last brought up from.
    pub fn system(&self) -> &System {
        &self.record.system
    }

    /// Base URL of its agent's API, from this machine.
    pub fn address(&self) -> String {
        let scheme = if self.speaks_tls() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.record.agent_port)
    }

    fn speaks_tls(&self) -> bool {
        self.record.options.tls.is_some()
    }

    /// File with the token of this lab's lender, which its agents know as their owner.
    pub fn owner_token_file(&self) -> PathBuf {
        self.lab.join("owner.token")
    }

    pub fn owner_token(&self) -> io::Result<String> {
        Ok(fs::read_to_string(self.owner_token_file())?.trim().to_owned())
    }

    pub fn is_running(&self) -> bool {
        self.process().is_some()
    }

    /// Process id of its QEMU, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.process().map(|process| process.id)
    }

    fn process(&self) -> Option<Process> {
        Process::find(&self.pid_file())
    }

    fn pid_file(&self) -> PathBuf {
        self.directory.join("qemu.pid")
    }

    /// The host's own disk, as this machine keeps it.
    pub fn state_disk(&self) -> PathBuf {
        self.directory.join("state.ext4")
    }

    fn exec_secret_file(&self) -> PathBuf {
        self.lab.join("exec.secret")
    }

    /// The host's serial console, since it was made.
    pub fn console_log(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    /// What its agents logged, since it was made.
    pub fn agent_log(&self) -> PathBuf {
        self.directory.join("agent.log")
    }

    /// A power cut. Does nothing to a host that is off.
    pub fn kill(&self) -> Result<(), KillError> {
        self.process().map_or(Ok(()), Process::kill)
    }

    fn secret(&self) -> Result<Secret, SecretError> {
        Secret::read(&self.exec_secret_file())
    }

    /// Dials the host, to run one command as its root.
    pub fn connect(&self) -> Result<Connection, ExecError> {
        if !self.is_running() {
            return Err(ExecError::Off(self.name.clone()));
        }
        let secret = self.secret().map_err(ExecError::Secret)?;
        Connection::open(self.record.exec_port, &secret)
    }

    /// Runs a command as the host's root, without input, and keeps its output.
    pub fn exec<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Output, ExecError> {
        self.connect()?.output(Command::new(argv), Vec::new())
    }

    /// Copies a file into the host, with its mode; takes the place of an older one at once.
    pub fn copy(&self, local: &Path, remote: &str) -> Result<(), CopyError> {
        let cannot_read = |error| CopyError::Read(local.into(), error);
        let file = File::open(local).map_err(cannot_read)?;
        let mode = format!("{:o}", file.metadata().map_err(cannot_read)?.permissions().mode() & 0o7777);
        let script = r#"cat >"$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1""#;
        let command = Command::new(["sh", "-c", script, "sh", remote, &mode]);
        let (mut said, mut nothing) = (Vec::new(), io::sink());
        let outcome = self
            .connect()
            .and_then(|connection| connection.run(command, file, &mut nothing, &mut said))
            .map_err(CopyError::Exec)?;
        if outcome.is_success() {
            return Ok(());
        }
        Err(CopyError::Refused(outcome, String::from_utf8_lossy(&said).trim().to_owned()))
    }

    /// Starts, ends or asks after the host's agent.
    pub fn agent(&self, action: AgentAction) -> Result<Output, ExecError> {
        self.exec(["agent", action.word()])
    }
}

#[derive(Debug, Error)]
pub enum CopyError {
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    #[error("cannot copy into the host")]
    Exec(#[source] ExecError),
    #[error("the host cannot write it ({0}): {1}")]
    Refused(Outcome, String),
}
