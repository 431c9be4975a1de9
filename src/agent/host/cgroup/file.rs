//! A group's files.

use std::{collections::BTreeSet, fs, io, path::Path};

use super::{CgroupError, failed};
use crate::{domain::id::PartitionId, inventory::cpu_list};

pub(super) fn write(group: &Path, name: &str, value: &str) -> Result<(), CgroupError> {
    let path = group.join(name);
    fs::write(&path, value).map_err(|source| CgroupError::Write { path, value: value.to_owned(), source })
}

/// Writes a file that kernels without what it is for have not.
pub(super) fn write_where_known(group: &Path, name: &str, value: &str) -> Result<(), CgroupError> {
    if group.join(name).exists() { write(group, name, value) } else { Ok(()) }
}

pub(super) fn read(group: &Path, name: &str) -> String {
    fs::read_to_string(group.join(name)).unwrap_or_default().trim().to_owned()
}

/// The CPUs that a group is to have; none where there is no such group.
pub(super) fn cpus(group: &Path) -> BTreeSet<u32> {
    read_cpus(group, "cpuset.cpus")
}

pub(super) fn read_cpus(group: &Path, name: &str) -> BTreeSet<u32> {
    cpu_list(&read(group, name)).unwrap_or_default()
}

/// As the kernel takes CPUs.
pub(super) fn list(cpus: &BTreeSet<u32>) -> String {
    cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// Has the group's CPUs be nobody else's, in the way that `kind` is.
pub(super) fn make_exclusive(group: &Path, kind: &str) -> Result<(), CgroupError> {
    const STATE: &str = "cpuset.cpus.partition";
    if read(group, STATE) != kind {
        write(group, STATE, kind)?;
    }
    let says = read(group, STATE);
    if says == kind { Ok(()) } else { Err(CgroupError::NotExclusive { path: group.to_owned(), says }) }
}

/// Partitions' groups in this one.
pub(super) fn groups(group: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(group) else { return Vec::new() };
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.parse::<PartitionId>().is_ok()).collect()
}

pub(super) fn remove(group: &Path) -> Result<(), CgroupError> {
    match fs::remove_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("delete", group)(error)),
        _ => Ok(()),
    }
}
