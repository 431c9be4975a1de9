//! What is measured inside a lab host, by `sublet-lab-host bench`.

mod block;
mod cpu;
pub mod disk;
mod net;
mod peer;
mod spent;
mod vmm;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sublet_vmm_protocol::{ControlError, OpenBootFileError};
use thiserror::Error;

pub use self::disk::{RANDOM_DEPTH, SEQUENTIAL_DEPTH, Speeds};

/// Longest a guest may take, by the host's clock.
const LIMIT: Duration = Duration::from_secs(240);

/// Which VMM another program is: how it is told what to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerKind {
    Firecracker,
    CloudHypervisor,
}

impl PeerKind {
    pub const ALL: [Self; 2] = [Self::Firecracker, Self::CloudHypervisor];

    pub fn name(self) -> &'static str {
        match self {
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud_hypervisor",
        }
    }
}

/// Another VMM in the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub kind: PeerKind,
    pub program: PathBuf,
}

/// A guest to run: a stock Debian kernel with the micro image's initramfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    pub kernel: Kernel,
    pub vcpus: u32,
    pub memory_mib: u64,
}

/// The guest's kernel, by its version and its file's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// Debian's 6.12 as an uncompressed ELF file.
    Elf,
    /// Debian's 6.1 as a bzImage.
    BzImage,
}

impl Kernel {
    fn files(self) -> (PathBuf, PathBuf) {
        let (image, kernel) = match self {
            Self::Elf => ("debian-micro", "vmlinux"),
            Self::BzImage => ("debian-micro-6.1", "vmlinuz"),
        };
        let directory = PathBuf::from(crate::inside::IMAGE_DIRECTORY).join(image);
        (directory.join(kernel), directory.join("initrd.img"))
    }
}

/// One thing to measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// A guest that ends as soon as its init runs, under our VMM or a peer; with these kernel options, where there are any.
    Boot { guest: Guest, peer: Option<Peer>, options: String },
    /// A VMM's private memory while its guest, once at init, sleeps.
    Memory { guest: Guest, peer: Option<Peer> },
    /// A loop of so many rounds, in a guest and beside it.
    Cpu { guest: Guest, rounds: u64 },
    /// Streams of so many MiB both ways between a guest and its host, and within the host.
    Net { guest: Guest, mib: u32, runs: u32 },
    /// A disk that does nothing but take that time for each request, used from a guest and then from the host.
    Block { guest: Guest, delay_us: u64 },
}

impl Task {
    pub(super) fn to_argument(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// `cold_s`: from the VMM's start to the moment at which the guest's end is known.
    Boot {
        cold_s: f64,
        /// A peer has no prepared machines.
        prepared: Option<Prepared>,
    },
    /// Private memory beyond the guest's.
    Memory {
        overhead_kib: u64,
    },
    Cpu {
        guest_s: f64,
        bare_s: f64,
    },
    Net {
        guest_to_host: Vec<Stream>,
        host_to_guest: Vec<Stream>,
    },
    /// And how often the guest was left for each request that reached the device.
    Block {
        guest: Speeds,
        host: Speeds,
        exits_per_request: f64,
    },
}

/// A boot as seen from the request to a prepared machine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// To the moment at which the guest's end is known.
    pub exit_s: f64,
    /// What the host's CPUs spend on the request, here and in the VMM, until the boot CPU is let into the guest.
    pub call_cpu_s: f64,
}

/// One stream's time between guest and host, and that of the same within the host right before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    pub guest_s: f64,
    pub host_s: f64,
}

#[derive(Debug, Error)]
pub enum ReadingError {
    #[error("cannot run {0:?}")]
    Run(PathBuf, #[source] io::Error),
    #[error("{0:?} failed: {1}")]
    Failed(PathBuf, String),
    #[error("cannot use {0:?}")]
    File(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    BootFile(#[from] OpenBootFileError),
    #[error("cannot tell which process the VMM is")]
    Peer(#[source] io::Error),
    #[error("the guest did not get that far; its console: {0}")]
    Guest(String),
    #[error("a stream did not come through")]
    Stream(#[source] io::Error),
    #[error("{0:?} is none of a process's memory")]
    Smaps(String),
    #[error("{0:?} is none of a thread's time")]
    Schedstat(String),
}

pub fn perform(task: &Task) -> Result<Reading, ReadingError> {
    match task {
        Task::Boot { guest, peer, options } => {
            let program = peer.as_ref().map_or(Path::new(crate::inside::VMM), |peer| &peer.program);
            read_once(guest, program)?;
            match peer {
                None => vmm::boot(guest, options),
                Some(peer) => peer::boot(peer, guest, options),
            }
        }
        Task::Memory { guest, peer: None } => vmm::memory(guest),
        Task::Memory { guest, peer: Some(peer) } => peer::memory(peer, guest),
        Task::Cpu { guest, rounds } => cpu::compare(guest, *rounds),
        Task::Net { guest, mib, runs } => net::compare(guest, *mib, *runs),
        Task::Block { guest, delay_us } => block::compare(guest, *delay_us),
    }
}

/// Has the host's kernel hold the guest's files and the VMM's program, so that no VMM is charged for the host's disk.
fn read_once(guest: &Guest, program: &Path) -> Result<(), ReadingError> {
    let (kernel, initrd) = guest.kernel.files();
    for path in [kernel, initrd, program.into()] {
        let read = File::open(&path).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
        read.map_err(|error| ReadingError::File(path, error))?;
    }
    Ok(())
}

/// Private memory of a process beyond that of its guest, of which every page is there.
fn overhead_kib(process: u32, guest: &Guest) -> Result<u64, ReadingError> {
    let path = PathBuf::from(format!("/proc/{process}/smaps_rollup"));
    let text = std::fs::read_to_string(&path).map_err(|error| ReadingError::File(path, error))?;
    let private = private_kib(&text).ok_or_else(|| ReadingError::Smaps(text.clone()))?;
    Ok(private.saturating_sub(guest.memory_mib * 1024))
}

/// Sum of the private lines of a `smaps` file (proc_pid_smaps(5)).
fn private_kib(smaps: &str) -> Option<u64> {
    let private = smaps.lines().filter(|line| line.starts_with("Private_"));
    private.map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_is_clean_dirty_and_huge_pages_together() {
        let smaps = "Rss: 9 kB\nShared_Clean: 5 kB\nPrivate_Clean: 4 kB\nPrivate_Dirty: 30 kB\nPrivate_Hugetlb: 200 kB\n";
        assert_eq!(private_kib(smaps), Some(234));
        assert_eq!(private_kib("Private_Clean: x kB\n"), None);
    }

    #[test]
    fn a_task_is_understood_on_the_other_side() {
        let guest = Guest { kernel: Kernel::Elf, vcpus: 1, memory_mib: 256 };
        let peer = Some(Peer { kind: PeerKind::Firecracker, program: "/root/firecracker".into() });
        let task = Task::Boot { guest, peer, options: String::new() };
        assert_eq!(serde_json::from_str::<Task>(&task.to_argument()).unwrap(), task);
    }
}
