//! What is set aside for a partition, beside its CPUs' being its own.

use std::{collections::BTreeSet, path::Path};

use super::{CgroupError, KEEPER, file};
use crate::inventory::kernel::CONTROLLERS;

/// Each CPU's time is dealt out in periods of so many microseconds.
const PERIOD_US: u64 = 100_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// A host CPU a vCPU.
    pub cpus: BTreeSet<u32>,
    /// All hardware threads of the cores that these belong to.
    pub cores: BTreeSet<u32>,
    /// Of each CPU's time; none: all of it.
    pub cpu_share_percent: Option<u8>,
    /// The owner's CPUs, on which a VMM with whole cores does its own work.
    pub owner_cpus: BTreeSet<u32>,
    /// The guest's and the VMM's, in MiB.
    pub memory_mib: u64,
    pub disk: Option<DiskBounds>,
}

/// Most that a partition uses of a disk of the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskBounds {
    /// `major:minor`.
    pub device: String,
    pub bytes_per_second: Option<u64>,
    pub operations_per_second: Option<u64>,
}

impl SetAside {
    pub(super) fn write(&self, group: &Path) -> Result<(), CgroupError> {
        let cpus = match self.cpu_share_percent {
            None => &self.cpus | &self.owner_cpus,
            Some(_) => self.cores.clone(),
        };
        file::write(group, "cpuset.cpus", &file::list(&cpus))?;
        file::write(group, "memory.min", &(self.memory_mib << 20).to_string())?;
        file::write_where_known(group, "memory.swap.max", "0")?;
        if let Some(percent) = self.cpu_share_percent {
            let quota_us = self.cpus.len() as u64 * u64::from(percent) * PERIOD_US / 100;
            file::write(group, "cpu.max", &format!("{quota_us} {PERIOD_US}"))?;
        }
        self.disk.as_ref().map_or(Ok(()), |disk| disk.write(group))
    }
}

impl DiskBounds {
    fn write(&self, group: &Path) -> Result<(), CgroupError> {
        let bound = |names: [&str; 2], value: Option<u64>| {
            let value = value.map_or_else(|| "max".to_owned(), |value| value.to_string());
            names.map(|name| format!("{name}={value}")).join(" ")
        };
        let bytes = bound(["rbps", "wbps"], self.bytes_per_second);
        let operations = bound(["riops", "wiops"], self.operations_per_second);
        file::write(group, "io.max", &format!("{} {bytes} {operations}", self.device))
    }
}

/// Has the groups in `place` bound what they use. Whoever is in it, who was handed over with it, goes into a group of its
/// own: a group whose groups are bound has no processes itself.
pub(super) fn enable_controllers(place: &Path) -> Result<(), CgroupError> {
    let all = CONTROLLERS.map(|name| format!("+{name}")).join(" ");
    let has = file::read(place, "cgroup.controllers");
    if let Some(above) = place.parent().filter(|_| CONTROLLERS.iter().any(|name| !has.contains(name))) {
        file::write(above, "cgroup.subtree_control", &all)?;
    }
    let keeper = place.join(KEEPER);
    for process in file::read(place, "cgroup.procs").lines() {
        std::fs::create_dir_all(&keeper).map_err(super::failed("make", &keeper))?;
        file::write(&keeper, "cgroup.procs", process)?;
    }
    file::write(place, "cgroup.subtree_control", &all)
}
