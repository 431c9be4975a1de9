//! VMM processes: started, asked, watched, and ended. They are not the agent's children and outlive it.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};
use sublet_vmm_protocol::{
    BootFiles, Control, ControlError, MachineConfig, OpenBootFileError, PROTOCOL_VERSION, Request, Status,
};
use thiserror::Error;
use tokio::{io::AsyncWriteExt, process::Command, task::JoinError};

use crate::{
    agent::{
        host::{
            cgroup::{CgroupError, Cgroups, SetAside},
            irq::Interrupts,
        },
        image_cache::BootableImage,
    },
    api::http::chain,
    domain::id::PartitionId,
};

/// How long a VMM that was asked to end may take: it gives back all of its memory.
const END_PATIENCE: Duration = Duration::from_secs(30);
/// How long a VMM may take to answer that it ends.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);
/// Most of what a VMM says about its failure that is passed on, in bytes.
const REASON_MAX: usize = 2000;

#[derive(Debug, Error)]
pub enum VmmError {
    #[error("cannot start the VMM {program:?}")]
    Start { program: PathBuf, source: io::Error },
    #[error("the VMM could not prepare the machine ({status}): {reason}")]
    Prepare { status: ExitStatus, reason: String },
    #[error("cannot put the machine's configuration into words")]
    Config(#[from] serde_json::Error),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("cannot tell which process the VMM is")]
    Peer(#[source] io::Error),
    #[error(transparent)]
    BootFile(#[from] OpenBootFileError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("cannot delete the VMM's socket {path:?}")]
    Socket { path: PathBuf, source: io::Error },
    #[error("the VMM's process does not end")]
    Unending,
    #[error("the thread that talks to the VMM ended")]
    Gone(#[from] JoinError),
}

/// One process, told apart from any other that ever has its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub id: u32,
    /// When it was started, in clock ticks since the host was (proc_pid_stat(5), field 22).
    started: u64,
}

impl ProcessId {
    /// The process that has this id now.
    pub fn of(id: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The second field is in parentheses and may hold anything; the third follows the last of them.
        let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { id, started })
    }

    /// A descriptor of it, while it lives.
    fn open(self) -> Option<OwnedFd> {
        let id = Pid::from_raw(i32::try_from(self.id).ok()?)?;
        let process = pidfd_open(id, PidfdFlags::empty()).ok()?;
        (Self::of(self.id) == Some(self)).then_some(process)
    }
}

/// A VMM that has answered.
#[derive(Debug)]
pub struct Alive {
    pub status: Status,
    /// As the kernel knows it, whatever the VMM says; none: it has ended since.
    pub process: Option<ProcessId>,
}

/// The VMMs of this host.
#[derive(Debug, Clone)]
pub struct Vmms {
    program: PathBuf,
    run_directory: PathBuf,
    cgroups: Cgroups,
    interrupts: Arc<Interrupts>,
}

impl Vmms {
    /// Control sockets are made in `run_directory`.
    pub fn new(program: PathBuf, run_directory: PathBuf, cgroups: Cgroups, interrupts: Interrupts) -> Self {
        Self { program, run_directory, cgroups, interrupts: Arc::new(interrupts) }
    }

    pub fn socket(&self, partition: PartitionId) -> PathBuf {
        self.run_directory.join(format!("{partition}.sock"))
    }

    /// The other end of the machine's named port.
    pub fn port(&self, partition: PartitionId) -> PathBuf {
        self.run_directory.join(format!("{partition}.port"))
    }

    /// Starts a VMM; when this returns its machine is prepared.
    pub async fn start(
        &self,
        partition: PartitionId,
        config: &MachineConfig,
        aside: &SetAside,
    ) -> Result<Alive, VmmError> {
        let failed = |source| VmmError::Start { program: self.program.clone(), source };
        let config = serde_json::to_vec(config)?;
        self.cgroups.make(partition, aside)?;
        let mut launcher = Command::new(&self.program)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        // It waits for its configuration, so all that it starts is born into the partition's group.
        if let Some(process) = launcher.id() {
            self.cgroups.adopt(partition, process)?;
        }
        if let Some(mut stdin) = launcher.stdin.take() {
            // Where it has ended already, its exit status says why.
            let _ = stdin.write_all(&config).await;
        }
        let output = launcher.wait_with_output().await.map_err(failed)?;
        if !output.status.success() {
            return Err(VmmError::Prepare { status: output.status, reason: reason(&output.stderr) });
        }
        let alive = self.find(partition).await?;
        if let Some(process) = alive.process {
            self.keep(partition, aside, process)?;
        }
        Ok(alive)
    }

    /// Sees to it that a VMM has the CPUs that are set aside for it to itself.
    pub fn keep(&self, partition: PartitionId, aside: &SetAside, process: ProcessId) -> Result<(), VmmError> {
        self.cgroups.keep(partition, aside, process.id)?;
        self.steer_interrupts();
        Ok(())
    }

    /// Leaves nothing of the host's groups, once no partition has one.
    pub fn close(&self) -> Result<(), VmmError> {
        Ok(self.cgroups.close()?)
    }

    /// Keeps the host's interrupts off the CPUs that are set aside now, and off no others.
    pub fn steer_interrupts(&self) {
        if let Err(error) = self.interrupts.keep_off(&self.cgroups.kept()) {
            tracing::warn!(error = chain(&error), "the host's interrupts are where they were");
        }
    }

    /// The VMM that stands for the partition, if it answers.
    pub async fn find(&self, partition: PartitionId) -> Result<Alive, VmmError> {
        let socket = self.socket(partition);
        tokio::task::spawn_blocking(move || find(&socket)).await?
    }

    /// Boots the partition's machine. Its VMM can open nothing, so the image's files are opened here.
    pub async fn boot(
        &self,
        partition: PartitionId,
        image: &BootableImage,
        command_line: String,
    ) -> Result<Status, VmmError> {
        let (kernel, initrd) = (image.kernel.clone(), image.initrd.clone());
        let socket = self.socket(partition);
        let boot = move || {
            let files = BootFiles::open(&kernel, initrd.as_deref())?;
            Ok(Control::connect(&socket)?.boot(&files, command_line)?)
        };
        tokio::task::spawn_blocking(boot).await?
    }

    /// One request to the partition's VMM.
    pub async fn ask(&self, partition: PartitionId, request: Request) -> Result<Status, VmmError> {
        let socket = self.socket(partition);
        let status =
            tokio::task::spawn_blocking(move || Control::connect(&socket)?.request(&request)).await??;
        Ok(status)
    }

    /// Tells every change of the VMM's state after `generation`, and at last that it cannot be reached any more.
    /// Goes on until `tell` says false.
    pub fn watch(
        &self,
        partition: PartitionId,
        generation: u64,
        tell: impl Fn(Result<Status, ControlError>) -> bool + Send + 'static,
    ) {
        let socket = self.socket(partition);
        // A thread of its own: it may wait for as long as the machine lives, and ends with the agent.
        std::thread::spawn(move || {
            if let Err(error) = watch(&socket, generation, &tell) {
                tell(Err(error));
            }
        });
    }

    /// Ends the partition's VMM, whatever it does, and waits until its memory is free. `process` is what it was known
    /// by, in case it does not answer.
    pub async fn end(&self, partition: PartitionId, process: Option<ProcessId>) -> Result<(), VmmError> {
        let vmms = self.clone();
        tokio::task::spawn_blocking(move || vmms.end_now(partition, process)).await?
    }

    fn end_now(&self, partition: PartitionId, known: Option<ProcessId>) -> Result<(), VmmError> {
        let socket = self.socket(partition);
        let released = release(&socket).is_some_and(|process| has_ended(&process, RELEASE_PATIENCE));
        if !released && let Some(process) = known.and_then(ProcessId::open) {
            kill(&process)?;
        }
        self.cgroups.kill(partition)?;
        self.cgroups.wait_until_empty(partition, END_PATIENCE)?;
        self.cgroups.remove(partition)?;
        self.steer_interrupts();
        [socket, self.port(partition)].into_iter().try_for_each(remove)
    }
}

fn remove(socket: PathBuf) -> Result<(), VmmError> {
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(VmmError::Socket { path: socket, source: error })
        }
        _ => Ok(()),
    }
}

