//! The jail, as the host's kernel shows it: what a machine's process has, and what becomes of it when it is made to
//! reach for more.

use std::{
    fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    process::{Command, Stdio},
};

use sublet_lab::foreign_call::{ForeignCall, Outcome, make_call};
use sublet_vmm_protocol::{
    DiskConfig, DiskEngine, Ended, MachineConfig, MachineState, RngConfig, VsockConfig, config::GUEST_CID_MIN,
};

use crate::{
    devices::full_disk,
    net::Tap,
    process::Process,
    vmm::{Image, MODULES, PROGRAM, Vmm, comes_true, disk, machine},
};

/// The threads that a VMM starts itself for a machine that has one of everything.
const THREADS: [&str; 5] = ["sublet-vmm", "vcpu0", "vcpu1", "blk-0", "rng"];
/// One of each kind.
const KINDS: [&str; 4] = ["sublet-vmm", "vcpu0", "blk-0", "rng"];

/// A machine that has one of everything.
fn whole_machine() -> MachineConfig {
    let config = machine(2);
    let disks = vec![disk(&config.name, 1 << 20)];
    let vsock = Some(VsockConfig { guest_cid: GUEST_CID_MIN + config.user });
    let network = Some(Tap::new().card());
    MachineConfig { disks, vsock, network, rng: Some(RngConfig::default()), ..config }
}

/// Its guest runs until it is ended, and says so on its console again and again.
fn running(config: MachineConfig) -> Vmm {
    running_with(config, "true")
}

/// The same, where the guest does that before each time.
fn running_with(config: MachineConfig, step: &str) -> Vmm {
    let mut vmm = Vmm::prepare(config);
    let script = format!("{MODULES} virtio_net; while true; do {step}; echo tick; usleep 200000; done");
    vmm.boot(Image::Elf612.running(&script));
    vmm.wait_for("tick");
    vmm
}

fn host() -> Process {
    Process(1)
}

#[test]
fn every_thread_of_a_machine_is_its_own_user_without_rights_and_keeps_to_a_list_of_system_calls() {
    let mut config = whole_machine();
    config.disks = vec![full_disk(&config.name, 1 << 20)];
    // A discard is what io_uring gives to a thread of the kernel's.
    let mut vmm = running_with(config, "blkdiscard /dev/vda");
    assert_eq!(vmm.status().disks[0].engine, DiskEngine::IoUring);
    let (threads, user) = (vmm.process().threads(), vmm.config.user);
    let (workers, own): (Vec<_>, Vec<_>) = threads.iter().partition(|thread| thread.is_kernel_worker());
    let mut names: Vec<_> = own.iter().map(|thread| thread.name.as_str()).collect();
    names.sort_unstable();
    let mut expected = THREADS;
    expected.sort_unstable();
    assert_eq!(names, expected);
    for thread in own {
        assert_eq!(thread.status("Seccomp"), "2", "{thread:?}");
    }
    for thread in &threads {
        let ids = format!("{user} {user} {user} {user}");
        assert_eq!([thread.status("Uid"), thread.status("Gid")], [ids.clone(), ids], "{thread:?}");
        assert_eq!(thread.status("Groups"), "", "{thread:?}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(thread.status(set), "0".repeat(16), "{thread:?}");
        }
        assert_eq!(thread.status("NoNewPrivs"), "1", "{thread:?}");
    }
    // These run the kernel's code alone and make no system calls that a list could hold. KVM's and io_uring's have the
    // list of the thread that they come from; vhost's is there before there is any.
    for worker in &workers {
        let is_of = |names: &[&str]| names.iter().any(|name| worker.name.starts_with(name));
        let has_list = worker.status("Seccomp") == "2";
        assert!(is_of(&["vhost-"]) || is_of(&["kvm-nx-", "iou-wrk-"]) && has_list, "{worker:?}");
    }
    assert!(workers.iter().any(|worker| worker.name.starts_with("iou-wrk-")), "{workers:?}");
}

#[test]
fn a_machine_sees_nothing_of_its_host() {
    let vmm = running(whole_machine());
    let process = vmm.process();
    for kind in ["mnt", "net", "ipc", "uts", "pid", "cgroup"] {
        assert_ne!(process.namespace(kind), host().namespace(kind), "{kind}");
    }
    assert_eq!(process.status("NSpid"), format!("{} 1", process.0));
    assert_eq!(fs::read_dir(process.path("root/")).unwrap().count(), 0);
    let mounts = fs::read_to_string(process.path("mountinfo")).unwrap();
    // proc_pid_mountinfo(5): what is mounted stands after a dash.
    let (place, mounted) = mounts.split_once(" - ").unwrap();
    let fields: Vec<_> = place.split_whitespace().collect();
    assert_eq!((mounts.lines().count(), fields[4]), (1, "/"), "{mounts}");
    assert!(mounted.starts_with("tmpfs "), "{mounts}");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(fields[5].split(',').any(|set| set == option), "{mounts}");
    }
    let interfaces = fs::read_to_string(process.path("net/dev")).unwrap();
    assert!(interfaces.lines().skip(2).all(|line| line.trim().starts_with("lo:")), "{interfaces}");
    // Nobody but root may look into it, not even another process of its user.
    assert_eq!(fs::metadata(process.path("mem")).unwrap().uid(), 0);
}

