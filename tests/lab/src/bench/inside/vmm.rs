//! Our own VMM, driven as the agent drives it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sublet_vmm_protocol::{
    BootFiles, ConsoleConfig, ConsoleLog, Control, MachineConfig, MachineState, PROTOCOL_VERSION, Request,
    Status,
};

use super::{Guest, LIMIT, Prepared, Reading, ReadingError, overhead_kib, spent};
use crate::inside;
use crate::wait;

/// The user that the machine is.
const USER: u32 = 70_000;

/// A machine and the way to its VMM. Dropped, it is released.
pub(super) struct Machine {
    control: Control,
    console: PathBuf,
}

impl Machine {
    /// A machine with nothing but CPUs and memory.
    pub(super) fn config(guest: &Guest) -> MachineConfig {
        MachineConfig {
            version: PROTOCOL_VERSION,
            name: "bench".into(),
            user: USER,
            vcpu_host_cpus: (0..guest.vcpus).collect(),
            shared_cpus: false,
            service_host_cpus: vec![],
            memory_mib: guest.memory_mib,
            huge_pages: false,
            disks: vec![],
            vsock: None,
            network: None,
            rng: None,
            port: None,
            console: ConsoleConfig { path: "/run/bench.console".into(), capacity_bytes: 64 * 1024 },
            control_socket: "/run/bench.control".into(),
        }
    }

    /// Starts a VMM; when this returns its machine is prepared.
    pub(super) fn prepare(config: &MachineConfig) -> Result<Self, ReadingError> {
        launch(config)?;
        let control = Control::connect(&config.control_socket)?;
        Ok(Self { control, console: config.console.path.clone() })
    }

    pub(super) fn boot(&mut self, guest: &Guest, options: &str) -> Result<Status, ReadingError> {
        let (kernel, initrd) = guest.kernel.files();
        self.boot_files(&kernel, &initrd, options)
    }

    pub(super) fn boot_files(
        &mut self,
        kernel: &Path,
        initrd: &Path,
        options: &str,
    ) -> Result<Status, ReadingError> {
        let command_line = format!("console=ttyS0 quiet panic=-1 {options}");
        let files = BootFiles::open(kernel, Some(initrd))?;
        Ok(self.control.boot(&files, command_line)?)
    }

    /// The VMM's process.
    fn process(&self) -> Result<u32, ReadingError> {
        self.control.process().map_err(ReadingError::Peer)
    }

    /// Waits until the guest has ended.
    fn end(&mut self, booted: Status) -> Result<(), ReadingError> {
        let mut status = booted;
        while !matches!(status.state, MachineState::Off { .. }) {
            let wait = Request::Wait { version: PROTOCOL_VERSION, after: status.generation };
            status = self.control.request_within(&wait, Some(LIMIT))?;
        }
        Ok(())
    }

    pub(super) fn console(&self) -> String {
        let log = ConsoleLog::open(&self.console).and_then(|log| log.read_from(0, usize::MAX));
        log.map(|slice| String::from_utf8_lossy(&slice.bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until the guest has said that on its console.
    pub(super) fn wait_for(&self, text: &str) -> Result<(), ReadingError> {
        let said = wait::until(LIMIT, || self.console().contains(text).then_some(()));
        said.ok_or_else(|| ReadingError::Guest(self.console()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // One that does not answer any more ends with its host.
        let _ = self.control.request(&Request::Release { version: PROTOCOL_VERSION });
    }
}

fn launch(config: &MachineConfig) -> Result<(), ReadingError> {
    let program = Path::new(inside::VMM);
    let cannot = |error| ReadingError::Run(program.into(), error);
    let mut launcher = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    if let Some(mut stdin) = launcher.stdin.take() {
        stdin.write_all(serde_json::json!(config).to_string().as_bytes()).map_err(cannot)?;
    }
    let output = launcher.wait_with_output().map_err(cannot)?;
    if output.status.success() {
        return Ok(());
    }
    Err(ReadingError::Failed(program.into(), String::from_utf8_lossy(&output.stderr).into()))
}

/// A guest whose first program resets the machine.
pub(super) fn boot(guest: &Guest, options: &str) -> Result<Reading, ReadingError> {
    let started = Instant::now();
    let mut machine = Machine::prepare(&Machine::config(guest))?;
    let prepared = Instant::now();
    let (booted, call_cpu) = spent_on_call(&mut machine, guest, options)?;
    machine.end(booted)?;
    let ended = Instant::now();
    Ok(Reading::Boot {
        cold_s: (ended - started).as_secs_f64(),
        prepared: Some(Prepared {
            exit_s: (ended - prepared).as_secs_f64(),
            call_cpu_s: call_cpu.as_secs_f64(),
        }),
    })
}

/// Boots, and tells what CPU time that took of the host. The VMM answers when it has let the boot CPU go; what that spends
/// on its registers before it is in the guest is not told apart from the guest's time.
fn spent_on_call(
    machine: &mut Machine,
    guest: &Guest,
    options: &str,
) -> Result<(Status, Duration), ReadingError> {
    let vmm = machine.process()?;
    // This thread's own time is read last before and first after: to read the others' costs time, too.
    let theirs = spent::beside_vcpus(vmm)?;
    let ours = spent::by_this_thread()?;
    let booted = machine.boot(guest, &format!("{options} reboot=k rdinit=/bin/reboot -- -f"))?;
    let ours = spent::by_this_thread()? - ours;
    Ok((booted, ours + spent::beside_vcpus(vmm)? - theirs))
}

/// A guest that sleeps once its init runs.
pub(super) fn memory(guest: &Guest) -> Result<Reading, ReadingError> {
    let mut machine = Machine::prepare(&Machine::config(guest))?;
    machine.boot(guest, "rdinit=/bin/sh -- -c \"echo at init; sleep 100000\"")?;
    machine.wait_for("at init")?;
    Ok(Reading::Memory { overhead_kib: overhead_kib(machine.process()?, guest)? })
}
