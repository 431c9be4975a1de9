//! The agent's wire types.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{registry::Issuer, secret::Secret};
use crate::domain::{
    id::{BorrowerId, HostId, JobId, LeaseId, PartitionId},
    money::Price,
    network::Network,
    partition::Kind,
    resources::{Allocation, AllocationDigest},
    terms::{Epoch, Terms, TermsVersion},
    tls_key::TlsKey,
};

/// What an HTTP connection is upgraded to by `GET /v1/partitions/{id}/tunnel/{port}`.
pub const TUNNEL_PROTOCOL: &str = "sublet-tunnel";

/// `GET /v1/host`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct HostView {
    pub host: HostId,
    pub cpu_model: String,
    /// What it is made of.
    #[serde(default)]
    pub topology: TopologyView,
    /// All that the host has.
    pub total: Capacity,
    /// What the owner keeps in any case.
    pub reserve: Capacity,
    /// What is the owner's now: all that no partition was created of [0052].
    #[serde(default)]
    pub owner_has: Capacity,
    /// What can still be carved.
    pub free: Capacity,
    pub os_images: Vec<OsImage>,
    /// Base URL of the registry; none: the host lends directly only.
    pub registry: Option<String>,
    /// The key that the host proves to have over TLS; none: it speaks plain HTTP.
    #[serde(default)]
    pub tls_key: Option<TlsKey>,
    /// Who issues this host's own keys, for direct lending.
    pub issuer: Issuer,
}

/// What a host is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TopologyView {
    pub sockets: usize,
    pub cores: usize,
    pub numa_nodes: usize,
    /// Reserved in huge pages of 2 MiB.
    pub huge_pages_mib: u64,
    /// How fast each CPU that can be lent is at least, in rounds a second, as offers state it; none: not measured.
    pub performance: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Capacity {
    pub cpus: u32,
    pub memory_mib: u64,
    pub disk_mib: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct OsImage {
    pub name: String,
    /// For people: "Debian 12 (micro)".
    pub os: String,
    pub kernel_release: String,
}

/// `POST /v1/partitions`: what to carve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CarvePartition {
    pub allocation: Allocation,
    /// The part of each CPU's time that it has, in percent, on cores that are set aside for shares; none: whole cores. Stays
    /// what it is until the partition is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(minimum = 1, maximum = 99))]
    pub cpu_share_percent: Option<u8>,
    /// None: by the host's price list.
    #[serde(default)]
    pub price: Option<Price>,
    /// Stays what it is until the partition is released.
    #[serde(default)]
    pub network: Network,
    #[serde(default)]
    pub kind: Kind,
}

impl CarvePartition {
    /// Whole cores at the host's own price, and nothing else that need not be.
    pub fn of(allocation: Allocation) -> Self {
        Self {
            allocation,
            cpu_share_percent: None,
            price: None,
            network: Network::None,
            kind: Kind::default(),
        }
    }
}

/// `PATCH /v1/partitions/{id}`: what is not stated stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangePartition {
    #[serde(default)]
    pub allocation: Option<Allocation>,
    #[serde(default)]
    pub price: Option<Price>,
    /// No key that was issued before opens the partition any more.
    #[serde(default)]
    pub new_key: bool,
}

/// One row of the partition table: patent (41)–(43), fig. 2; the key's place is taken by lease and epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct PartitionView {
    pub id: PartitionId,
    #[serde(default)]
    pub kind: Kind,
    /// The shape in which the host offers by itself what it can spare [0033]; none: its owner has carved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<String>,
    pub state: PartitionState,
    pub terms: Terms,
    /// Version of the terms at the registry; none: never registered.
    pub terms_version: Option<TermsVersion>,
    /// Host CPUs that are set aside.
    pub host_cpus: Vec<u32>,
    /// Epoch of the latest lease.
    pub epoch: Epoch,
    /// Only where the asker owns the host or holds the lease's key.
    pub lease: Option<LeaseView>,
    pub guest: GuestState,
    /// The guest is not heard: perhaps it hangs. It is not ended, and a job in it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_hung: Option<GuestHung>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PartitionState {
    Carved,
    Offered,
    Lent,
    Scrubbing,
    Withdrawn,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct LeaseView {
    pub lease: LeaseId,
    pub borrower: BorrowerId,
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(tag = "guest", rename_all = "snake_case")]
pub enum GuestState {
    /// No machine is built (carved only, or withdrawn).
    Absent,
    /// The machine is built, its memory locked; no OS runs.
    Prepared,
    Booting {
        image: String,
    },
    Running {
        image: String,
    },
    Off {
        how: GuestEnd,
    },
}

