//! What a partition's control group, and each group above it that is ours, is set to: read, and put back.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use super::Cgroups;
use crate::domain::id::PartitionId;

/// Files that say what a group's processes may have (cgroup-v2.rst). Those that the host's kernel lacks are not there.
const FILES: [&str; 14] = [
    "cpuset.cpus",
    "cpuset.cpus.exclusive",
    "cpuset.cpus.partition",
    "cpuset.mems",
    "cpu.idle",
    "cpu.max",
    "cpu.weight",
    "cgroup.freeze",
    "io.max",
    "io.weight",
    "memory.high",
    "memory.max",
    "memory.swap.max",
    "pids.max",
];

/// By the file's name below the folder that all groups are in.
pub type Settings = BTreeMap<String, String>;

impl Cgroups {
    /// As they are now.
    pub fn settings(&self, partition: PartitionId) -> Settings {
        let read = |(name, path)| Some((name, fs::read_to_string(path).ok()?.trim_end().to_owned()));
        self.files(partition).filter_map(read).collect()
    }

    /// Puts one of them back. What a file shows in several lines it takes line by line; of a device that has no limit any
    /// more it shows nothing, so those that `found` has and `value` lacks are let go.
    pub fn restore(&self, partition: PartitionId, name: &str, value: &str, found: &str) -> io::Result<()> {
        let path = self.files(partition).find(|(known, _)| known == name).map(|(_, path)| path);
        let path = path.ok_or(io::ErrorKind::NotFound)?;
        if !name.ends_with("io.max") {
            return fs::write(path, value);
        }
        let device = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        let wanted: Vec<String> = value.lines().map(device).collect();
        let gone = found.lines().map(device).filter(|device| !wanted.contains(device));
        let lines = gone.map(|device| format!("{device} rbps=max wbps=max riops=max wiops=max"));
        lines.chain(value.lines().map(str::to_owned)).try_for_each(|line| fs::write(&path, line))
    }

    /// Where the partition's processes are, as `/proc/PID/cgroup` has it: a path that ends in this.
    pub fn place(&self, partition: PartitionId) -> Option<String> {
        let group = self.group(partition)?;
        let folder = group.parent()?.file_name()?.to_str()?;
        Some(format!("/{folder}/{partition}"))
    }

    fn files(&self, partition: PartitionId) -> impl Iterator<Item = (String, PathBuf)> {
        let group = self.group(partition);
        let above = group.as_ref().and_then(|group| Some(group.parent()?.to_owned()));
        let groups = [("", above), ("partition/", group)];
        groups.into_iter().filter_map(|(prefix, group)| Some((prefix, group?))).flat_map(|(prefix, group)| {
            FILES.iter().map(move |file| (format!("{prefix}{file}"), group.join(file)))
        })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const PARTITION: PartitionId = PartitionId(Uuid::from_u128(1));

    /// Groups in files that take whatever is written, which the kernel's do not.
    fn groups() -> (tempfile::TempDir, Cgroups, PathBuf) {
        let mount = tempfile::tempdir().unwrap();
        fs::write(mount.path().join("cgroup.controllers"), "").unwrap();
        let cgroups = Cgroups::under(mount.path());
        let group = mount.path().join("sublet").join(PARTITION.to_string());
        fs::create_dir_all(&group).unwrap();
        (mount, cgroups, group)
    }

    #[test]
    fn settings_are_read_with_those_of_the_groups_above() {
        let (_mount, cgroups, group) = groups();
        fs::write(group.join("cpu.max"), "max 100000\n").unwrap();
        fs::write(group.with_file_name("cpu.max"), "50000 100000\n").unwrap();
        let settings = cgroups.settings(PARTITION);
        assert_eq!(settings["partition/cpu.max"], "max 100000");
        assert_eq!(settings["cpu.max"], "50000 100000");
        assert_eq!(settings.len(), 2, "what the kernel lacks is not there");
        assert_eq!(cgroups.place(PARTITION).unwrap(), format!("/sublet/{PARTITION}"));
    }

    #[test]
    fn a_setting_is_put_back_and_one_that_is_none_is_not() {
        let (_mount, cgroups, group) = groups();
        fs::write(group.join("cpu.max"), "1000 100000\n").unwrap();
        cgroups.restore(PARTITION, "partition/cpu.max", "max 100000", "1000 100000").unwrap();
        assert_eq!(cgroups.settings(PARTITION)["partition/cpu.max"], "max 100000");
        assert!(cgroups.restore(PARTITION, "../../etc/passwd", "", "").is_err());
    }

    #[test]
    fn a_devices_limit_that_was_added_is_let_go() {
        let (_mount, cgroups, group) = groups();
        fs::write(group.join("io.max"), "8:0 rbps=1 wbps=max riops=max wiops=max\n").unwrap();
        cgroups
            .restore(PARTITION, "partition/io.max", "", "8:0 rbps=1 wbps=max riops=max wiops=max")
            .unwrap();
        let written = fs::read_to_string(group.join("io.max")).unwrap();
        assert_eq!(written, "8:0 rbps=max wbps=max riops=max wiops=max");
    }
}
