//! What a guest does with its devices, and what of it the host sees.

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt, symlink},
    path::{Path, PathBuf},
};

use sublet_lab::{initrd::add_programs, inside};
use sublet_vmm_protocol::{
    DiskConfig, DiskEngine, DiskLimits, Ended, MachineState, PROTOCOL_VERSION, RateLimit, Request, RngConfig,
    Stopped,
};

use crate::vmm::{Image, MODULES, Source, Vmm, disk, launch, machine};

const MIB: u64 = 1 << 20;
const VERSION: u32 = PROTOCOL_VERSION;

#[test]
fn a_disk_keeps_what_the_guest_writes_and_only_where_it_may() {
    let (written, mut kept) = (disk("written", 1 << 20), disk("kept", 1 << 20));
    kept.read_only = true;
    let mut config = machine(2);
    config.disks = vec![written.clone(), kept.clone()];
    let mut vmm = Vmm::prepare(config);
    vmm.boot(Image::BzImage61.running(&format!(
        "{MODULES}; dd if=/bin/busybox of=/dev/vda bs=4k count=256 conv=fsync; \
         cmp -n 1048576 /bin/busybox /dev/vda || echo differs; \
         echo x > /dev/vdb; sync; cat /sys/block/vda/serial; echo; poweroff -f"
    )));
    assert_eq!(vmm.end(), Ended::PoweredOff);
    let console = vmm.console();
    assert!(console.contains("sublet-0") && !console.contains("differs"), "{console}");
    assert!(fs::read(&written.path).unwrap().starts_with(b"\x7fELF"));
    assert!(fs::read(&kept.path).unwrap().iter().all(|byte| *byte == 0));
}

/// A disk on the host's own disk, every byte of it a 7.
pub(crate) fn full_disk(name: &str, bytes: u64) -> DiskConfig {
    let path = PathBuf::from(format!("/var/lib/sublet/{name}.disk"));
    fs::write(&path, vec![7; bytes as usize]).unwrap();
    DiskConfig::new(path)
}

fn is_zero(path: &Path, range: std::ops::Range<u64>) -> bool {
    let mut bytes = vec![7; (range.end - range.start) as usize];
    fs::File::open(path).unwrap().read_exact_at(&mut bytes, range.start).unwrap();
    bytes.iter().all(|byte| *byte == 0)
}

#[test]
fn a_guest_sees_its_queues_and_limits_and_what_it_discards_is_zero_and_stays_allocated() {
    // One whose file system can zero a range, and one in memory, whose cannot.
    let (on_disk, mut in_memory) = (full_disk("discarded", 8 * MIB), disk("discarded", 8 * MIB));
    fs::write(&in_memory.path, vec![7; 8 << 20]).unwrap();
    in_memory.queues = Some(1);
    in_memory.serial = Some("in memory".into());
    let mut config = machine(2);
    config.disks = vec![on_disk.clone(), in_memory.clone()];
    let mut vmm = Vmm::prepare(config);
    vmm.boot(Image::Elf612.running(&format!(
        "{MODULES}; for d in vda vdb; do cd /sys/block/$d; \
         echo $d has $(ls mq | wc -l) queues $(cat serial) $(cat queue/write_zeroes_max_bytes) \
         $(cat queue/discard_max_bytes); \
         blkdiscard -o 1048576 -l 4194304 /dev/$d && cmp -n 4194304 /dev/zero /dev/$d 0 1048576 && echo zeroed; \
         done; poweroff -f"
    )));
    assert_eq!(vmm.end(), Ended::PoweredOff);
    let console = vmm.console();
    let limit = 32 * MIB;
    assert!(console.contains(&format!("vda has 2 queues sublet-0 {limit} {limit}")), "{console}");
    assert!(console.contains(&format!("vdb has 1 queues in memory {limit} {limit}")), "{console}");
    assert_eq!(console.matches("zeroed").count(), 2, "{console}");
    for path in [&on_disk.path, &in_memory.path] {
        assert!(is_zero(path, MIB..5 * MIB) && !is_zero(path, 0..MIB) && !is_zero(path, 5 * MIB..8 * MIB));
        assert!(fs::metadata(path).unwrap().blocks() * 512 >= 8 * MIB, "blocks were given back");
    }
}

#[test]
fn a_disk_past_the_page_cache_works_the_same() {
    let mut direct = full_disk("direct", 4 * MIB);
    direct.direct = true;
    let mut config = machine(2);
    config.disks = vec![direct.clone()];
    let mut vmm = Vmm::prepare(config);
    vmm.boot(Image::Elf612.running(&format!(
        "{MODULES}; echo block $(cat /sys/block/vda/queue/logical_block_size); \
         dd if=/bin/busybox of=/dev/vda bs=64k count=8 conv=fsync; echo 3 >/proc/sys/vm/drop_caches; \
         cmp -n 524288 /bin/busybox /dev/vda && echo same; poweroff -f"
    )));
    assert_eq!(vmm.end(), Ended::PoweredOff);
    let console = vmm.console();
    assert!(console.contains("same") && console.contains("block "), "{console}");
    assert!(fs::read(&direct.path).unwrap().starts_with(b"\x7fELF"));
}

