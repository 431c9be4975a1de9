//! Powering a host up.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::{AgentAction, Host, HostTls, log};
use crate::agent_config::{AgentConfig, Registry, RegistryUrlError};
use crate::exec::client::Connection;
use crate::exec::handshake::SecretError;
use crate::exec::{ExecError, Outcome};
use crate::prepare::System;
use crate::qemu::{Disk, KillError, Machine, StartError};
use crate::{inside, ports, wait};

/// Longest a host may take until commands can be run in it: ten times what it takes where nothing else runs.
const UP_LIMIT: Duration = Duration::from_secs(90);
/// The same where time is counted in instructions, which takes several times as long.
const COUNTED_UP_LIMIT: Duration = Duration::from_secs(300);
/// Longest an agent may take from then on until it answers.
const AGENT_LIMIT: Duration = Duration::from_secs(60);
/// How often a host is asked whether its agent still runs.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// What `agent status` ends with where there is none (LSB, init script actions).
const AGENT_NOT_RUNNING: Outcome = Outcome::Exited(3);

/// How a record begins that is an alert (RFC 8446, 5.1).
const TLS_ALERT: [u8; 3] = [21, 3, 3];

/// How often a host is started that falls to a fault of its emulator as it comes up, or only goes on and on.
const ATTEMPTS: u32 = 4;

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
    #[error("cannot end what is left of its machine")]
    Kill(#[source] KillError),
    #[error("cannot start its machine")]
    Start(#[source] StartError),
    #[error("its machine ended while it came up; its console said last:\n{0}")]
    Ended(String),
    #[error("it did not come up in time ({0:?}); its console said last:\n{1}")]
    TimedOut(Duration, String),
    #[error("it came up, but commands cannot be run in it")]
    Exec(#[source] ExecError),
    #[error(
        "its agent did not answer GET /healthz in time ({AGENT_LIMIT:?}); the host runs on, to be looked at; \
         the agent's log says last:\n{0}"
    )]
    Agent(String),
    #[error("its agent ended; the host runs on, to be looked at; the agent's log says last:\n{0}")]
    AgentEnded(String),
    #[error(transparent)]
    Secret(SecretError),
}

impl Host {
    /// Powers it up, and waits until commands can be run in it and its agent answers.
    pub fn start(&self, system: &System) -> Result<(), HostStartError> {
        if self.is_running() {
            return Err(HostStartError::Running(self.name.clone()));
        }
        let settings = self.write_settings()?;
        if let Some(port) = self.ports().into_iter().find(|port| !ports::is_free(*port)) {
            return Err(HostStartError::PortTaken(port));
        }
        for attempt in 1..=ATTEMPTS {
            let console_from = self.console_end();
            let Err(error) = self.try_start(system, &settings, console_from) else { break };
            // Half up is worse than off.
            self.kill().map_err(HostStartError::Kill)?;
            let stuck =
                matches!(error, HostStartError::TimedOut(..)) || self.fell_to_its_emulator(console_from);
            if attempt == ATTEMPTS || !stuck {
                return Err(error);
            }
        }
        self.wait_until_ready()
    }

    fn try_start(
        &self,
        system: &System,
        settings: &[Setting],
        console_from: u64,
    ) -> Result<(), HostStartError> {
        self.start_machine(system, settings).map_err(HostStartError::Start)?;
        self.wait_until_up(console_from)
    }

    /// Waits until commands can be run in it and its agent, where it has one, answers.
    pub(crate) fn wait_until_ready(&self) -> Result<(), HostStartError> {
        self.wait_for_exec()?;
        if self.record.options.agent { self.wait_for_agent() } else { Ok(()) }
    }

    fn ports(&self) -> [u16; 2] {
        [self.record.agent_port, self.record.exec_port]
    }

    /// Files that the host gets from outside, by name.
    fn write_settings(&self) -> Result<Vec<Setting>, HostStartError> {
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
        if let Some(HostTls { registry_authority, certificate, key }) = options.tls.clone() {
            settings.push(("registry-ca.crt", registry_authority));
            settings.extend([("host.crt", certificate), ("host.key", key)]);
        }
        Ok(settings)
    }

