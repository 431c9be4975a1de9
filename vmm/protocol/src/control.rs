//! The control socket: what can be asked of a running VMM.
//!
//! ```text
//!            boot                 guest ends, stop, kill, stop_at
//! Prepared ────────▶ Running ──────────────────────────────────▶ Off{how}
//!     │                                                            │
//!     └───────────────── release ─────────▶ (process ends) ◀───────┘
//! ```

use serde::{Deserialize, Serialize};

use crate::config::BootSource;

/// One request line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the machine is; answered at once.
    Status { version: u32 },
    /// Answered with a status as soon as [`Status::generation`] is greater than `after`; a watcher asks again
    /// with the generation it got.
    Wait { version: u32, after: u64 },
    /// `Prepared → Running`; answered once the first instruction is about to run. Descriptors come with it
    /// (`SCM_RIGHTS`, unix(7)): of the kernel, of the initrd, and of what lies under a disk, see [`crate::Control::boot`].
    Boot { version: u32, source: BootSource },
    /// Ends a guest the polite way: the ACPI power button. The guest may take its time or refuse.
    Stop { version: u32 },
    /// Ends the guest now: `Running → Off{killed}`; from `Prepared` as well.
    Kill { version: u32 },
    /// Sets the moment, on CLOCK_BOOTTIME in nanoseconds, past which the guest must not run; the VMM ends it
    /// by itself, agent alive or not. None removes it. A moment that has passed ends the guest at once.
    StopAt { version: u32, boottime_ns: Option<u64> },
    /// What the guest waits for of what lies under its disk and has not arrived; answered with [`Reply::Wanted`] as soon as
    /// [`Wanted::generation`] is greater than `after`. One who asks again with the generation it got misses nothing.
    Wanted { version: u32, after: u64 },
    /// More of what lies under the disk is there, as its map says; and these chunks will not be: whoever waits for one gets
    /// an error, and whoever wants it later waits again.
    Arrived { version: u32, failed: Vec<u64> },
    /// Ends the VMM process itself, in any state; answered just before it ends.
    Release { version: u32 },
}

/// One reply line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Status(Status),
    Wanted(Wanted),
    Refused(Refusal),
}

/// Most chunks that are told at once.
pub const WANTED_MAX: usize = 256;

/// What of what lies under a disk a guest waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Grows with each chunk that is wanted and was not before; 0 before the first.
    pub generation: u64,
    /// By number, ascending: [`WANTED_MAX`] at most.
    pub chunks: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`crate::PROTOCOL_VERSION`] of the VMM.
    pub version: u32,
    /// The machine's name, as configured.
    pub name: String,
    /// Grows by one with each change of `state`; 1 when prepared.
    pub generation: u64,
    pub state: MachineState,
    /// How each disk is served, in the order of the configuration.
    pub disks: Vec<DiskStatus>,
    /// As last set with [`Request::StopAt`].
    pub stop_at_boottime_ns: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    pub queues: u16,
    #[serde(flatten)]
    pub engine: DiskEngine,
    /// How long its limits have held up requests since the machine was built, in nanoseconds.
    #[serde(default)]
    pub throttled_ns: u64,
}

/// What carries out a disk's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "engine", rename_all = "snake_case")]
pub enum DiskEngine {
    /// Many at once.
    IoUring,
    /// One after another, since this host's kernel gives no io_uring; `reason` is for people.
    Blocking { reason: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum MachineState {
    /// Memory is built, prefaulted and locked; the machine waits for a kernel.
    Prepared,
    Running {
        /// When the first instruction ran, on CLOCK_BOOTTIME.
        since_boottime_ns: u64,
    },
    /// The guest has ended. The VMM stays until it is released, so that nobody misses how.
    Off { how: Ended },
}

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Ended {
    /// It powered itself off (ACPI S5).
    PoweredOff,
    /// It asked for a reset.
    Rebooted,
    /// Its kernel said through pvpanic that it panicked.
    Panicked,
    /// A vCPU hit a state from which no CPU goes on (triple fault).
    TripleFault,
    /// The VMM ended it; `by` says why.
    Killed { by: Stopped },
    /// The VMM could not go on; `reason` is for people.
    Failed { reason: String },
}

/// Why the VMM ended a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// [`Request::Kill`].
    Request,
    /// The moment set with [`Request::StopAt`].
    StopAt,
}

/// A request that was not carried out; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub code: RefusalCode,
    /// For people: what was wrong, with which value.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    UnsupportedVersion,
    /// Not a request of this protocol.
    Malformed,
    /// The machine's state does not allow it (a second boot, a stop before a boot).
    NotAllowedNow,
    /// The kernel, initrd or command line cannot be started.
    BadBootSource,
}