/// Since when a guest is not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct GuestHung {
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub since: Timestamp,
    pub how: HungHow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum HungHow {
    /// Its job runner has not called since it was booted.
    NotCalled,
    /// Its job runner called and has not been heard since.
    NotHeard,
}

/// Data of an event `guest` of `GET …/jobs/{job}/logs`: the guest is not heard, or (none) is heard again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct GuestSilence {
    pub guest_hung: Option<GuestHung>,
}

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum GuestEnd {
    PoweredOff,
    Rebooted,
    Panicked,
    TripleFault,
    /// The borrower stopped it.
    Stopped,
    /// The lease ended.
    LeaseEnded,
    Failed {
        reason: String,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Partitions {
    pub partitions: Vec<PartitionView>,
}

/// `POST /v1/partitions/{id}/keys`, by the host's owner: a key of the host's own, for direct lending [0165].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct IssueKey {
    /// The lease ends by itself after so many seconds; 1 to 31,536,000 (365 days).
    pub duration_seconds: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct KeyIssued {
    pub lease: LeaseId,
    pub key: Secret,
    pub host: HostId,
    pub partition: PartitionId,
    pub allocation_digest: AllocationDigest,
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}

/// `POST /v1/partitions/{id}/borrow`: the exchange before any job (fig. 5), with the key as bearer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BorrowPartition {
    pub host: HostId,
    pub allocation_digest: AllocationDigest,
}

/// `POST /v1/partitions/{id}/jobs`: an OS to start and a program to run in it (S51).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RunJob {
    /// OS image to run in; none: the one that is running.
    #[serde(default)]
    pub image: Option<String>,
    /// Program and arguments.
    pub argv: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub working_directory: Option<String>,
    /// Standard input, base64; at most 1 MiB decoded.
    #[serde(default)]
    pub stdin_base64: Option<String>,
    #[serde(default)]
    pub time_limit_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct JobView {
    pub id: JobId,
    pub lease: LeaseId,
    pub image: String,
    pub argv: Vec<String>,
    pub state: JobState,
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub submitted_at: Timestamp,
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub ended_at: Option<Timestamp>,
    /// Bytes of output that the host holds.
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    /// Bytes of output beyond those, which were more than the host keeps: at most 64 MiB of a stream, and 256 MiB
    /// of a lease. Known when the job has ended.
    #[serde(default)]
    pub stdout_dropped_bytes: u64,
    #[serde(default)]
    pub stderr_dropped_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum JobState {
    /// Waits for the guest, or for the job before it.
    Queued,
    Running,
    Ended {
        end: JobEnd,
    },
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum JobEnd {
    Exited {
        code: u8,
    },
    Signaled {
        signal: u8,
    },
    OutOfMemory,
    TimedOut,
    Cancelled,
    NotStarted {
        reason: String,
    },
    /// The guest's kernel panicked under it.
    GuestPanicked,
    GuestPoweredOff,
    GuestRebooted,
    GuestFailed {
        reason: String,
    },
    /// The guest was stopped by the borrower.
    GuestStopped,
    LeaseEnded,
    /// The host went down under it; it is never run again by itself (law 6).
    HostLost,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Jobs {
    /// Newest first.
    pub jobs: Vec<JobView>,
}

/// Data of one event of `GET …/jobs/{job}/logs` or `GET …/console`. The event's name is `stdout`, `stderr` or
/// `console`; its id resumes the stream (`Last-Event-ID`). After a job's last output comes an event `end`
/// with the [`JobView`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct LogChunk {
    /// Number of the chunk's first byte, from the start of its stream.
    pub offset: u64,
    /// The bytes, where they are UTF-8; else `base64` has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}
