//! One hardware thread of the host's: whether it is online, and what it shares a core and a node with.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{domain::receipt::segment::SetAsideCpu, inventory::cpu_list};

/// The CPUs that the kernel shows in a directory.
#[derive(Debug, Clone)]
pub struct Cpus(PathBuf);

impl Default for Cpus {
    fn default() -> Self {
        Self::under(Path::new("/"))
    }
}

impl Cpus {
    /// Of the host whose file systems are mounted under `root`.
    pub fn under(root: &Path) -> Self {
        Self(root.join("sys/devices/system/cpu"))
    }

    /// A CPU that cannot be taken offline has no such file.
    pub fn is_online(&self, cpu: u32) -> bool {
        fs::read_to_string(self.switch(cpu)).map_or(true, |text| text.trim() != "0")
    }

    pub fn bring_online(&self, cpu: u32) -> io::Result<()> {
        fs::write(self.switch(cpu), "1")
    }

    /// What the kernel says of it; where it says nothing, it has a core to itself.
    pub fn describe(&self, cpu: u32) -> SetAsideCpu {
        let directory = self.directory(cpu);
        let siblings = fs::read_to_string(directory.join("topology/thread_siblings_list")).ok();
        SetAsideCpu {
            cpu,
            siblings: siblings
                .and_then(|list| cpu_list(&list))
                .unwrap_or_else(|| [cpu].into())
                .into_iter()
                .collect(),
            node: node(&directory),
        }
    }

    fn switch(&self, cpu: u32) -> PathBuf {
        self.directory(cpu).join("online")
    }

    fn directory(&self, cpu: u32) -> PathBuf {
        self.0.join(format!("cpu{cpu}"))
    }
}

/// The directory of a CPU has a link to that of its node.
fn node(directory: &Path) -> Option<u32> {
    let names = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.strip_prefix("node")?.parse().ok()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_described_by_what_the_kernel_says_of_it() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("sys/devices/system/cpu/cpu3");
        fs::create_dir_all(directory.join("topology")).unwrap();
        fs::create_dir(directory.join("node1")).unwrap();
        fs::write(directory.join("topology/thread_siblings_list"), "3,7\n").unwrap();
        let cpus = Cpus::under(root.path());
        assert_eq!(cpus.describe(3), SetAsideCpu { cpu: 3, siblings: vec![3, 7], node: Some(1) });
        assert_eq!(cpus.describe(9), SetAsideCpu { cpu: 9, siblings: vec![9], node: None });
    }

    #[test]
    fn a_cpu_that_was_taken_offline_is_brought_back() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("sys/devices/system/cpu/cpu3");
        fs::create_dir_all(&directory).unwrap();
        let cpus = Cpus::under(root.path());
        assert!(cpus.is_online(3), "it has no switch");
        fs::write(directory.join("online"), "0\n").unwrap();
        assert!(!cpus.is_online(3));
        cpus.bring_online(3).unwrap();
        assert!(cpus.is_online(3));
    }
}
