use std::time::Duration;

use uuid::Uuid;

use super::*;

const PARTITION: PartitionId = PartitionId(Uuid::from_u128(1));

fn lookout() -> (tempfile::TempDir, Lookout) {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("cgroup.controllers"), "").unwrap();
    std::fs::create_dir_all(root.path().join(&vcpus_home()[1..])).unwrap();
    let lookout =
        Lookout { cgroups: Cgroups::at(&root.path().join("sublet")), cpus: Cpus::under(root.path()) };
    (root, lookout)
}

fn expected() -> Expected {
    Expected {
        partition: PARTITION,
        process: ProcessId::of(std::process::id()).unwrap(),
        aside: SetAside {
            cpus: [2, 3].into(),
            cores: [2, 3].into(),
            cpu_share_percent: None,
            owner_cpus: [0, 1].into(),
            memory_mib: 1,
            disk: None,
        },
        vcpu_cpus: vec![2, 3],
        service_cpus: vec![0, 1],
        baseline: Baseline {
            locked_kib: 1024,
            cgroup: [("partition/cpu.max".to_owned(), "max 100000".to_owned())].into(),
        },
        disk: Some(ExpectedDisk { path: "/nonexistent".into(), mib: 1 }),
    }
}

fn vcpus_home() -> String {
    format!("/sublet/{PARTITION}/vcpus")
}

fn thread(name: &str, affinity: &[u32]) -> Thread {
    let time = Duration::ZERO;
    Thread {
        id: 9,
        name: name.to_owned(),
        policy: ORDINARY_POLICY,
        nice: 0,
        affinity: affinity.to_vec(),
        cgroup: if name.starts_with("vcpu") { vcpus_home() } else { format!("/sublet/{PARTITION}") },
        ran: time,
        waited: time,
    }
}

/// A machine that is as it is to be.
fn seen() -> Seen {
    Seen {
        process: Process {
            stopped: false,
            locked_kib: 1024,
            swapped_kib: 0,
            cgroup: format!("/sublet/{PARTITION}"),
        },
        threads: vec![thread("vcpu0", &[2]), thread("vcpu1", &[3]), thread("disk0", &[0, 1])],
        cgroup: expected().baseline.cgroup,
        strangers: vec![],
        offline: vec![],
        disk: Some(DiskExtent { bytes: disk::file_bytes(1), allocated_bytes: disk::file_bytes(1) }),
    }
}

fn found(seen: &Seen) -> Vec<(Watched, String, String)> {
    let (_root, lookout) = lookout();
    let deviations = expected().compare(seen, &lookout).into_iter();
    deviations.map(|found| (found.what, found.before, found.after)).collect()
}

#[test]
fn a_machine_that_is_as_it_was_set_up_deviates_in_nothing() {
    assert_eq!(found(&seen()), []);
}

