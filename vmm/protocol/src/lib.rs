//! What the agent and a partition's VMM say to each other.
//!
//! The agent starts one `sublet-vmm` a partition, hands it a [`MachineConfig`] as JSON on standard input and
//! then talks to it over a Unix stream socket: one JSON [`Request`] a line, answered by one JSON [`Reply`]
//! line. The VMM outlives the agent; a restarted agent finds it again by the socket's path. The VMM is jailed and can
//! open nothing: the files of an operating system come to it as descriptors with the `boot` request.
//!
//! The VMM knows nothing of money, keys or leases.

mod boot;
pub mod client;
pub mod config;
pub mod console;
pub mod control;
mod line;

pub use boot::{BOOT_FILES_MAX, BaseFiles, BootFiles, OpenBootFileError};
pub use client::{Control, ControlError, REPLY_TIMEOUT};
pub use config::{
    BaseSource, BootSource, ConfigError, ConsoleConfig, DiskConfig, DiskKey, DiskLimits, LayerConfig,
    MacAddress, MachineConfig, NetworkConfig, PortConfig, RateLimit, RngConfig, VsockConfig,
};
pub use console::{ConsoleLog, ConsoleLogError, ConsoleSlice};
pub use control::{
    DiskEngine, DiskStatus, Ended, MachineState, Refusal, RefusalCode, Reply, Request, Status, Stopped,
    WANTED_MAX, Wanted,
};
pub use line::{LINE_LIMIT, LineError, read_line, to_line, write_line};

/// Version of this protocol. A VMM answers a request of another major version with
/// [`RefusalCode::UnsupportedVersion`].
pub const PROTOCOL_VERSION: u32 = 2;