    fn agent_toml(&self) -> Result<String, HostStartError> {
        let options = &self.record.options;
        let registry = options
            .registry
            .as_deref()
            .map(|url| Registry { url, enrolment: options.enrolment_token_file.is_some() });
        let (port, tls) = (self.record.agent_port, self.speaks_tls());
        let config = AgentConfig::new(port, registry, tls, options.systemd);
        let config = config.map_err(HostStartError::Registry)?;
        toml::to_string(&config).map_err(|error| {
            HostStartError::Write(self.directory.join("agent.toml"), io::Error::other(error))
        })
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, HostStartError> {
        let path = self.directory.join(name);
        fs::write(&path, text).map_err(|error| HostStartError::Write(path.clone(), error))?;
        Ok(path)
    }

    fn start_machine(&self, system: &System, settings: &[Setting]) -> Result<(), StartError> {
        let (state, pid_file) = (self.state_disk(), self.pid_file());
        let disk = |serial, file, writable| Disk { serial, file, writable, forgets: false };
        let disks = [
            disk("programs", &system.programs, false),
            disk("images", &system.images, false),
            disk("state", state.as_path(), true),
        ];
        let root = system.root.as_deref().filter(|_| self.record.options.systemd);
        let root = root.map(|file| Disk { serial: "root", file, writable: true, forgets: true });
        let machine = Machine {
            name: &self.name,
            cpus: self.record.options.cpus,
            memory_mib: self.record.options.memory_mib,
            icount: self.record.options.icount,
            kernel: &system.kernel,
            initrd: &system.initrd,
            disks: disks.into_iter().chain(root).collect(),
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
        machine.start()
    }

    /// Waits for the console's last word; before that QEMU would take connections for a host that does not answer
    /// yet.
    fn wait_until_up(&self, console_from: u64) -> Result<(), HostStartError> {
        let limit = if self.record.options.icount { COUNTED_UP_LIMIT } else { UP_LIMIT };
        let came_up = wait::until(limit, || {
            if self.console_since(console_from).contains(inside::UP_MARKER) {
                return Some(true);
            }
            (!self.is_running()).then_some(false)
        });
        match came_up {
            Some(true) => Ok(()),
            Some(false) => Err(HostStartError::Ended(self.last_of_console(console_from))),
            None => Err(HostStartError::TimedOut(limit, self.last_of_console(console_from))),
        }
    }

    fn wait_for_exec(&self) -> Result<(), HostStartError> {
        let secret = self.secret().map_err(HostStartError::Secret)?;
        let mut last = None;
        let connected = wait::until(UP_LIMIT, || {
            Connection::open(self.record.exec_port, &secret).map_err(|error| last = Some(error)).ok()
        });
        match (connected, last) {
            (None, Some(error)) => Err(HostStartError::Exec(error)),
            _ => Ok(()),
        }
    }

    /// Waits until the agent answers `GET /healthz` with 200, or over TLS at all; gives up at once where it has ended.
    pub fn wait_for_agent(&self) -> Result<(), HostStartError> {
        let mut look_again = Instant::now() + LOOK_INTERVAL;
        let found = wait::until(AGENT_LIMIT, || {
            if self.agent_answers().is_ok_and(|answers| answers) {
                return Some(Ok(()));
            }
            if Instant::now() < look_again {
                return None;
            }
            look_again = Instant::now() + LOOK_INTERVAL;
            self.agent_has_ended().then(|| Err(HostStartError::AgentEnded(self.last_of_agent_log())))
        });
        found.unwrap_or_else(|| Err(HostStartError::Agent(self.last_of_agent_log())))
    }

    fn agent_has_ended(&self) -> bool {
        self.agent(AgentAction::Status).is_ok_and(|output| output.outcome == AGENT_NOT_RUNNING)
    }

    fn last_of_agent_log(&self) -> String {
        log::last_lines(&log::text_from(&self.agent_log(), 0))
    }

    fn agent_answers(&self) -> io::Result<bool> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.record.agent_port));
        let limit = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        if self.speaks_tls() {
            // What is not TLS is answered with an alert.
            let mut record = [0; TLS_ALERT.len()];
            stream.read_exact(&mut record)?;
            return Ok(record == TLS_ALERT);
        }
        let mut status_line = [0; 12];
        stream.read_exact(&mut status_line)?;
        Ok(status_line.ends_with(b" 200"))
    }
}

/// A file that the host gets from outside: its name there, and where it is here.
type Setting = (&'static str, PathBuf);
