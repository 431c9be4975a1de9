//! Whole cores: the group of a partition's vCPUs, on whose CPUs nobody else runs.

use std::{collections::BTreeSet, fs, path::Path};

use super::{CgroupError, VCPUS, failed, file};

/// What the VMM names its vCPUs' threads by (`vmm/src/vcpu.rs`).
const THREAD_NAME: &str = "vcpu";

/// Gives the vCPUs of the VMM in this group their CPUs. Its other threads stay in the group, on what it has beside.
pub(super) fn keep(group: &Path, cpus: &BTreeSet<u32>, vmm: u32) -> Result<(), CgroupError> {
    let vcpus = group.join(VCPUS);
    if !vcpus.exists() {
        fs::create_dir(&vcpus).map_err(failed("make", &vcpus))?;
    }
    if file::read(&vcpus, "cgroup.type") != "threaded" {
        file::write(&vcpus, "cgroup.type", "threaded")?;
    }
    file::write(group, "cgroup.subtree_control", "+cpuset")?;
    let list = file::list(cpus);
    file::write(&vcpus, "cpuset.cpus", &list)?;
    file::write(group, "cpuset.cpus.exclusive", &list)?;
    file::write(&vcpus, "cpuset.cpus.exclusive", &list)?;
    let threads = threads(vmm)?;
    for thread in &threads {
        file::write(&vcpus, "cgroup.threads", thread)?;
    }
    // What a vCPU's thread has begun is beside it at first.
    for thread in file::read(&vcpus, "cgroup.threads").lines().filter(|id| !threads.iter().any(|of| of == id))
    {
        file::write(group, "cgroup.threads", thread)?;
    }
    file::make_exclusive(&vcpus, "isolated")
}

/// The ids of the threads that run vCPUs.
fn threads(vmm: u32) -> Result<Vec<String>, CgroupError> {
    let folder = format!("/proc/{vmm}/task");
    let entries = fs::read_dir(&folder).map_err(failed("list threads for", Path::new(&folder)))?;
    let is_vcpu = |path: &Path| file::read(path, "comm").starts_with(THREAD_NAME);
    let threads: Vec<String> = entries
        .flatten()
        .filter(|entry| is_vcpu(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    if threads.is_empty() { Err(CgroupError::NoVcpus(vmm)) } else { Ok(threads) }
}
