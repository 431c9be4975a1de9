//! A disk that does nothing but take its time, used from a guest and from the host.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use sublet_vmm_protocol::{DiskConfig, MachineConfig};

use super::{Guest, Reading, ReadingError, Speeds, vmm::Machine};
use crate::{initrd::add_programs, inside};

const CONFIGFS: &str = "/sys/kernel/config";
/// Where null_blk (Linux, Documentation/block/null_blk.rst) makes a device of a folder, and the device.
const FOLDER: &str = "/sys/kernel/config/nullb/nullb0";
const DEVICE: &str = "/dev/nullb0";
const INITRD: &str = "/run/bench.initrd";
/// What the guest says as it begins to measure, and before and after its figures.
const READY: &str = "measuring";
const BEGIN: &str = "speeds ";
const END: &str = " end";
const DEBUGFS: &str = "/sys/kernel/debug";
/// How often guests have been left, in all.
const EXITS: &str = "/sys/kernel/debug/kvm/exits";
/// What the device has done (Linux, Documentation/block/stat.rst): among it requests read, and written.
const REQUESTS: &str = "/sys/block/nullb0/stat";
const READ_FIELD: usize = 0;
const WRITTEN_FIELD: usize = 4;
/// Size in MiB, and the longest request: 1 MiB as sectors.
const SIZE_MIB: u64 = 4096;
const SECTORS_MAX: u64 = 2048;

/// The device. Dropped, it is gone.
struct NullDevice;

impl NullDevice {
    fn make(delay_us: u64) -> io::Result<Self> {
        if !Path::new(CONFIGFS).join("nullb").exists() {
            mount("configfs", CONFIGFS)?;
        }
        fs::create_dir(FOLDER)?;
        let set = |name: &str, value: u64| fs::write(Path::new(FOLDER).join(name), value.to_string());
        // By a timer, as an interrupt would come.
        set("irqmode", 2)?;
        set("completion_nsec", delay_us * 1000)?;
        set("size", SIZE_MIB)?;
        set("blocksize", 512)?;
        set("submit_queues", 2)?;
        set("hw_queue_depth", 256)?;
        set("max_sectors", SECTORS_MAX)?;
        set("power", 1)?;
        Ok(Self)
    }
}

impl Drop for NullDevice {
    fn drop(&mut self) {
        // What is left is gone with the host.
        let _ = fs::remove_dir(FOLDER);
    }
}

pub(super) fn compare(guest: &Guest, delay_us: u64) -> Result<Reading, ReadingError> {
    let _device = NullDevice::make(delay_us).map_err(|error| ReadingError::File(FOLDER.into(), error))?;
    let (in_guest, exits_per_request) = in_guest(guest)?;
    Ok(Reading::Block { guest: in_guest, host: on_host()?, exits_per_request })
}

fn mount(kind: &str, place: &str) -> io::Result<()> {
    let mounted = Command::new("/bin/mount").args(["-t", kind, kind, place]).status()?;
    if mounted.success() { Ok(()) } else { Err(io::Error::other(format!("there is no {kind}"))) }
}

/// Exits from guests and requests to the device so far.
fn exits_and_requests() -> Result<[f64; 2], ReadingError> {
    if !Path::new(EXITS).exists() {
        mount("debugfs", DEBUGFS).map_err(|error| ReadingError::File(DEBUGFS.into(), error))?;
    }
    let numbers = |path: &str| -> Result<Vec<f64>, ReadingError> {
        let text = fs::read_to_string(path).map_err(|error| ReadingError::File(path.into(), error))?;
        Ok(text.split_whitespace().filter_map(|number| number.parse().ok()).collect())
    };
    let requests = numbers(REQUESTS)?;
    let field = |at: usize| requests.get(at).copied().unwrap_or_default();
    Ok([numbers(EXITS)?.iter().sum(), field(READ_FIELD) + field(WRITTEN_FIELD)])
}

/// On the first CPU, where the vCPU runs as well.
fn on_host() -> Result<Speeds, ReadingError> {
    let program = PathBuf::from(inside::HOST_PROGRAM);
    let mut command = Command::new("/bin/taskset");
    let output = command.args(["-c", "0"]).arg(&program).args(["disk", DEVICE]).output();
    let output = output.map_err(|error| ReadingError::Run(program.clone(), error))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&said).map_err(|_| {
        ReadingError::Failed(program, format!("{said}{}", String::from_utf8_lossy(&output.stderr)))
    })
}

/// On the first CPU; the disk's thread has the second. Also how often the guest was left for each request.
fn in_guest(guest: &Guest) -> Result<(Speeds, f64), ReadingError> {
    let disk = DiskConfig { direct: true, ..DiskConfig::new(DEVICE) };
    let config =
        MachineConfig { disks: vec![disk], service_host_cpus: vec![guest.vcpus], ..Machine::config(guest) };
    let mut machine = Machine::prepare(&config)?;
    let (kernel, initrd) = guest.kernel.files();
    let program = PathBuf::from(inside::HOST_PROGRAM);
    let content = fs::read(&program).map_err(|error| ReadingError::File(program, error))?;
    add_programs(&initrd, &[("bin/sublet-lab-host", &content)], Path::new(INITRD))
        .map_err(|error| ReadingError::File(INITRD.into(), error))?;
    let script = format!(
        "mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev; \
         modprobe -a $(cat /etc/modules); echo {READY}; \
         echo {BEGIN}$(sublet-lab-host disk /dev/vda 2>&1){END}; sleep 100000"
    );
    machine.boot_files(&kernel, Path::new(INITRD), &format!("rdinit=/bin/sh -- -c \"{script}\""))?;
    machine.wait_for(READY)?;
    let [exits_before, requests_before] = exits_and_requests()?;
    machine.wait_for(&format!("{END}\r\n"))?;
    let [exits, requests] = exits_and_requests()?;
    let console = machine.console();
    let speeds = speeds(&console).ok_or(ReadingError::Guest(console))?;
    Ok((speeds, (exits - exits_before) / (requests - requests_before)))
}

fn speeds(console: &str) -> Option<Speeds> {
    let text = console.split(BEGIN).nth(1)?.split(END).next()?;
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_measured_is_read_off_its_console() {
        let speeds_of = Speeds {
            sequential_read: 1.0,
            sequential_write: 2.5,
            random_read_4k: 300.0,
            random_write_4k: 4.0,
        };
        let json = serde_json::to_string(&speeds_of).unwrap();
        assert_eq!(speeds(&format!("noise\r\n{BEGIN}{json}{END}\r\n")), Some(speeds_of));
        assert_eq!(speeds(&format!("{BEGIN}sh: not found{END}")), None);
    }
}
