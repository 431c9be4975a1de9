//! A control group a partition: its VMM lives outside the agent's, and can be killed whole.

mod settings;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

pub use self::settings::Settings;
use crate::domain::id::PartitionId;

/// The host's control groups for partitions; none where cgroup2 cannot be used, and then no VMM is started.
#[derive(Debug, Clone)]
pub struct Cgroups {
    parent: Option<PathBuf>,
}

#[derive(Debug, Error)]
pub enum CgroupError {
    #[error(
        "this host has no cgroup2 at /sys/fs/cgroup that can be written, and a VMM needs a group of its own"
    )]
    Unusable,
    #[error("cannot {act} the control group {path:?}")]
    Failed { act: &'static str, path: PathBuf, source: io::Error },
}

fn failed(act: &'static str, path: &Path) -> impl Fn(io::Error) -> CgroupError {
    move |source| CgroupError::Failed { act, path: path.to_owned(), source }
}

impl Cgroups {
    /// Uses `<mount>/sublet` where `mount` is a cgroup2 that can be written.
    pub fn under(mount: &Path) -> Self {
        let parent = mount.join("sublet");
        let usable = mount.join("cgroup.controllers").exists() && fs::create_dir_all(&parent).is_ok();
        Self { parent: usable.then_some(parent) }
    }

    /// Groups of partitions for something else than their VMMs, under another name.
    pub fn beside(&self, name: &str) -> Self {
        let parent = self.parent.as_ref().map(|parent| parent.with_file_name(name));
        Self { parent: parent.filter(|parent| fs::create_dir_all(parent).is_ok()) }
    }

    pub fn usable(&self) -> bool {
        self.parent.is_some()
    }

    /// Moves a process, and all that it starts later, into the partition's group.
    pub fn adopt(&self, partition: PartitionId, process: u32) -> Result<(), CgroupError> {
        let group = self.group(partition).ok_or(CgroupError::Unusable)?;
        fs::create_dir_all(&group).map_err(failed("make", &group))?;
        fs::write(group.join("cgroup.procs"), process.to_string()).map_err(failed("fill", &group))
    }

    /// Kills whatever is left in the partition's group (SIGKILL).
    pub fn kill(&self, partition: PartitionId) -> Result<(), CgroupError> {
        match self.group(partition).filter(|group| group.exists()) {
            Some(group) => fs::write(group.join("cgroup.kill"), "1").map_err(failed("kill", &group)),
            None => Ok(()),
        }
    }

    /// Waits until no process is left in the partition's group.
    pub fn wait_until_empty(&self, partition: PartitionId, patience: Duration) -> Result<(), CgroupError> {
        let Some(group) = self.group(partition) else { return Ok(()) };
        let path = group.join("cgroup.events");
        let deadline = Instant::now() + patience;
        loop {
            let events = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                opened => opened.map_err(failed("read", &path))?,
            };
            let text = io::read_to_string(&events).map_err(failed("read", &path))?;
            let left = deadline.saturating_duration_since(Instant::now());
            if text.lines().any(|line| line == "populated 0") {
                return Ok(());
            }
            if left.is_zero() {
                return Err(failed("empty", &group)(io::ErrorKind::TimedOut.into()));
            }
            // The kernel signals a change of the file by POLLPRI (cgroup-v2.rst, "Un-populated Notification").
            let timeout = Timespec::try_from(left).ok();
            poll(&mut [PollFd::new(&events, PollFlags::PRI)], timeout.as_ref())
                .map_err(|error| failed("watch", &path)(error.into()))?;
        }
    }

    pub fn remove(&self, partition: PartitionId) -> Result<(), CgroupError> {
        let Some(group) = self.group(partition) else { return Ok(()) };
        match fs::remove_dir(&group) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("delete", &group)(error)),
            _ => Ok(()),
        }
    }

    fn group(&self, partition: PartitionId) -> Option<PathBuf> {
        self.parent.as_ref().map(|parent| parent.join(partition.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn without_a_group_there_is_no_vmm() {
        let directory = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::under(directory.path());
        let partition = PartitionId(Uuid::from_u128(1));
        assert!(!cgroups.usable());
        assert!(matches!(cgroups.adopt(partition, 1), Err(CgroupError::Unusable)));
        cgroups.kill(partition).unwrap();
        cgroups.wait_until_empty(partition, Duration::ZERO).unwrap();
        cgroups.remove(partition).unwrap();
    }
}
