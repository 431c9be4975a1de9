//! The guest's memory, as the host's kernel accounts for it.

use std::fs;

use sublet_vmm_protocol::{Ended, MachineConfig};

use crate::vmm::{Image, Vmm, launch, machine};

const MIB: u64 = 1024;
const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

/// A field of `/proc/PID/smaps_rollup`, in KiB.
fn accounted(vmm: &Vmm, field: &str) -> u64 {
    let text = fs::read_to_string(vmm.process().path("smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap().trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn all_memory_is_there_and_locked_before_any_kernel_is_known() {
    let config = MachineConfig { memory_mib: 200, ..machine(2) };
    let vmm = Vmm::prepare(config);
    let (locked, anonymous) = (accounted(&vmm, "Locked"), accounted(&vmm, "Anonymous"));
    assert!(locked >= 200 * MIB && anonymous >= 200 * MIB, "{locked} {anonymous}");
}

#[test]
fn memory_of_huge_pages_comes_from_those_that_the_owner_reserved_and_goes_back() {
    let free = || -> u64 {
        let text = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").unwrap();
        text.trim().parse().unwrap()
    };
    let config = MachineConfig { memory_mib: 128, huge_pages: true, ..machine(2) };

    fs::write(HUGE_PAGES, "63").unwrap();
    let refused = launch(&config);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{told}");
    assert!(told.contains("128 MiB") && told.contains("126 MiB in huge pages"), "{told}");

    fs::write(HUGE_PAGES, "64").unwrap();
    assert_eq!(free(), 64);
    let mut vmm = Vmm::prepare(config);
    assert_eq!((free(), accounted(&vmm, "Private_Hugetlb")), (0, 128 * MIB));
    vmm.boot(Image::Elf612.running("poweroff -f"));
    assert_eq!(vmm.end(), Ended::PoweredOff);
    let process = vmm.process();
    drop(vmm);
    assert!(crate::vmm::comes_true(|| !process.lives() && free() == 64));
    fs::write(HUGE_PAGES, "0").unwrap();
}
