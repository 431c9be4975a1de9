//! A guest that attacks its machine from the driver's side, beside one that minds its own business.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use sublet_lab::initrd::add_programs;
use sublet_vmm_protocol::{
    Ended, MachineConfig, MachineState, PROTOCOL_VERSION, Request, RngConfig, Stopped, VsockConfig,
    config::GUEST_CID_MIN,
};

use crate::{
    devices::full_disk,
    vmm::{Image, MODULES, Source, Vmm, comes_true, machine},
};

/// The attacking program, where `lab.rs` puts it.
const PROGRAM: &str = "/tmp/hostile-guest";
/// What it draws by chance is the same each time.
const SEED: u64 = 28;
/// Its kernel has memory up to here, the program everything above.
const KERNELS_MIB: u64 = 160;
/// A minute on a host that does nothing else; past this a machine hangs.
const LIMIT: Duration = Duration::from_secs(600);
const DISK_BYTES: u64 = 4 << 20;
/// What a VMM may have of its own at most, and how much more under attack than before.
const OWN_KIB_LIMIT: u64 = 5 * 1024;
const GROWTH_KIB_LIMIT: u64 = 1024;

/// A machine with something of everything to attack, and one vCPU: two that leave the guest in a storm have ended it
/// with a triple fault on the lab's emulator (ADR 28).
fn target() -> MachineConfig {
    let mut config = machine(1);
    let disk = full_disk(&config.name, DISK_BYTES);
    let mut kept = full_disk(&format!("{}-kept", config.name), DISK_BYTES);
    kept.read_only = true;
    kept.queues = Some(1);
    config.disks = vec![disk, kept];
    config.vsock = Some(VsockConfig { guest_cid: GUEST_CID_MIN + config.user });
    config.rng = Some(RngConfig::default());
    config.console.capacity_bytes = 32 * 1024;
    config
}

/// A kernel that leaves the end of its memory to the program, which is its init's first step. What comes after it is said
/// through the kernel's log: the serial port's interrupts may be as the attacks left them.
fn attacking(config: &MachineConfig, how: &str) -> Source {
    let script = format!(
        "#!/bin/sh\n\
         mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev\n\
         hostile-guest {SEED} {KERNELS_MIB} {} {how} || echo '<2>the guest saw faults' >/dev/kmsg\n\
         for function in /sys/bus/pci/devices/*; do echo ${{function##*/}} >/sys/bus/pci/drivers_probe; done\n\
         {MODULES}\n\
         dd if=/bin/busybox of=/dev/vda bs=4k count=256 conv=fsync\n\
         echo 3 >/proc/sys/vm/drop_caches\n\
         cmp -n 1048576 /bin/busybox /dev/vda && echo '<2>its disk is in order' >/dev/kmsg\n\
         poweroff -f\n",
        config.memory_mib
    );
    let options = format!("mem={KERNELS_MIB}M iomem=relaxed rdinit=/attack");
    let source = Image::Elf612.with_options(&options);
    Source { initrd: initrd_with(&source.initrd, &config.name, &script), ..source }
}

/// The image's initrd with the program and its script.
fn initrd_with(initrd: &Path, name: &str, script: &str) -> PathBuf {
    let path = PathBuf::from(format!("/run/{name}.initrd"));
    let program = fs::read(PROGRAM).unwrap();
    add_programs(initrd, &[("bin/hostile-guest", &program), ("attack", script.as_bytes())], &path).unwrap();
    path
}

/// A guest that wrote its disk once and ever since finds there what it wrote.
fn neighbour() -> Vmm {
    let mut config = machine(1);
    config.disks = vec![full_disk(&config.name, DISK_BYTES)];
    config.vsock = Some(VsockConfig { guest_cid: GUEST_CID_MIN + config.user });
    let mut vmm = Vmm::prepare(config);
    vmm.boot(Image::Elf612.running(&format!(
        "{MODULES}; dd if=/bin/busybox of=/dev/vda bs=4k count=64 conv=fsync; \
         while true; do echo 3 >/proc/sys/vm/drop_caches; \
         cmp -n 262144 /bin/busybox /dev/vda && echo tick || echo differs; done"
    )));
    vmm.wait_for("tick");
    vmm
}

