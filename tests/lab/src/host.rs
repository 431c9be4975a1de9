//! One lender host of a lab.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::agent_config::{AgentConfig, Registry, RegistryUrlError};
use crate::exec::client::Connection;
use crate::exec::handshake::SecretError;
use crate::exec::{Command, ExecError, Outcome, Output, Secret};
use crate::prepare::System;
use crate::qemu::{Disk, KillError, Machine, Process, StartError};
use crate::{inside, wait};

/// Longest a host may take until commands can be run in it.
const UP_LIMIT: Duration = Duration::from_secs(180);
/// Longest an agent may take from then on until it answers.
const AGENT_LIMIT: Duration = Duration::from_secs(60);

/// What a host is made of; fixed when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostOptions {
    pub cpus: u32,
    pub memory_mib: u64,
    /// Size of its own disk, of which only what is written takes space.
    pub disk_mib: u64,
    /// Repeatable time, counted in instructions; for one CPU only.
    pub icount: bool,
    /// Whether an agent runs in it.
    pub agent: bool,
    /// Registry at which the agent registers, as seen from this machine.
    pub registry: Option<String>,
    /// File with the token with which it enrols there.
    pub enrolment_token_file: Option<PathBuf>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            cpus: 4,
            memory_mib: 3072,
            disk_mib: 8192,
            icount: false,
            agent: true,
            registry: None,
            enrolment_token_file: None,
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

