//! A process as `/proc` shows it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Flag of threads that the kernel gave to a process and that never leave the kernel (PF_USER_WORKER).
const KERNEL_WORKER: u64 = 0x4000;

/// A process of this host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process(pub(crate) u32);

/// One of its threads.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) id: u32,
    /// As it named itself; a thread that the kernel gave to the process is `vhost-…`, `iou-wrk-…` or `kvm-nx-…`.
    pub(crate) name: String,
    stat: String,
    status: String,
}

impl Process {
    pub(crate) fn path(self, what: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{what}", self.0))
    }

    /// Whether it lives; one that only waits for its parent to look does not.
    pub(crate) fn lives(self) -> bool {
        fs::read_to_string(self.path("status")).is_ok_and(|status| !status.contains("\nState:\tZ"))
    }

    /// All that there are; one may end while they are looked at.
    pub(crate) fn threads(self) -> Vec<Thread> {
        let threads = fs::read_dir(self.path("task")).unwrap();
        threads.filter_map(|thread| Thread::at(&thread.unwrap().path()).ok()).collect()
    }

    pub(crate) fn thread(self, name: &str) -> Option<Thread> {
        self.threads().into_iter().find(|thread| thread.name == name)
    }

    /// A field of its status.
    pub(crate) fn status(self, field: &str) -> String {
        Thread::at(Path::new(&format!("/proc/{}", self.0))).unwrap().status(field)
    }

    /// Memory that it shares with no other process.
    pub(crate) fn private_kib(self) -> u64 {
        let all = fs::read_to_string(self.path("smaps_rollup")).unwrap();
        let private = all.lines().filter(|line| line.starts_with("Private_"));
        private.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
    }

    /// What its descriptors are, as the kernel names them, each kind once and without its number.
    pub(crate) fn descriptors(self) -> Vec<String> {
        let descriptors = fs::read_dir(self.path("fd")).unwrap();
        let mut kinds: Vec<_> = descriptors.map(|descriptor| kind(&descriptor.unwrap().path())).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }

    pub(crate) fn standard_streams(self) -> [String; 3] {
        ["fd/0", "fd/1", "fd/2"].map(|stream| kind(&self.path(stream)))
    }

    /// Which namespace of this kind it is in.
    pub(crate) fn namespace(self, kind: &str) -> PathBuf {
        fs::read_link(self.path(&format!("ns/{kind}"))).unwrap()
    }
}

fn kind(descriptor: &Path) -> String {
    let name = fs::read_link(descriptor).unwrap();
    let name = name.to_str().unwrap();
    if name.starts_with("socket:") {
        "socket:".to_owned()
    } else {
        name.trim_end_matches(char::is_numeric).to_owned()
    }
}

impl Thread {
    fn at(path: &Path) -> io::Result<Self> {
        let read = |what| fs::read_to_string(path.join(what));
        let id = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        Ok(Self { id, name: read("comm")?.trim().to_owned(), stat: read("stat")?, status: read("status")? })
    }

    /// Whether the kernel gave it to the process, and it never leaves the kernel.
    pub(crate) fn is_kernel_worker(&self) -> bool {
        let flags = self.stat.rsplit(')').next().unwrap().split_whitespace().nth(6).unwrap();
        flags.parse::<u64>().unwrap() & KERNEL_WORKER != 0
    }

    /// A field of its status, words separated by one space.
    pub(crate) fn status(&self, field: &str) -> String {
        let line = self.status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{field}: {}", self.status))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }
}