#[test]
fn what_a_guest_writes_zeroes_to_is_zero_and_stays_allocated() {
    // One whose file system can zero a range, and one in memory, whose cannot.
    let (on_disk, in_memory) = (full_disk("zeroed", 4 * MIB), disk("zeroed", 4 * MIB));
    fs::write(&in_memory.path, vec![7; 4 << 20]).unwrap();
    let mut config = machine(1);
    config.disks = vec![on_disk.clone(), in_memory.clone()];
    let initrd = PathBuf::from(format!("/run/{}.initrd", config.name));
    let mut vmm = Vmm::prepare(config);
    let source = Image::Elf612.running(&format!(
        "{MODULES}; for d in vda vdb; do zero zero /dev/$d {MIB} {} && echo $d did; done; poweroff -f",
        2 * MIB
    ));
    let program = fs::read(inside::HOST_PROGRAM).unwrap();
    add_programs(&source.initrd, &[("bin/zero", &program)], &initrd).unwrap();
    vmm.boot(Source { initrd, ..source });
    assert_eq!(vmm.end(), Ended::PoweredOff);
    let console = vmm.console();
    assert!(console.contains("vda did") && console.contains("vdb did"), "{console}");
    for path in [&on_disk.path, &in_memory.path] {
        assert!(is_zero(path, MIB..3 * MIB) && !is_zero(path, 0..MIB) && !is_zero(path, 3 * MIB..4 * MIB));
        assert!(fs::metadata(path).unwrap().blocks() * 512 >= 4 * MIB, "blocks were given back");
    }
}

#[test]
fn a_guest_gets_no_more_of_its_disks_than_their_limits_give() {
    let limit = |per_second, burst| Some(RateLimit { per_second, burst });
    let operations = DiskLimits { operations: limit(40, 10), bytes: None };
    let bytes = DiskLimits { operations: None, bytes: limit(MIB, MIB / 4) };
    let mut config = machine(1);
    config.disks = vec![
        DiskConfig { limits: operations, ..full_disk("few", MIB) },
        DiskConfig { limits: bytes, ..full_disk("little", 4 * MIB) },
    ];
    let mut vmm = Vmm::prepare(config);
    // By the guest's own clock: 100 requests of a page each, and 3 MiB in larger ones.
    vmm.boot(Image::Elf612.running(&format!(
        "{MODULES}; now() {{ read up idle </proc/uptime; echo $up; }}; echo 0 >/sys/block/vda/queue/read_ahead_kb; \
         from=$(now); dd if=/dev/vda of=/dev/null bs=4k count=100; echo took few $from $(now) s; \
         from=$(now); dd if=/dev/vdb of=/dev/null bs=64k count=48; echo took little $from $(now) s; poweroff -f"
    )));
    assert_eq!(vmm.end(), Ended::PoweredOff);
    let console = vmm.console();
    let took_s = |name: &str| {
        let mut words = console.split(&format!("took {name} ")).nth(1).unwrap().split_whitespace();
        let mut next = || words.next().unwrap().parse::<f64>().unwrap();
        let from = next();
        next() - from
    };
    // Less the bursts, a few pages that the guest's kernel has read before, and one request's overdraft.
    assert!(took_s("few") >= f64::from(100 - 10 - 10) / 40.0, "{console}");
    assert!(took_s("little") >= 3.0 - 0.25 - 0.25, "{console}");
}

/// Where the threads may run whose names begin so.
fn allowed_cpus(vmm: &Vmm, name: &str) -> Vec<String> {
    let threads = vmm.process().threads().into_iter();
    let named = threads.filter(|thread| thread.name.starts_with(name));
    named.map(|thread| thread.status("Cpus_allowed_list")).collect()
}

#[test]
fn a_disk_is_served_by_io_uring_apart_from_the_guests_cpus() {
    let mut config = machine(1);
    config.vcpu_host_cpus = vec![1];
    config.service_host_cpus = vec![0];
    config.disks = vec![full_disk("apart", MIB)];
    let mut vmm = Vmm::prepare(config);
    let status = vmm.status();
    assert_eq!(status.disks[0].engine, DiskEngine::IoUring);
    assert_eq!(status.disks[0].queues, 1);
    vmm.boot(Image::Elf612.running(&format!(
        "{MODULES}; dd if=/dev/zero of=/dev/vda bs=4k count=64 conv=fsync; blkdiscard /dev/vda; echo written; \
         sleep 1000"
    )));
    vmm.wait_for("written");
    assert_eq!(allowed_cpus(&vmm, "blk-0"), ["0"]);
    // A discard goes to one of the kernel's own workers, which stays around for a while.
    let workers = allowed_cpus(&vmm, "iou-wrk-");
    assert!(!workers.is_empty() && workers.iter().all(|cpus| cpus == "0"), "{workers:?}");
}