fn watch(
    socket: &Path,
    mut generation: u64,
    tell: &impl Fn(Result<Status, ControlError>) -> bool,
) -> Result<(), ControlError> {
    let mut control = Control::connect(socket)?;
    loop {
        let wait = Request::Wait { version: PROTOCOL_VERSION, after: generation };
        let status = control.request_within(&wait, None)?;
        generation = status.generation;
        if !tell(Ok(status)) {
            return Ok(());
        }
    }
}

fn find(socket: &Path) -> Result<Alive, VmmError> {
    let mut control = Control::connect(socket)?;
    let status = control.request(&Request::Status { version: PROTOCOL_VERSION })?;
    let process = ProcessId::of(control.process().map_err(VmmError::Peer)?);
    Ok(Alive { status, process })
}

/// Asks the VMM at `socket` to end; its process, where it has answered.
fn release(socket: &Path) -> Option<OwnedFd> {
    let mut control = Control::connect(socket).ok()?;
    let process = ProcessId::of(control.process().ok()?)?.open()?;
    let release = Request::Release { version: PROTOCOL_VERSION };
    control.request_within(&release, Some(RELEASE_PATIENCE)).ok()?;
    Some(process)
}

fn kill(process: &OwnedFd) -> Result<(), VmmError> {
    // It may end at this very moment; then there is nothing to kill.
    let _ = pidfd_send_signal(process, Signal::KILL);
    if has_ended(process, END_PATIENCE) { Ok(()) } else { Err(VmmError::Unending) }
}

