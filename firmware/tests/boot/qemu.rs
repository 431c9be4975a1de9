//! The firmware itself, started by QEMU as a VMM would start it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::image::{Tree, ext4, fat};
use crate::kernel::{debian, noise, printed};
use crate::layout::{LAYOUTS, Os, UUID};

/// Longest wait for a line; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(120);
const QEMU: &str = "qemu-system-x86_64";
const HALTED: &str = "Halted.";

fn firmware() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.sh");
        let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        printed(Command::new(script).arg("--target-dir").arg(target_dir))
    })
}

/// A machine that is switched off when the test is done with it.
struct Machine(Child);

/// Time as it is.
const REAL_TIME: &[&str] = &["-accel", "tcg"];
/// Time by instructions, two nanoseconds each, so that it is the same everywhere; a tick of the CPU's counter is one.
const COUNTED_TIME: &[&str] = &["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off", "-smp", "1"];

impl Machine {
    fn start(kind: &str, memory_mib: u32, command_line: &str, disks: &[&Path]) -> Self {
        Self::start_in(REAL_TIME, kind, memory_mib, command_line, disks)
    }

    fn start_in(setting: &[&str], kind: &str, memory_mib: u32, command_line: &str, disks: &[&Path]) -> Self {
        let mut command = Command::new(QEMU);
        command
            .args(setting)
            .args(["-M", kind, "-m", &memory_mib.to_string(), "-nodefaults", "-display", "none"])
            .args(["-no-reboot", "-serial", "stdio", "-append", command_line, "-kernel"])
            .arg(firmware());
        for (number, disk) in disks.iter().enumerate() {
            let drive = format!("file={},format=raw,if=none,readonly=on,id=d{number}", disk.display());
            command.args(["-drive", &drive, "-device", &format!("virtio-blk-pci,drive=d{number}")]);
        }
        let machine = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Self(machine.unwrap_or_else(|error| panic!("{QEMU}: {error}; apt-get install qemu-system-x86")))
    }

    /// What it prints, up to the line that ends it.
    fn report(&mut self, last: &str) -> Vec<String> {
        let lines = lines(self.0.stdout.take().unwrap());
        let deadline = Instant::now() + PATIENCE;
        let mut report: Vec<String> = Vec::new();
        while !report.last().is_some_and(|line| line.contains(last)) {
            let left = deadline.saturating_duration_since(Instant::now());
            report.push(lines.recv_timeout(left).unwrap_or_else(|_| panic!("no last line: {report:#?}")));
        }
        report
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).unwrap();
    }
}

fn lines(from: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    let pass_on = move || {
        let mut lines = BufReader::new(from).lines();
        while let Some(Ok(line)) = lines.next()
            && sender.send(line.trim_end().to_string()).is_ok()
        {}
    };
    std::thread::spawn(pass_on);
    receiver
}

fn assert_says_that_there_is_no_disk(kind: &str) {
    let report = Machine::start(kind, 64, "hello", &[]).report(HALTED);
    let has = |expected: &str| report.iter().any(|line| line.ends_with(expected));
    let banner =
        concat!("Sublet firmware ", env!("CARGO_PKG_VERSION"), ", started by PVH, with 63 MiB of memory.");
    assert!(has(banner), "{report:#?}");
    assert!(has("There is no virtio disk on PCI."), "{report:#?}");
    assert!(has("No disk has an operating system that can be started. Halted."), "{report:#?}");
}

/// Debian's kernel starts from a disk of this kind, in a machine whose first disk has nothing to start, and its init sees
/// what disk and VMM say on the command line.
fn assert_starts_from(layout: usize) {
    let folder = TempDir::new().unwrap();
    let (name, layout) = LAYOUTS[layout];
    let os = Os { options: "console=ttyS0 quiet test=1", ..debian() };
    let disk = layout(folder.path(), &os);
    let seed = fat(folder.path(), "seed", 12, &Tree::new().with("/user-data", ""));
    let report = Machine::start("q35", 512, "vmm=2", &[&seed, &disk]).report("init: up with");
    let has = |expected: &str| report.iter().any(|line| line.ends_with(expected));
    assert!(has("vda: nothing to start."), "{name}: {report:#?}");
    assert!(has("init: up with console=ttyS0 quiet test=1 vmm=2"), "{name}: {report:#?}");
}

