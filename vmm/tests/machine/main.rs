//! What a machine promises, on real guests: run inside a lab host, see `lab.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod devices;
mod firmware;
mod hostile;
mod jail;
mod layers;
mod memory;
mod net;
mod ports;
mod process;
mod vmm;

use std::fs;

use rustix::time::{ClockId, clock_gettime};
use sublet_vmm_protocol::{
    ControlError, Ended, MachineState, PROTOCOL_VERSION, RefusalCode, Request, Stopped,
};

use crate::vmm::{Image, MODULES, Vmm, comes_true, disk, launch, machine};

const VERSION: u32 = PROTOCOL_VERSION;

fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[test]
fn both_kernels_start_see_their_cpus_and_memory_and_power_off() {
    for (image, vcpus, release) in [(Image::Elf612, 2, "6.12."), (Image::BzImage61, 1, "6.1.")] {
        let mut vmm = Vmm::prepare(machine(vcpus));
        vmm.boot(
            image.running("echo I am $(uname -r) on $(nproc); grep MemTotal /proc/meminfo; poweroff -f"),
        );
        assert_eq!(vmm.end(), Ended::PoweredOff);
        let console = vmm.console();
        assert!(console.contains(&format!("I am {release}")), "{console}");
        assert!(console.contains(&format!(" on {vcpus}\r\n")), "{console}");
        let memory = console.split("MemTotal:").nth(1).unwrap().split_whitespace().next().unwrap();
        let memory_mib = memory.parse::<u64>().unwrap() / 1024;
        assert!((120..192).contains(&memory_mib), "{console}");
    }
}

#[test]
fn a_reboot_is_a_reboot_however_the_guest_does_it_and_a_triple_fault_is_none() {
    for (way, how) in [
        ("", Ended::Rebooted),
        ("reboot=acpi", Ended::Rebooted),
        ("reboot=kbd", Ended::Rebooted),
        ("reboot=pci", Ended::Rebooted),
        ("reboot=triple", Ended::TripleFault),
    ] {
        let mut vmm = Vmm::prepare(machine(1));
        vmm.boot(Image::Elf612.with_options(&format!("{way} rdinit=/bin/sh -- -c \"reboot -f\"")));
        assert_eq!(vmm.end(), how, "{way}");
    }
}

#[test]
fn a_kernel_that_panics_says_so() {
    let mut vmm = Vmm::prepare(machine(1));
    vmm.boot(Image::Elf612.running(&format!("{MODULES}; echo c > /proc/sysrq-trigger")));
    assert_eq!(vmm.end(), Ended::Panicked);
}

#[test]
fn the_power_button_asks_the_guest_to_end() {
    let mut vmm = Vmm::prepare(machine(1));
    // A press that nobody listens for yet is lost, as on any computer.
    vmm.boot(Image::Elf612.running(&format!(
        "{MODULES}; mkdir -p /run; acpid -l /dev/console -p /run/acpid.pid; \
         until ls -l /proc/[0-9]*/fd | grep -q input/event; do usleep 50000; done; echo waiting; sleep 1000"
    )));
    vmm.wait_for("waiting");
    vmm.request(&Request::Stop { version: VERSION }).unwrap();
    assert_eq!(vmm.end(), Ended::PoweredOff);
}

#[test]
fn a_button_pressed_while_the_guest_comes_up_harms_nothing() {
    let mut vmm = Vmm::prepare(machine(1));
    vmm.boot(Image::Elf612.running(&format!("{MODULES}; echo came up; sleep 1000")));
    // From before its kernel knows any interrupt until after it knows them all.
    while !vmm.console().contains("came up") {
        vmm.request(&Request::Stop { version: VERSION }).unwrap();
    }
    let status = vmm.status();
    assert!(matches!(status.state, MachineState::Running { .. }), "{status:?}");
}

#[test]
fn no_guest_runs_past_its_moment_though_nobody_is_there_to_end_it() {
    let mut vmm = Vmm::prepare(machine(2));
    vmm.boot(Image::Elf612.running("while true; do true; done"));
    let moment = boottime_ns() + 3_000_000_000;
    let status = vmm.request(&Request::StopAt { version: VERSION, boottime_ns: Some(moment) }).unwrap();
    assert_eq!(status.stop_at_boottime_ns, Some(moment));
    assert_eq!(vmm.end(), Ended::Killed { by: Stopped::StopAt });
    assert!(boottime_ns() >= moment);
    let vcpus: Vec<_> =
        ["vcpu0", "vcpu1"].into_iter().filter_map(|name| vmm.process().thread(name)).collect();
    assert!(vcpus.is_empty(), "a vCPU could still run: {vcpus:?}");
}

