//! Lab hosts to measure in.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;

use super::inside::{Peer, PeerKind, Reading, Task};
use super::{BenchError, Options};
use crate::exec::ExecError;
use crate::host::{CopyError, Host, HostOptions};
use crate::inside;
use crate::lab::{Lab, LabError, UpError};
use crate::prepare::{PrepareError, System, prepare};

/// Where peers are put in a host.
const PEERS: &str = "/root";
/// Longest a single reading may take by this machine's clock. Hosts whose time is counted may hang for good
/// (DESIGN §8), and are made anew then.
const READING_LIMIT: Duration = Duration::from_secs(300);
/// Times that a reading which hung is taken anew.
const ATTEMPTS: u32 = 3;

#[derive(Debug, Error)]
pub enum HostError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error(transparent)]
    Up(#[from] UpError),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error("cannot copy a peer into it")]
    Copy(#[from] CopyError),
}

/// What all hosts of a benchmark start from.
pub(super) struct Hosts<'a> {
    options: &'a Options,
    system: System,
    lab: Lab,
}

/// One host, gone when it is dropped.
pub(super) struct BenchHost<'a> {
    lab: &'a Lab,
    pub(super) host: Host,
    pub(super) peers: Vec<Peer>,
}

impl Drop for BenchHost<'_> {
    fn drop(&mut self) {
        // What is left is ended by the next benchmark.
        let _ = self.lab.remove(&self.host);
    }
}

impl<'a> Hosts<'a> {
    pub(super) fn prepare(options: &'a Options, say: &dyn Fn(&str)) -> Result<Self, BenchError> {
        let prepared = || -> Result<Self, HostError> {
            let system = prepare(&options.recipe, say)?;
            let lab = Lab::open(&options.directory)?;
            for old in lab.hosts()? {
                lab.remove(&old)?;
            }
            Ok(Self { options, system, lab })
        };
        prepared().map_err(|error| BenchError::Host("benchmarks".into(), error))
    }

    pub(super) fn peers(&self) -> &[(PeerKind, PathBuf)] {
        &self.options.peers
    }

    /// A host with these CPUs; with `icount`, one whose time is counted in instructions.
    pub(super) fn up(&self, name: &str, cpus: u32, icount: bool) -> Result<BenchHost<'_>, BenchError> {
        let options = HostOptions { cpus, icount, agent: false, memory_mib: 7168, ..HostOptions::default() };
        let up = || -> Result<BenchHost<'_>, HostError> {
            let host = self.lab.up(name, &options, &self.system)?;
            let mut up = BenchHost { lab: &self.lab, host, peers: Vec::new() };
            for (kind, program) in &self.options.peers {
                let path = format!("{PEERS}/{}", kind.name());
                up.host.copy(program, &path)?;
                up.peers.push(Peer { kind: *kind, program: path.into() });
            }
            Ok(up)
        };
        up().map_err(|error| BenchError::Host(name.into(), error))
    }

    /// One reading on a host of its own whose time is counted.
    pub(super) fn counted(
        &self,
        name: &str,
        task: impl Fn(&BenchHost<'_>) -> Option<Task>,
    ) -> Result<Option<Reading>, BenchError> {
        let mut attempt = 1;
        loop {
            let host = self.up(name, 1, true)?;
            let Some(task) = task(&host) else { return Ok(None) };
            match host.read(name, &task) {
                Err(BenchError::Host(_, HostError::Exec(_))) if attempt < ATTEMPTS => attempt += 1,
                reading => return reading.map(Some),
            }
        }
    }
}

impl BenchHost<'_> {
    /// Has a task performed inside.
    pub(super) fn read(&self, name: &str, task: &Task) -> Result<Reading, BenchError> {
        let argv = [inside::HOST_PROGRAM.into(), "bench".into(), task.to_argument()];
        let output = self.within_limit(|| self.host.exec(argv.clone()));
        let output = output.map_err(|error| BenchError::Host(name.into(), HostError::Exec(error)))?;
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).map_err(|_| {
            let said = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
            BenchError::Answer(name.into(), said.trim().into())
        })
    }

    /// Cuts the host's power where that takes too long, which ends it with an error.
    fn within_limit<T>(&self, work: impl FnOnce() -> T) -> T {
        let (done, waits) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if waits.recv_timeout(READING_LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    // It is removed in any case; here only the reading has to end.
                    let _ = self.host.kill();
                }
            });
            let result = work();
            drop(done);
            result
        })
    }

    /// What figures depend on: versions of the emulator, and of the kernels of host and guest.
    pub(super) fn environment(&self) -> Result<Value, BenchError> {
        let says = |script: &str| {
            let output = self.host.exec(["sh", "-c", script]);
            output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let kernel =
            says("uname -r").map_err(|error| BenchError::Host("its versions".into(), error.into()))?;
        Ok(json!({ "qemu": crate::qemu::version(), "host_kernel": kernel }))
    }
}