#[derive(Debug, Error)]
pub enum HostStartError {
    #[error("{0} runs already")]
    Running(String),
    #[error("port {0} of this machine, by which the host is known, is taken by somebody else")]
    PortTaken(u16),
    #[error("its registry is none it can have")]
    Registry(#[source] RegistryUrlError),
    #[error("cannot write {0}")]
    Write(PathBuf, #[source] io::Error),
    #[error("cannot start its machine")]
    Start(#[source] StartError),
    #[error("its machine ended while it came up; its console said last:\n{0}")]
    Ended(String),
    #[error("it did not come up in time ({UP_LIMIT:?}); its console said last:\n{0}")]
    TimedOut(String),
    #[error("it came up, but commands cannot be run in it")]
    Exec(#[source] ExecError),
    #[error("its agent did not answer GET /healthz in time ({AGENT_LIMIT:?}); its log says last:\n{0}")]
    Agent(String),
    #[error(transparent)]
    Secret(SecretError),
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
        format!("http://127.0.0.1:{}", self.record.agent_port)
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

    pub(crate) fn state_disk(&self) -> PathBuf {
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

    /// Powers it up, and waits until commands can be run in it and its agent answers.
    pub fn start(&self, system: &System) -> Result<(), HostStartError> {
        if self.is_running() {
            return Err(HostStartError::Running(self.name.clone()));
        }
        let settings = self.write_settings()?;
        let console_from = fs::metadata(self.console_log()).map_or(0, |metadata| metadata.len());
        if let Some(port) = self.ports().into_iter().find(|port| !crate::ports::is_free(*port)) {
            return Err(HostStartError::PortTaken(port));
        }
        self.start_machine(system, settings)?;
        self.wait_until_up(console_from)?;
        if self.record.options.agent { self.wait_for_agent() } else { Ok(()) }
    }

    fn ports(&self) -> [u16; 2] {
        [self.record.agent_port, self.record.exec_port]
    }

    /// Files that the host gets from outside, by name.
    fn write_settings(&self) -> Result<Vec<(&'static str, PathBuf)>, HostStartError> {
        let mut settings = vec![
            ("hostname", self.write("hostname", &self.name)?),
            ("exec.secret", self.exec_secret_file()),
            ("owner.token", self.owner_token_file()),
        ];
        let options = &self.record.options;
        if options.agent {
            settings.push(("agent.toml", self.write("agent.toml", &self.agent_toml()?)?));
        }
        let enrolment = self.directory.join("enrolment.token");
        if enrolment.exists() {
            settings.push(("enrolment.token", enrolment));
        }
        Ok(settings)
    }

    fn agent_toml(&self) -> Result<String, HostStartError> {
        let options = &self.record.options;
        let registry = options
            .registry
            .as_deref()
            .map(|url| Registry { url, enrolment: options.enrolment_token_file.is_some() });
        let config = AgentConfig::new(self.record.agent_port, registry).map_err(HostStartError::Registry)?;
        toml::to_string(&config).map_err(|error| {
            HostStartError::Write(self.directory.join("agent.toml"), io::Error::other(error))
        })
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, HostStartError> {
        let path = self.directory.join(name);
        fs::write(&path, text).map_err(|error| HostStartError::Write(path.clone(), error))?;
        Ok(path)
    }

    fn start_machine(
        &self,
        system: &System,
        settings: Vec<(&'static str, PathBuf)>,
    ) -> Result<(), HostStartError> {
        let (state, pid_file) = (self.state_disk(), self.pid_file());
        let machine = Machine {
            name: &self.name,
            cpus: self.record.options.cpus,
            memory_mib: self.record.options.memory_mib,
            icount: self.record.options.icount,
            kernel: &system.kernel,
            initrd: &system.initrd,
            disks: vec![
                Disk { serial: "programs", file: &system.programs, writable: false },
                Disk { serial: "images", file: &system.images, writable: false },
                Disk { serial: "state", file: &state, writable: true },
            ],
            forwards: vec![
                (self.record.agent_port, inside::AGENT_PORT),
                (self.record.exec_port, inside::EXEC_PORT),
            ],
            settings,
            console_log: &self.console_log(),
            agent_log: &self.agent_log(),
            pid_file: &pid_file,
            own_log: &self.directory.join("qemu.log"),
        };
        machine.start().map_err(HostStartError::Start)
    }

    /// Waits for the console's last word, then for the port; before that QEMU would take connections for a host
    /// that does not answer yet.
    fn wait_until_up(&self, console_from: u64) -> Result<(), HostStartError> {
        let deadline = Instant::now() + UP_LIMIT;
        let came_up = wait::until(UP_LIMIT, || {
            if self.console_since(console_from).contains(inside::UP_MARKER) {
                return Some(true);
            }
            (!self.is_running()).then_some(false)
        });
        match came_up {
            Some(true) => self.wait_for_exec(deadline),
            Some(false) => Err(HostStartError::Ended(tail(&self.console_log()))),
            None => Err(HostStartError::TimedOut(tail(&self.console_log()))),
        }
    }

    fn wait_for_exec(&self, deadline: Instant) -> Result<(), HostStartError> {
        let secret = self.secret().map_err(HostStartError::Secret)?;
        let mut last = None;
        let connected = wait::until(deadline.saturating_duration_since(Instant::now()), || {
            Connection::open(self.record.exec_port, &secret).map_err(|error| last = Some(error)).ok()
        });
        match (connected, last) {
            (None, Some(error)) => Err(HostStartError::Exec(error)),
            _ => Ok(()),
        }
    }

    /// Waits until the agent answers `GET /healthz` with 200.
    pub fn wait_for_agent(&self) -> Result<(), HostStartError> {
        wait::until(AGENT_LIMIT, || self.agent_answers().ok().filter(|answers| *answers).map(drop))
            .ok_or_else(|| HostStartError::Agent(tail(&self.agent_log())))
    }

    fn agent_answers(&self) -> io::Result<bool> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.record.agent_port));
        let limit = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut status_line = [0; 12];
        stream.read_exact(&mut status_line)?;
        Ok(status_line.ends_with(b" 200"))
    }

    fn console_since(&self, from: u64) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(self.console_log())?;
            io::Seek::seek(&mut file, io::SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        // It is not there before QEMU has made it.
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
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
        use std::os::unix::fs::PermissionsExt as _;
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

/// The last lines of a log.
fn tail(path: &Path) -> String {
    const LINES: usize = 20;
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n")
}
