//! Other VMMs, each told in its own way to run the same guest.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::json;

use super::{Guest, LIMIT, Peer, PeerKind, Reading, ReadingError, private_kib};
use crate::wait;

const CONSOLE: &str = "/run/peer.console";
const CONFIG: &str = "/run/peer.json";

/// How a peer's guest ends: Firecracker's by a reset through its keyboard controller.
fn reset(kind: PeerKind) -> &'static str {
    match kind {
        PeerKind::Firecracker => "reboot=k rdinit=/bin/reboot -- -f",
        PeerKind::CloudHypervisor => "rdinit=/bin/poweroff -- -f",
    }
}

fn command_line(options: &str) -> String {
    format!("console=ttyS0 quiet panic=-1 {options}")
}

fn firecracker(program: &Path, guest: &Guest, options: &str) -> Result<Command, ReadingError> {
    let (kernel, initrd) = guest.kernel.files();
    let config = json!({
        "boot-source": { "kernel_image_path": kernel, "initrd_path": initrd, "boot_args": command_line(options) },
        "drives": [],
        "machine-config": { "vcpu_count": guest.vcpus, "mem_size_mib": guest.memory_mib },
    });
    fs::write(CONFIG, config.to_string()).map_err(|error| ReadingError::File(CONFIG.into(), error))?;
    let mut command = Command::new(program);
    command.args(["--no-api", "--config-file", CONFIG]);
    Ok(command)
}

fn cloud_hypervisor(program: &Path, guest: &Guest, options: &str) -> Command {
    let (kernel, initrd) = guest.kernel.files();
    let mut command = Command::new(program);
    command.arg("--kernel").arg(kernel).arg("--initramfs").arg(initrd);
    command.arg("--cmdline").arg(command_line(options));
    command.args(["--cpus", &format!("boot={}", guest.vcpus)]);
    command.args(["--memory", &format!("size={}M", guest.memory_mib)]);
    command.args(["--serial", "tty", "--console", "off"]);
    command
}

fn start(peer: &Peer, guest: &Guest, options: &str) -> Result<Child, ReadingError> {
    let mut command = match peer.kind {
        PeerKind::Firecracker => firecracker(&peer.program, guest, options)?,
        PeerKind::CloudHypervisor => cloud_hypervisor(&peer.program, guest, options),
    };
    let console = File::create(CONSOLE).map_err(|error| ReadingError::File(CONSOLE.into(), error))?;
    let errors = console.try_clone().map_err(|error| ReadingError::File(CONSOLE.into(), error))?;
    let spawned = command.stdin(Stdio::null()).stdout(console).stderr(errors).spawn();
    spawned.map_err(|error| ReadingError::Run(peer.program.clone(), error))
}

fn console() -> String {
    fs::read(CONSOLE).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// From the start of its process to its end.
pub(super) fn boot(peer: &Peer, guest: &Guest, options: &str) -> Result<Reading, ReadingError> {
    let started = Instant::now();
    let mut child = start(peer, guest, &format!("{options} {}", reset(peer.kind)))?;
    let status = child.wait().map_err(|error| ReadingError::Run(peer.program.clone(), error))?;
    let cold_s = started.elapsed().as_secs_f64();
    if !status.success() {
        return Err(ReadingError::Failed(peer.program.clone(), console()));
    }
    Ok(Reading::Boot { cold_s, prepared: None })
}

/// A guest that sleeps once its init runs.
pub(super) fn memory(peer: &Peer, guest: &Guest) -> Result<Reading, ReadingError> {
    let mut child = start(peer, guest, "rdinit=/bin/sh -- -c \"echo at init; sleep 100000\"")?;
    let there = wait::until(LIMIT, || console().contains("at init").then_some(()));
    let reading =
        there.ok_or_else(|| ReadingError::Guest(console())).and_then(|()| overhead_kib(child.id(), guest));
    // It may have ended by itself; the reading has failed then, or was taken before.
    let _ = child.kill();
    let _ = child.wait();
    Ok(Reading::Memory { overhead_kib: reading? })
}

/// Private memory in all mappings but those that hold the guest's, of which a peer has only the pages that were
/// touched: they are told by their size.
fn overhead_kib(process: u32, guest: &Guest) -> Result<u64, ReadingError> {
    let path = PathBuf::from(format!("/proc/{process}/smaps"));
    let text = fs::read_to_string(&path).map_err(|error| ReadingError::File(path, error))?;
    let own =
        text.split_inclusive("VmFlags:").filter(|mapping| size_kib(mapping) < guest.memory_mib * 1024 / 2);
    own.map(private_kib).sum::<Option<u64>>().ok_or(ReadingError::Smaps(text.clone()))
}

fn size_kib(mapping: &str) -> u64 {
    let size = mapping.lines().find_map(|line| line.strip_prefix("Size:"));
    size.and_then(|size| size.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
