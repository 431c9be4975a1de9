//! A segment: what was set aside and what was delivered in one stretch of a lease's time. Times are in nanoseconds.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::guest::GuestWord;
use crate::domain::{
    id::{HostId, LeaseId, PartitionId},
    lease::EndReason,
    resources::Allocation,
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    pub host: HostId,
    pub partition: PartitionId,
    pub lease: LeaseId,
    /// Its place in the chain, from 0 on.
    pub number: u32,
    /// Of the segment before it; none: it is the first.
    pub before: Option<SegmentDigest>,
    pub set_aside: SetAside,
    pub from: Moment,
    pub to: Moment,
    /// How much of it was not watched: the agent did not run. What the kernel counts, it counts all the same.
    pub unwatched_ns: u64,
    /// How much of it something that was set aside was known to be missing: a CPU, a CPU's time, memory, disk. Between two
    /// looks it counts from the one that still found it.
    pub lacking_ns: u64,
    /// In vCPU order.
    pub vcpus: Vec<VcpuTime>,
    /// In the order in which the guest sees them.
    pub disks: Vec<DiskTime>,
    /// What the guest's own job runner has measured inside, as it said last.
    pub guest: Option<GuestWord>,
    pub violations: Vec<Violation>,
    /// More violations than a segment has room for.
    pub violations_left_out: u64,
    /// How the partition was cleaned before this lease: in the first segment; none there: it was never lent before.
    pub cleaned: Option<Cleaned>,
    /// In the last segment alone.
    pub end: Option<SegmentEnd>,
}

/// SHA-256 of a segment's text; 64 hexadecimal digits on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SegmentDigest([u8; 32]);

#[derive(Debug, Error, PartialEq, Eq)]
#[error("a segment's digest is 64 hexadecimal digits, not {0:?}")]
pub struct NotADigest(String);

impl SegmentDigest {
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }
}

impl TryFrom<String> for SegmentDigest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, NotADigest> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes).map(|()| Self(bytes)).map_err(|_| NotADigest(text))
    }
}

impl From<SegmentDigest> for String {
    fn from(digest: SegmentDigest) -> Self {
        hex::encode(digest.0)
    }
}

/// A moment on the host's boot time and on the registry's clock, as the host knew it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// CLOCK_BOOTTIME; it counts anew at each start of the host.
    pub boottime_ns: u64,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAside {
    pub allocation: Allocation,
    /// In vCPU order.
    pub cpus: Vec<SetAsideCpu>,
    /// Whether its memory is of huge pages.
    pub huge_pages: bool,
    /// Of each CPU's time; none: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_share_percent: Option<u8>,
}

/// A hardware thread of the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAsideCpu {
    pub cpu: u32,
    /// All hardware threads of its core, itself included.
    pub siblings: Vec<u32>,
    /// Its NUMA node, where the host's kernel knows of nodes.
    pub node: Option<u32>,
}

/// What became of a vCPU's time, as the host's kernel counts it for the vCPU's thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpuTime {
    pub ran_ns: u64,
    /// It wanted to run and did not: the run delay of proc(5), `schedstat`.
    pub not_run_ns: u64,
    /// Its process was stopped.
    pub stopped_ns: u64,
}

/// What became of requests to a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskTime {
    /// How long requests were held up by the limits that the disk has.
    pub throttled_ns: u64,
}

/// Something that was set aside was found changed behind the agent's back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Violation {
    /// When it was noticed.
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    pub what: Watched,
    /// Which of them, where there are several: a thread, a file, a CPU.
    pub subject: String,
    /// As it is to be.
    pub before: String,
    /// As it was found.
    pub after: String,
    /// Whether it was put back at once.
    pub restored: bool,
}

/// What the freeze guard watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Watched {
    /// On which host CPUs a thread of the machine may run.
    Affinity,
    /// A thread's scheduling policy.
    Policy,
    /// A thread's nice value.
    Nice,
    /// A setting of the machine's control group.
    Cgroup,
    /// In the machine's control group is to be no other process.
    Stranger,
    /// A host CPU that is set aside is to be online.
    CpuOnline,
    /// The machine's memory is to be locked.
    LockedMemory,
    /// Nothing of the machine is to be in swap.
    Swap,
    /// The disk's length.
    DiskSize,
    /// The disk's blocks that are allocated.
    DiskBlocks,
    /// The machine's process is to run.
    Stopped,
    /// The machine's process is to be there.
    Gone,
}

impl Watched {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Affinity => "affinity",
            Self::Policy => "scheduling policy",
            Self::Nice => "nice value",
            Self::Cgroup => "control group",
            Self::Stranger => "company",
            Self::CpuOnline => "CPU",
            Self::LockedMemory => "locked memory",
            Self::Swap => "swap",
            Self::DiskSize => "disk size",
            Self::DiskBlocks => "disk blocks",
            Self::Stopped => "process state",
            Self::Gone => "process",
        }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, subject, before, after, restored, .. } = self;
        let outcome = if *restored { "put back" } else { "not put back" };
        write!(f, "{} of {subject}: {before} became {after}; {outcome}", what.as_str())
    }
}

/// How a partition was cleaned after the lease before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cleaned {
    pub at: Timestamp,
    /// The lease whose remains they were.
    pub after: LeaseId,
    pub memory: MemoryCleaning,
    pub disk: DiskCleaning,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryCleaning {
    /// The machine's process ended and with it its memory; the next one has pages of the kernel's, which zeroes them.
    NewProcess,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskCleaning {
    /// The key without which none of its blocks can be read was destroyed, its file deleted, and another allocated that reads
    /// as zeroes.
    KeyDestroyed,
    NoDisk,
}

/// How the lease ended at its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentEnd {
    pub at: Timestamp,
    /// None: the registry said that it had ended.
    pub reason: Option<EndReason>,
}

impl Segment {
    /// How long it is: by the host's boot time, unless the host was started anew in between.
    pub fn length(&self) -> Duration {
        let by_clock = Duration::try_from(self.to.at.duration_since(self.from.at)).unwrap_or_default();
        let by_boottime = self.to.boottime_ns.checked_sub(self.from.boottime_ns).map(Duration::from_nanos);
        by_boottime.unwrap_or(by_clock)
    }
}