fn ticks(neighbour: &Vmm) {
    let said = neighbour.console().len();
    assert!(comes_true(|| neighbour.console().len() > said), "the neighbour has stopped");
}

/// The host's files that a machine has no business with, with their lengths and when they changed.
fn files_beside(config: &MachineConfig) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let own = &config.disks[0].path;
    let entries = ["/var/lib/sublet", "/etc", "/etc/sublet"].map(|path| fs::read_dir(path).unwrap());
    let paths = entries.into_iter().flatten().map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path != own)
        .map(|path| {
            let metadata = fs::metadata(&path).unwrap();
            (path, (metadata.len(), metadata.modified().unwrap()))
        })
        .collect()
}

/// What the program and its script said lately, without the noise.
fn said(vmm: &Vmm) -> String {
    let console = vmm.console();
    let is_said = |line: &&str| line.len() < 300 && line.is_ascii();
    console.lines().filter(is_said).collect::<Vec<_>>().join("\n")
}

/// Looks on until the guest has ended: its VMM lives, answers and stays small, and the neighbour goes on.
fn watch(vmm: &mut Vmm, neighbour: &Vmm) -> Ended {
    let process = vmm.process();
    let guests_kib = vmm.config.memory_mib * 1024;
    vmm.wait_for("good_order: stood");
    let before_kib = process.private_kib() - guests_kib;
    let (mut most_kib, began) = (before_kib, Instant::now());
    loop {
        let state = vmm.status().state;
        assert!(process.lives() && vmm.process().0 == process.0, "{}", said(vmm));
        ticks(neighbour);
        most_kib = most_kib.max(process.private_kib() - guests_kib);
        assert!(most_kib <= OWN_KIB_LIMIT.min(before_kib + GROWTH_KIB_LIMIT), "{before_kib} {most_kib}");
        if let MachineState::Off { how } = state {
            println!(
                "attacked for {:?}; KiB of its own before {before_kib}, at most {most_kib}",
                began.elapsed()
            );
            return how;
        }
        assert!(began.elapsed() < LIMIT, "{}", said(vmm));
    }
}

#[test]
fn a_guest_that_attacks_its_machine_harms_nobody_and_then_finds_it_in_order() {
    let neighbour = neighbour();
    let config = target();
    let mut vmm = Vmm::prepare(config.clone());
    let source = attacking(&config, "");
    let beside = files_beside(&config);
    vmm.boot(source);
    let how = watch(&mut vmm, &neighbour);
    let console = said(&vmm);
    assert_eq!(how, Ended::PoweredOff, "{console}");
    assert!(console.contains(" 0 faults") && console.contains("its disk is in order"), "{console}");
    assert_eq!(fs::metadata(&config.console.path).unwrap().len(), config.console.file_bytes());

    ticks(&neighbour);
    assert!(!neighbour.console().contains("differs"), "{}", neighbour.console());
    let wrote = fs::read(&neighbour.config.disks[0].path).unwrap();
    let program = fs::read("/bin/busybox").unwrap();
    let (written, rest) = wrote.split_at(64 * 4096);
    assert!(written == &program[..written.len()] && rest.iter().all(|byte| *byte == 7));
    let kept = fs::read(&config.disks[1].path).unwrap();
    assert!(kept.len() as u64 == DISK_BYTES && kept.iter().all(|byte| *byte == 7));
    assert_eq!(fs::metadata(&config.disks[0].path).unwrap().len(), DISK_BYTES);
    assert_eq!(files_beside(&config), beside);
    println!("{console}");
}

#[test]
fn a_guest_can_be_killed_while_it_attacks() {
    let config = target();
    let mut vmm = Vmm::prepare(config.clone());
    vmm.boot(attacking(&config, "forever"));
    vmm.wait_for("reset_under_load");
    let status = vmm.request(&Request::Kill { version: PROTOCOL_VERSION }).unwrap();
    assert_eq!(status.state, MachineState::Off { how: Ended::Killed { by: Stopped::Request } });
    let process = vmm.process();
    drop(vmm);
    assert!(comes_true(|| !process.lives()));
}