#[test]
fn each_change_is_named_with_what_was_and_what_is() {
    let changed = |change: fn(&mut Seen)| {
        let mut seen = seen();
        change(&mut seen);
        found(&seen)
    };
    let one = |what, before: &str, after: &str| vec![(what, before.to_owned(), after.to_owned())];
    let moved = changed(|seen| seen.threads[0].affinity = vec![0, 2]);
    assert_eq!(moved, one(Watched::Affinity, "CPU 2", "CPU 0,2"));
    let disturbing = changed(|seen| seen.threads[2].affinity = vec![1, 2]);
    assert_eq!(disturbing, one(Watched::Affinity, "CPU 0,1", "CPU 1,2"));
    let idle = changed(|seen| seen.threads[1].policy = 5);
    assert_eq!(idle, one(Watched::Policy, "other", "idle"));
    assert_eq!(changed(|seen| seen.threads[1].nice = 19), one(Watched::Nice, "0", "19"));
    assert_eq!(changed(|seen| seen.offline = vec![3]), one(Watched::CpuOnline, "online", "offline"));
    let limited = changed(|seen| drop(seen.cgroup.insert("partition/cpu.max".into(), "1000 100000".into())));
    assert_eq!(limited, one(Watched::Cgroup, "max 100000", "1000 100000"));
    let frozen = changed(|seen| drop(seen.cgroup.insert("cgroup.freeze".into(), "1".into())));
    assert_eq!(frozen, one(Watched::Cgroup, "0", "1"));
    let elsewhere = changed(|seen| seen.process.cgroup = "/other".into());
    assert_eq!(elsewhere, one(Watched::Cgroup, &format!("/sublet/{PARTITION}"), "/other"));
    let astray = changed(|seen| seen.threads[0].cgroup = format!("/sublet/{PARTITION}"));
    assert_eq!(astray, one(Watched::Cgroup, &vcpus_home(), &format!("/sublet/{PARTITION}")));
    let joined = changed(|seen| seen.strangers = vec![Stranger { id: 7, name: "miner".to_owned() }]);
    assert_eq!(joined, one(Watched::Stranger, "elsewhere", "in the machine's group"));
    let shared =
        changed(|seen| drop(seen.cgroup.insert("vcpus/cpuset.cpus.partition".into(), "root".into())));
    assert_eq!(shared, one(Watched::Cgroup, "member", "root"));
    let unlocked = changed(|seen| seen.process.locked_kib = 4);
    assert_eq!(unlocked, one(Watched::LockedMemory, "1024 KiB", "4 KiB"));
    assert_eq!(changed(|seen| seen.process.swapped_kib = 8), one(Watched::Swap, "0 KiB", "8 KiB"));
    let shorter = changed(|seen| seen.disk = Some(DiskExtent { bytes: 7, allocated_bytes: 7 }));
    assert_eq!(shorter, one(Watched::DiskSize, "1052672 bytes", "7 bytes"));
    let hollow = changed(|seen| seen.disk = Some(DiskExtent { allocated_bytes: 0, ..seen.disk.unwrap() }));
    assert_eq!(hollow, one(Watched::DiskBlocks, "1052672 bytes", "0 bytes"));
    assert_eq!(changed(|seen| seen.process.stopped = true), one(Watched::Stopped, "running", "stopped"));
}

#[test]
fn a_cpu_comes_back_before_its_thread_and_the_process_goes_on_last() {
    let mut seen = seen();
    seen.offline = vec![2];
    seen.threads[0].affinity = vec![0, 1, 3];
    seen.process.stopped = true;
    let order: Vec<_> = found(&seen).into_iter().map(|(what, ..)| what).collect();
    assert_eq!(order, [Watched::CpuOnline, Watched::Affinity, Watched::Stopped]);
}

#[test]
fn a_process_that_is_another_one_by_now_is_not_looked_at() {
    let (_root, lookout) = lookout();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let process = ProcessId::of(child.id()).unwrap();
    child.wait().unwrap();
    assert!(Seen::look(&Expected { process, ..expected() }, &lookout).is_none());
    assert!(Seen::look(&expected(), &lookout).is_some());
}

#[test]
fn who_else_is_in_a_machines_group_is_seen_and_whoever_is_the_kernels_or_has_ended_is_not() {
    let (root, lookout) = lookout();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let own = std::process::id();
    let listed = root.path().join(format!("sublet/{PARTITION}/cgroup.procs"));
    // The kernel's first thread, and a process that cannot be.
    std::fs::write(&listed, format!("{own}\n2\n{}\n{}\n", u32::MAX, child.id())).unwrap();
    let seen = Seen::look(&expected(), &lookout).unwrap();
    assert_eq!(seen.strangers, [Stranger { id: child.id(), name: "sleep".to_owned() }]);
    let [deviation] = &seen.strangers.iter().map(stranger).collect::<Vec<_>>()[..] else { panic!() };
    expected().restore(deviation, &lookout).unwrap();
    assert_eq!(std::fs::read_to_string(root.path().join("cgroup.procs")).unwrap(), child.id().to_string());
    child.kill().unwrap();
    child.wait().unwrap();
}