#[test]
fn a_machine_has_the_descriptors_that_it_needs_and_no_others() {
    let leaked = fs::File::open("/etc").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let mut vmm = running(whole_machine());
    let state = vmm.status().state;
    assert!(matches!(state, MachineState::Running { .. }), "{state:?}");
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let mut expected = vec![
        "/dev/net/tun".to_owned(),
        "/dev/null".to_owned(),
        "/dev/vhost-net".to_owned(),
        "/dev/vhost-vsock".to_owned(),
        path(&vmm.config.disks[0].path),
        path(&vmm.config.console.path),
        "anon_inode:[eventfd]".to_owned(),
        "anon_inode:[eventpoll]".to_owned(),
        "anon_inode:[io_uring]".to_owned(),
        "anon_inode:[timerfd]".to_owned(),
        "anon_inode:kvm-vcpu:".to_owned(),
        "anon_inode:kvm-vm".to_owned(),
        "socket:".to_owned(),
    ];
    expected.sort();
    assert_eq!(vmm.process().descriptors(), expected);
    assert_eq!(vmm.process().standard_streams(), ["/dev/null"; 3]);
}

#[test]
fn what_the_lists_leave_open_is_limited() {
    let mut config = whole_machine();
    config.console.capacity_bytes = 4096;
    let vmm = running(config);
    let limits = fs::read_to_string(vmm.process().path("limits")).unwrap();
    let both = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let values: Vec<_> = line.split_whitespace().take(2).map(str::to_owned).collect();
        assert_eq!(values[0], values[1], "{name}");
        values[0].clone()
    };
    for name in ["Max core file size", "Max locked memory", "Max msgqueue size"] {
        assert_eq!(both(name), "0", "{name}");
    }
    assert_eq!(both("Max open files"), "2048");
    assert_eq!(both("Max file size"), (1 << 20).to_string());
    // Five of its own, and what the kernel runs for it: eight for its disk.
    assert_eq!(both("Max processes"), "17");
}

#[test]
fn a_thread_made_to_call_what_it_may_not_ends_its_machine_and_no_other() {
    let neighbour = running(whole_machine());
    let calls = [
        ForeignCall::Execve,
        ForeignCall::Open,
        ForeignCall::Socket,
        ForeignCall::ExecutableMemory,
        ForeignCall::Ring,
    ];
    for thread in KINDS {
        for call in calls {
            let vmm = Vmm::prepare(whole_machine());
            ends(&vmm, thread, call);
        }
    }
    for thread in KINDS {
        ends(&running(whole_machine()), thread, ForeignCall::Open);
    }
    let said = neighbour.console().len();
    assert!(comes_true(|| neighbour.console().len() > said), "the neighbour has stopped");
}

fn ends(vmm: &Vmm, thread: &str, call: ForeignCall) {
    let process = vmm.process();
    let id = process.thread(thread).unwrap().id;
    let outcome = make_call(id, call).unwrap();
    assert_eq!(outcome.to_string(), "killed by SIGSYS", "{thread} {call:?}");
    assert!(comes_true(|| !process.lives()), "{thread} {call:?}");
}

#[test]
fn a_thread_made_to_call_what_it_may_goes_on() {
    let mut vmm = Vmm::prepare(whole_machine());
    let process = vmm.process();
    for thread in KINDS {
        let id = process.thread(thread).unwrap().id;
        let outcome = make_call(id, ForeignCall::Harmless).unwrap();
        assert_eq!(
            outcome,
            Outcome::Returned(-i64::from(rustix::io::Errno::BADF.raw_os_error())),
            "{thread}"
        );
    }
    vmm.boot(Image::Elf612.running("usleep 100000; poweroff -f"));
    assert_eq!(vmm.end(), Ended::PoweredOff);
}

#[test]
fn there_is_no_machine_where_there_can_be_no_jail() {
    let config = machine(1);
    let output = Command::new(PROGRAM)
        .uid(65_534)
        .stdin(config_as_input(&config))
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("cannot make a process namespace"), "{told}");

    let mut roots = machine(1);
    roots.user = 0;
    roots.disks = vec![DiskConfig { read_only: true, ..DiskConfig::new("/nonexistent") }];
    let told = String::from_utf8(crate::vmm::launch(&roots).stderr).unwrap();
    assert!(told.contains("user: must be an id of the machine's own"), "{told}");
}

fn config_as_input(config: &MachineConfig) -> Stdio {
    let path = format!("/run/{}.json", config.name);
    fs::write(&path, serde_json::to_vec(config).unwrap()).unwrap();
    fs::File::open(path).unwrap().into()
}
