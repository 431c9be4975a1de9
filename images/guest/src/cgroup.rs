//! A control group a job: all its processes can be ended at once, and its memory is bounded.
//!
//! Source: Linux, Documentation/admin-guide/cgroup-v2.rst.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sublet_guest_protocol::JobId;

use crate::log::say;

const NAME_PREFIX: &str = "job-";
/// Memory that jobs leave to the kernel and the runner, in bytes.
const RESERVED_BYTES: u64 = 8 * 1024 * 1024;
/// Longest wait for the processes of an earlier runner's job to be gone.
const CLEARING_SECONDS: i64 = 5;

/// The cgroup v2 group in which jobs get their groups.
#[derive(Debug, Clone)]
pub struct Cgroups {
    root: PathBuf,
}

impl Cgroups {
    /// The root of the hierarchy, wherever that is mounted.
    #[must_use]
    pub fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        mounts.lines().find_map(mount_point).map(|root| Self::within(root.into()))
    }

    /// The group of this directory.
    #[must_use]
    pub fn within(root: PathBuf) -> Self {
        Self { root }
    }

    /// Gives jobs the controllers they need, and ends what an earlier runner left behind.
    pub fn prepare(&self) {
        for controller in ["+memory", "+cpu"] {
            if let Err(error) = fs::write(self.root.join("cgroup.subtree_control"), controller) {
                say(format_args!("jobs go without the cgroup controller {controller}: {error}"));
            }
        }
        for group in child_groups(&self.root).into_iter().filter(|path| is_job(path)) {
            clear(group);
        }
    }

    /// A fresh group for `job`.
    pub(crate) fn create(&self, job: JobId) -> io::Result<Cgroup> {
        let path = self.root.join(format!("{NAME_PREFIX}{:032x}", u128::from_be_bytes(job.0)));
        fs::create_dir(&path)?;
        bound_memory(&path);
        Cgroup::at(path)
    }
}

/// The mount point on a line of mountinfo, where it is cgroup v2's (proc_pid_mountinfo(5)).
fn mount_point(line: &str) -> Option<&str> {
    let (mount, file_system) = line.split_once(" - ")?;
    file_system.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4))?
}

fn is_job(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(NAME_PREFIX))
}

fn child_groups(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Where memory runs out, the whole job goes and nothing else. Files in a file system in memory count as
/// the job's too, and no killing would free them: so it cannot fill all there is.
fn bound_memory(path: &Path) {
    let available = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_bytes(&text));
    if let Some(bytes) = available {
        // Without a memory controller there is no such file, and the kernel's own choice stands.
        let _ = fs::write(path.join("memory.max"), bytes.saturating_sub(RESERVED_BYTES).to_string());
        let _ = fs::write(path.join("memory.oom.group"), "1");
    }
}

fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Ends every process of an earlier runner's job and takes its group away.
fn clear(path: PathBuf) {
    match Cgroup::at(path.clone()) {
        Ok(group) => {
            let _ = group.kill();
            group.wait_until_empty();
            group.remove();
        }
        Err(error) => say(format_args!("cannot clear the cgroup {}: {error}", path.display())),
    }
}

/// Takes an empty group away, with those the job may have made within it.
fn remove(path: &Path) {
    child_groups(path).iter().for_each(|child| remove(child));
    if let Err(error) = fs::remove_dir(path) {
        say(format_args!("cannot remove the cgroup {}: {error}", path.display()));
    }
}

/// One job's group.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    events: File,
}

impl Cgroup {
    fn at(path: PathBuf) -> io::Result<Self> {
        let events = File::open(path.join("cgroup.events"))?;
        Ok(Self { path, events })
    }

    /// The file that moves whoever writes `0` to it into the group.
    pub(crate) fn procs(&self) -> io::Result<File> {
        File::options().write(true).open(self.path.join("cgroup.procs"))
    }

    /// Kills every process in it (Linux 5.14).
    pub(crate) fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Tells by `POLLPRI` that [`Self::is_empty`] may have changed.
    pub(crate) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    pub(crate) fn is_empty(&self) -> bool {
        let mut text = [0; 256];
        let length = self.events.read_at(&mut text, 0).unwrap_or(0);
        !has_counted(&String::from_utf8_lossy(text.get(..length).unwrap_or_default()), "populated")
    }

    fn wait_until_empty(&self) {
        let patience = Timespec { tv_sec: CLEARING_SECONDS, tv_nsec: 0 };
        while !self.is_empty() {
            let mut watched = [PollFd::new(&self.events, PollFlags::PRI)];
            if matches!(poll(&mut watched, Some(&patience)), Ok(0)) {
                return;
            }
        }
    }

    /// Whether the kernel killed one of its processes for want of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        has_counted(&events, "oom_kill")
    }

    pub(crate) fn remove(self) {
        remove(&self.path);
    }
}

/// Whether the flat-keyed file has `key` with a number other than 0.
fn has_counted(text: &str, key: &str) -> bool {
    let count = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    count.is_some_and(|count| count != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_among_the_mounts() {
        let line = "41 31 0:38 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(mount_point(line), Some("/sys/fs/cgroup"));
        assert_eq!(mount_point("40 31 0:37 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"), None);
        assert_eq!(mount_point("nonsense"), None);
    }

    #[test]
    fn killing_for_memory_is_told_from_merely_running_out() {
        let events = |kills| format!("low 0\nhigh 0\nmax 5\noom 1\noom_kill {kills}\noom_group_kill 0\n");
        assert!(has_counted(&events(1), "oom_kill"));
        assert!(!has_counted(&events(0), "oom_kill"));
        assert!(!has_counted("", "oom_kill"));
    }

    #[test]
    fn available_memory_is_read_in_bytes() {
        let meminfo = "MemTotal:        4096 kB\nMemFree:            2048 kB\nMemAvailable:       3072 kB\n";
        assert_eq!(available_bytes(meminfo), Some(3072 * 1024));
        assert_eq!(available_bytes("MemTotal: 1 kB"), None);
    }
}