const IO_URING_DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";

#[test]
fn where_the_host_forbids_io_uring_disks_work_without_and_the_machine_says_so() {
    fs::write(IO_URING_DISABLED, "2").unwrap();
    let mut config = machine(2);
    config.disks = vec![full_disk("blocking", MIB)];
    let mut vmm = Vmm::prepare(config.clone());
    fs::write(IO_URING_DISABLED, "0").unwrap();
    let DiskEngine::Blocking { reason } = vmm.status().disks[0].engine.clone() else { panic!("it did not") };
    assert!(reason.contains("io_uring_disabled"), "{reason}");
    vmm.boot(Image::Elf612.running(&format!(
        "{MODULES}; dd if=/bin/busybox of=/dev/vda bs=4k count=128 conv=fsync; \
         cmp -n 524288 /bin/busybox /dev/vda && blkdiscard -o 524288 /dev/vda && echo same; poweroff -f"
    )));
    assert_eq!(vmm.end(), Ended::PoweredOff);
    assert!(vmm.console().contains("same"), "{}", vmm.console());
    let path = &config.disks[0].path;
    assert!(is_zero(path, MIB / 2..MIB) && fs::read(path).unwrap().starts_with(b"\x7fELF"));
}

#[test]
fn a_guest_can_be_killed_or_unbind_its_driver_while_its_disk_works() {
    let mut config = machine(2);
    let limit = Some(RateLimit { per_second: 64 * MIB, burst: MIB });
    let limits = DiskLimits { operations: None, bytes: limit };
    config.disks = vec![DiskConfig { limits, ..full_disk("busy", 4 * MIB) }];
    let mut vmm = Vmm::prepare(config);
    vmm.boot(Image::Elf612.running(&format!(
        "{MODULES}; d=/sys/bus/virtio/drivers/virtio_blk; v=$(basename $(readlink -f /sys/block/vda/device)); \
         disk() {{ echo /dev/$(ls /sys/block | grep vd | tail -n 1); }}; \
         for i in 1 2 3; do for j in 1 2 3 4; do dd if=$(disk) of=/dev/null bs=4k 2>/dev/null & done; \
         echo $v >$d/unbind; echo $v >$d/bind; done; \
         cmp -n 1024 $(disk) $(disk) && echo bound again; \
         while true; do dd if=/dev/zero of=$(disk) bs=4k; done 2>/dev/null"
    )));
    vmm.wait_for("bound again");
    let status = vmm.request(&Request::Kill { version: VERSION }).unwrap();
    assert_eq!(status.state, MachineState::Off { how: Ended::Killed { by: Stopped::Request } });
}

#[test]
fn a_guest_draws_random_bytes_from_the_host() {
    let mut config = machine(1);
    config.rng = Some(RngConfig::default());
    let mut vmm = Vmm::prepare(config);
    vmm.boot(Image::Elf612.running(&format!(
        "{MODULES}; cat /sys/class/misc/hw_random/rng_current; \
         for i in 1 2; do echo drawn $(dd if=/dev/hwrng bs=256 count=1 2>/dev/null | wc -c); done; poweroff -f"
    )));
    assert_eq!(vmm.end(), Ended::PoweredOff);
    let console = vmm.console();
    assert!(console.contains("virtio_rng.0"), "{console}");
    assert_eq!(console.matches("drawn").count(), 2, "{console}");
    assert!(!console.contains("drawn 0"), "{console}");
}

#[test]
fn disks_that_cannot_be_used_are_named_before_anything_is_made() {
    let first = disk("first", MIB);
    let link = PathBuf::from("/run/first.link");
    let _ = fs::remove_file(&link);
    symlink(&first.path, &link).unwrap();
    for (second, told) in [
        (DiskConfig::new("/nonexistent"), "cannot use disks[1].path: cannot open \"/nonexistent\""),
        (DiskConfig::new(&link), "is the same disk as \"/run/first.disk\""),
        (DiskConfig::new("/run"), "disks[1].path"),
        (DiskConfig { queues: Some(0), ..disk("none", MIB) }, "disks[1].queues: must be 1 to 32, is 0"),
    ] {
        let mut config = machine(1);
        config.disks = vec![first.clone(), second];
        let output = launch(&config);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains(told), "{said}");
        assert!(!config.control_socket.exists() && !config.console.path.exists());
    }
}
