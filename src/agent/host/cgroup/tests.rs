//! The files that are written, in a folder that stands for cgroup2's; what the kernel makes of them is proved in the
//! lab (`tests/system/setting_aside.rs`).

use uuid::Uuid;

use super::*;

const PARTITION: PartitionId = PartitionId(Uuid::from_u128(1));

fn whole() -> SetAside {
    SetAside {
        cpus: [2, 3].into(),
        cores: [2, 3].into(),
        cpu_share_percent: None,
        owner_cpus: [0].into(),
        memory_mib: 80,
        disk: Some(DiskBounds {
            device: "8:0".into(),
            bytes_per_second: Some(5_000_000),
            operations_per_second: None,
        }),
    }
}

fn share(cpu: u32, percent: u8) -> SetAside {
    let cores = [cpu, cpu + 4].into();
    SetAside { cpus: [cpu].into(), cores, cpu_share_percent: Some(percent), disk: None, ..whole() }
}

struct Mount(tempfile::TempDir);

impl Mount {
    fn new() -> Self {
        let mount = Self(tempfile::tempdir().unwrap());
        fs::write(mount.0.path().join("cgroup.controllers"), "cpuset cpu io memory").unwrap();
        mount
    }

    fn place(&self) -> PathBuf {
        self.0.path().join("sublet")
    }

    fn says(&self, path: &str) -> String {
        fs::read_to_string(self.place().join(path)).unwrap()
    }
}

#[test]
fn without_a_group_there_is_no_vmm() {
    let directory = tempfile::tempdir().unwrap();
    let cgroups = Cgroups::at(&directory.path().join("sublet"));
    assert!(!cgroups.usable());
    assert!(matches!(cgroups.adopt(PARTITION, 1), Err(CgroupError::Unusable)));
    assert!(matches!(cgroups.make(PARTITION, &whole()), Err(CgroupError::Unusable)));
    cgroups.kill(PARTITION).unwrap();
    cgroups.wait_until_empty(PARTITION, Duration::ZERO).unwrap();
    cgroups.remove(PARTITION).unwrap();
    assert!(cgroups.kept().is_empty());
}

#[test]
fn a_partitions_group_has_what_is_set_aside_for_it() {
    let mount = Mount::new();
    let cgroups = Cgroups::at(&mount.place());
    cgroups.open(&[1, 2, 3].into()).unwrap();
    assert_eq!(mount.says("cpuset.cpus.exclusive"), "1,2,3");
    assert_eq!(mount.says("cgroup.subtree_control"), "+cpu +cpuset +io +memory");
    cgroups.make(PARTITION, &whole()).unwrap();
    assert_eq!(mount.says(&format!("{PARTITION}/cpuset.cpus")), "0,2,3");
    assert_eq!(mount.says(&format!("{PARTITION}/memory.min")), (80u64 << 20).to_string());
    let bounds = "8:0 rbps=5000000 wbps=5000000 riops=max wiops=max";
    assert_eq!(mount.says(&format!("{PARTITION}/io.max")), bounds);
    assert!(cgroups.kept().is_empty(), "no vCPU is there yet");
}

#[test]
fn shares_are_bound_in_time_and_their_cores_are_set_aside_together() {
    let mount = Mount::new();
    let cgroups = Cgroups::at(&mount.place());
    cgroups.make(PARTITION, &share(1, 25)).unwrap();
    cgroups.make(PartitionId(Uuid::from_u128(2)), &share(2, 50)).unwrap();
    assert_eq!(mount.says("shares/cpuset.cpus.exclusive"), "1,2,5,6");
    assert_eq!(mount.says("shares/cpuset.cpus.partition"), "root");
    assert_eq!(mount.says(&format!("shares/{PARTITION}/cpu.max")), "25000 100000");
    assert_eq!(mount.says(&format!("shares/{PARTITION}/cpuset.cpus")), "1,5");
    assert_eq!(cgroups.kept(), [1, 2, 5, 6].into());
}

#[test]
fn who_was_in_the_place_when_it_was_handed_over_goes_into_a_group_of_its_own() {
    let mount = Mount::new();
    fs::create_dir(mount.place()).unwrap();
    fs::write(mount.place().join("cgroup.procs"), "17\n").unwrap();
    Cgroups::at(&mount.place()).open(&[1].into()).unwrap();
    assert_eq!(mount.says("keeper/cgroup.procs"), "17");
}

#[test]
fn a_kernel_that_does_not_keep_cpus_from_others_is_not_believed() {
    let group = tempfile::tempdir().unwrap();
    // What the kernel answers, in the place of what was written.
    fs::create_dir(group.path().join("cpuset.cpus.partition")).unwrap();
    assert!(file::make_exclusive(group.path(), "isolated").is_err());
    assert!(matches!(
        whole::keep(group.path(), &[1].into(), std::process::id()),
        Err(CgroupError::NoVcpus(_))
    ));
}