#[test]
fn it_starts_on_a_pc_and_says_that_there_is_no_disk() {
    assert_says_that_there_is_no_disk("q35");
}

#[test]
fn it_starts_on_a_machine_made_for_small_guests_and_says_that_there_is_no_disk() {
    assert_says_that_there_is_no_disk("microvm");
}

#[test]
fn linux_starts_from_a_loader_entry_on_the_esp() {
    assert_starts_from(0);
}

#[test]
fn linux_starts_from_a_unified_kernel_image() {
    assert_starts_from(1);
}

#[test]
fn linux_starts_from_extlinux_on_a_disk_that_is_not_divided() {
    assert_starts_from(3);
}

#[test]
fn linux_starts_from_debians_grub_cfg_on_a_gpt() {
    assert_starts_from(4);
}

#[test]
fn linux_starts_from_debians_grub_cfg_on_an_mbr_by_a_stub_on_the_esp() {
    assert_starts_from(5);
}

#[test]
fn a_kernel_that_memory_has_no_room_for_is_refused_and_the_machine_halts() {
    let folder = TempDir::new().unwrap();
    let os = debian();
    let tree = Tree::new().with("/extlinux.conf", "label a\nlinux /k\n").with_copy("/k", &os.kernel);
    let disk = ext4(folder.path(), "disk", UUID, &tree, &[]);
    let report = Machine::start("pc", 48, "", &[&disk]).report(HALTED);
    let refused = |line: &String| line.contains("and memory has no such room from 0x1000000 on.");
    assert!(report.iter().any(refused), "{report:#?}");
}

#[test]
fn linux_runs_within_a_tenth_of_a_second_from_a_disk_as_large_as_debians() {
    const LIMIT_NS: u64 = 100_000_000;
    let folder = TempDir::new().unwrap();
    // Debian 13's initrd is of this size.
    let initrd = folder.path().join("initrd");
    fs::write(&initrd, noise(17 << 20, 7)).unwrap();
    let disk = LAYOUTS[4].1(folder.path(), &Os { initrd, ..debian() });
    let took_ns = || {
        let report =
            Machine::start_in(COUNTED_TIME, "q35", 512, "", &[&disk]).report("Starting Linux after ");
        let line = report.last().and_then(|line| line.split("after ").nth(1)?.strip_suffix(" ticks."));
        line.unwrap().parse::<u64>().unwrap()
    };
    // What the disk's host takes longer counts as well, as the machine waits by looking: one of a few will do.
    let took_ns: Vec<_> = (0..3).map(|_| took_ns()).take_while(|took_ns| *took_ns > LIMIT_NS).collect();
    assert!(took_ns.len() < 3, "{took_ns:?} ns");
}

/// Beside a device whose registers are so large that all must go above 4 GiB.
const HIGH_REGISTERS: [&str; 6] =
    ["-accel", "tcg", "-object", "memory-backend-ram,id=m,size=4G", "-device", "ivshmem-plain,memdev=m"];

#[test]
fn a_disk_whose_registers_are_above_4_gib_is_used_where_the_cpu_reaches_them_and_else_told() {
    let folder = TempDir::new().unwrap();
    let disk = LAYOUTS[3].1(folder.path(), &debian());
    for (cpu, last) in
        [("max", "Starting Linux after "), ("qemu64", "its registers are nowhere, or out of reach.")]
    {
        let setting = [&HIGH_REGISTERS[..], &["-cpu", cpu]].concat();
        Machine::start_in(&setting, "q35", 512, "", &[&disk]).report(last);
    }
}