#[test]
fn a_moment_that_has_passed_ends_a_guest_at_once_and_lets_none_begin() {
    let mut vmm = Vmm::prepare(machine(1));
    vmm.boot(Image::Elf612.running("sleep 1000"));
    let status = vmm.request(&Request::StopAt { version: VERSION, boottime_ns: Some(1) }).unwrap();
    assert_eq!(status.state, MachineState::Off { how: Ended::Killed { by: Stopped::StopAt } });

    let mut vmm = Vmm::prepare(machine(1));
    vmm.request(&Request::StopAt { version: VERSION, boottime_ns: Some(1) }).unwrap();
    let source = Image::Elf612.running("poweroff -f");
    let refused = vmm.try_to_boot(source.clone());
    assert!(
        matches!(refused, Err(ControlError::Refused(refusal)) if refusal.code == RefusalCode::NotAllowedNow)
    );
    vmm.request(&Request::StopAt { version: VERSION, boottime_ns: None }).unwrap();
    vmm.boot(source);
    assert_eq!(vmm.end(), Ended::PoweredOff);
}

#[test]
fn a_kernel_that_cannot_be_started_is_named_and_another_can_be() {
    let mut vmm = Vmm::prepare(machine(1));
    let good = Image::BzImage61.running("poweroff -f");
    let mut bad = good.clone();
    bad.kernel = bad.initrd.clone();
    let refused = vmm.try_to_boot(bad);
    let Err(ControlError::Refused(refusal)) = refused else { panic!("{refused:?}") };
    assert_eq!(refusal.code, RefusalCode::BadBootSource);
    assert!(refusal.message.contains("the kernel cannot be started: it is neither"), "{}", refusal.message);
    assert_eq!((vmm.status().state, vmm.status().generation), (MachineState::Prepared, 1));
    vmm.boot(good);
    assert_eq!(vmm.end(), Ended::PoweredOff);
}

#[test]
fn a_guest_that_floods_its_console_can_be_killed_and_its_log_stays_small() {
    let mut config = machine(1);
    config.console.capacity_bytes = 4096;
    let mut vmm = Vmm::prepare(config);
    vmm.boot(Image::Elf612.running("while true; do cat /proc/interrupts; done"));
    let path = vmm.config.console.path.clone();
    let is_full =
        || sublet_vmm_protocol::ConsoleLog::open(&path).unwrap().read_from(0, 1).unwrap().offset > 4096;
    assert!(comes_true(is_full));
    let status = vmm.request(&Request::Kill { version: VERSION }).unwrap();
    assert_eq!(status.state, MachineState::Off { how: Ended::Killed { by: Stopped::Request } });
    assert_eq!(fs::metadata(&path).unwrap().len(), 16 + 4096);
}

#[test]
fn a_machine_lives_outside_its_callers_tree_with_its_memory_locked_and_is_gone_when_released() {
    let mut vmm = Vmm::prepare(machine(2));
    let process = vmm.process();
    assert_eq!(process.status("PPid"), "1");
    let locked_kib = process.status("VmLck").trim_end_matches(" kB").parse::<u64>().unwrap();
    assert!(locked_kib >= vmm.config.memory_mib * 1024);
    for (name, host_cpu) in [("vcpu0", "0"), ("vcpu1", "1")] {
        assert_eq!(process.thread(name).unwrap().status("Cpus_allowed_list"), host_cpu);
    }
    vmm.request(&Request::Release { version: VERSION }).unwrap();
    assert!(comes_true(|| !process.path("status").exists()));
}

#[test]
fn what_cannot_be_set_aside_is_named_and_nothing_stays_behind() {
    let mut config = machine(1);
    config.memory_mib = 200 * 1024;
    let output = launch(&config);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("the guest needs 204800 MiB of memory, the host has"), "{told}");
    assert!(!config.control_socket.exists());

    let first = disk("shared", 1 << 20);
    let mut holder = machine(1);
    holder.disks = vec![first.clone()];
    let _holder = Vmm::prepare(holder);
    let mut second = machine(1);
    second.disks = vec![first];
    let told = String::from_utf8(launch(&second).stderr).unwrap();
    assert!(told.contains("is in use by another process"), "{told}");
}