/// Whether the process ends within `patience`.
fn has_ended(process: &OwnedFd, patience: Duration) -> bool {
    let mut watched = [PollFd::new(process, PollFlags::IN)];
    let timeout = Timespec::try_from(patience).ok();
    poll(&mut watched, timeout.as_ref()).is_ok_and(|ready| ready > 0)
}

/// The last of what a VMM has said, without what may not go into an answer.
fn reason(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim().trim_start_matches("sublet-vmm: ");
    text.chars().filter(|c| !c.is_control()).take(REASON_MAX).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const PARTITION: PartitionId = PartitionId(Uuid::from_u128(1));

    fn config(directory: &Path) -> MachineConfig {
        MachineConfig {
            version: PROTOCOL_VERSION,
            name: "p".into(),
            user: 70_000,
            vcpu_host_cpus: vec![1],
            service_host_cpus: vec![],
            shared_cpus: false,
            memory_mib: 64,
            huge_pages: false,
            disks: vec![],
            vsock: None,
            network: None,
            rng: None,
            port: None,
            console: sublet_vmm_protocol::ConsoleConfig {
                path: directory.join("console"),
                capacity_bytes: 4096,
            },
            control_socket: directory.join("socket"),
        }
    }

    fn aside() -> SetAside {
        SetAside {
            cpus: [1].into(),
            cores: [1].into(),
            cpu_share_percent: None,
            owner_cpus: [0].into(),
            memory_mib: 80,
            disk: None,
        }
    }

    fn vmms(directory: &Path, program: &str) -> Vmms {
        let cgroups = Cgroups::at(&directory.join("sublet"));
        let interrupts = Interrupts::new(directory, directory.join("interrupts"));
        Vmms::new(program.into(), directory.to_owned(), cgroups, interrupts)
    }

    #[tokio::test]
    async fn a_vmm_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cgroup.controllers"), "").unwrap();
        let vmms = vmms(directory.path(), "/nonexistent/sublet-vmm");
        let error = vmms.start(PARTITION, &config(directory.path()), &aside()).await.unwrap_err();
        assert_eq!(error.to_string(), r#"cannot start the VMM "/nonexistent/sublet-vmm""#);
    }

    #[tokio::test]
    async fn a_vmm_that_fails_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("vmm");
        fs::write(&program, "#!/bin/sh\n/bin/echo 'sublet-vmm: no /dev/kvm here' >&2; exit 1\n").unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        // As a host's cgroup2 is laid out; the process is not really moved.
        fs::write(directory.path().join("cgroup.controllers"), "").unwrap();
        let vmms = vmms(directory.path(), program.to_str().unwrap());
        let error = vmms.start(PARTITION, &config(directory.path()), &aside()).await.unwrap_err();
        assert!(error.to_string().ends_with("no /dev/kvm here"), "{error}");
    }

    #[tokio::test]
    async fn a_process_is_ended_by_what_it_was_known_by() {
        let directory = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let known = ProcessId::of(child.id());
        let other = known.map(|process| ProcessId { started: process.started + 1, ..process });
        let vmms = vmms(directory.path(), "none");
        vmms.end(PARTITION, other).await.unwrap();
        assert!(child.try_wait().unwrap().is_none(), "another process with its id is left alone");
        vmms.end(PARTITION, known).await.unwrap();
        assert!(!child.wait().unwrap().success());
    }

    #[tokio::test]
    async fn ending_what_is_gone_does_nothing() {
        let directory = tempfile::tempdir().unwrap();
        vmms(directory.path(), "none").end(PARTITION, None).await.unwrap();
    }
}
