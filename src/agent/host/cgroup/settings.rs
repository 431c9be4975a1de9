//! What a partition's control group, and each group above and below it that is ours, is set to: read, and put back.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use super::{Cgroups, SHARES, VCPUS};
use crate::domain::id::PartitionId;

/// Files that say what a group's processes may have (cgroup-v2.rst). Those that the host's kernel lacks are not there.
const FILES: [&str; 15] = [
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
    "memory.min",
    "memory.max",
    "memory.swap.max",
    "pids.max",
];

/// Before the names of the files of the group that all shares are in.
const SHARES_PREFIX: &str = "shares/";

/// Whether other partitions, and the owner's configuration, change this as well: which CPUs can be lent, and which are
/// shared.
fn is_others(prefix: &str, file: &str) -> bool {
    (prefix.is_empty() || prefix == SHARES_PREFIX) && matches!(file, "cpuset.cpus" | "cpuset.cpus.exclusive")
}

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
    pub fn home(&self, partition: PartitionId) -> Option<String> {
        let group = self.existing(partition)?;
        let folder = group.parent()?.file_name()?.to_str()?;
        Some(format!("/{folder}/{partition}"))
    }

    /// The same for the threads of its vCPUs.
    pub fn vcpus_home(&self, partition: PartitionId) -> Option<String> {
        let own = self.existing(partition)?.join(VCPUS).exists();
        Some(self.home(partition)? + &if own { format!("/{VCPUS}") } else { String::new() })
    }

    fn files(&self, partition: PartitionId) -> impl Iterator<Item = (String, PathBuf)> {
        let group = self.existing(partition);
        let shares = self.place.as_ref().map(|place| place.join(SHARES));
        let shares = shares.filter(|shares| group.as_ref().is_some_and(|group| group.starts_with(shares)));
        let vcpus = group.as_ref().map(|group| group.join(VCPUS));
        let groups =
            [("", self.place.clone()), (SHARES_PREFIX, shares), ("partition/", group), ("vcpus/", vcpus)];
        let groups = groups.into_iter().filter_map(|(prefix, group)| Some((prefix, group?)));
        groups.flat_map(|(prefix, group)| {
            let files = FILES.iter().filter(move |file| !is_others(prefix, file));
            files.map(move |file| (format!("{prefix}{file}"), group.join(file)))
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
        let cgroups = Cgroups::at(&mount.path().join("sublet"));
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
        assert_eq!(cgroups.home(PARTITION).unwrap(), format!("/sublet/{PARTITION}"));
    }

    #[test]
    fn a_partition_with_shares_lives_with_the_others_and_is_not_told_what_they_change() {
        let (_mount, cgroups, group) = groups();
        let shares = group.with_file_name(SHARES);
        let share = shares.join(PARTITION.to_string());
        fs::remove_dir(&group).unwrap();
        fs::create_dir_all(&share).unwrap();
        for file in ["cpuset.cpus", "cpuset.cpus.partition"] {
            fs::write(shares.join(file), "1\n").unwrap();
            fs::write(share.join(file), "1\n").unwrap();
        }
        let settings = cgroups.settings(PARTITION);
        let names: Vec<&str> = settings.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["partition/cpuset.cpus", "partition/cpuset.cpus.partition", "shares/cpuset.cpus.partition"]
        );
        let home = format!("/shares/{PARTITION}");
        assert_eq!(
            (cgroups.home(PARTITION), cgroups.vcpus_home(PARTITION)),
            (Some(home.clone()), Some(home))
        );
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
