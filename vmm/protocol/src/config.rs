//! The machine that a VMM is asked to prepare.

mod layer;
mod network;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::layer::{DiskKey, KEY_BYTES, LayerConfig};
pub use self::network::{MacAddress, NetworkConfig, ParseMacAddressError, TAP_NAME_MAX};
use crate::{PROTOCOL_VERSION, console::HEADER_BYTES};

/// Smallest memory a machine can have, in MiB.
pub const MEMORY_MIN_MIB: u64 = 32;
/// Largest memory a machine can have, in MiB (256 GiB).
pub const MEMORY_MAX_MIB: u64 = 256 * 1024;
/// Most vCPUs a machine can have.
pub const VCPU_MAX: usize = 32;
/// Most disks a machine can have.
pub const DISK_MAX: usize = 8;
/// Most queues that a disk can have.
pub const DISK_QUEUE_MAX: u16 = 32;
/// Largest disk with a layer, in bytes (2 TiB): its map, 8 MiB then, is in memory whole.
pub const LAYER_MAX: u64 = 2 << 40;
/// Longest serial number of a disk, in characters (virtio 1.2, 5.2.6).
pub const SERIAL_MAX: usize = 20;
/// Longest name of a port.
pub const PORT_NAME_MAX: usize = 32;
/// Largest rate and burst, in a second's operations or bytes (1 TiB).
pub const RATE_MAX: u64 = 1 << 40;
/// Context ids 0 to 2 mean the hypervisor, the local machine and the host (virtio 1.2, 5.10.4).
pub const GUEST_CID_MIN: u32 = 3;

/// Everything about a machine that is fixed before an operating system is chosen: what was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// [`PROTOCOL_VERSION`] of whoever wrote this.
    pub version: u32,
    /// Names the machine in logs and errors; the agent uses the partition's id.
    pub name: String,
    /// User and group id of the machine's process, its own on the host: no other process and no file has it.
    pub user: u32,
    /// The host CPU of each vCPU, in vCPU order; its length is the number of vCPUs.
    pub vcpu_host_cpus: Vec<u32>,
    /// Host CPUs where every thread that is not a vCPU may run; empty: those of the vCPUs.
    #[serde(default)]
    pub service_host_cpus: Vec<u32>,
    /// Whether others use the vCPUs' host CPUs too: then the guest is not told that it has them to itself.
    #[serde(default)]
    pub shared_cpus: bool,
    /// Guest memory in MiB; built, prefaulted and locked before the machine counts as prepared.
    pub memory_mib: u64,
    /// Whether the memory is of huge pages (2 MiB) that the host has reserved, and of nothing else; otherwise it is of
    /// large pages where the host's kernel finds them.
    #[serde(default)]
    pub huge_pages: bool,
    /// Disks in the order in which the guest sees them (`vda`, `vdb`, …).
    #[serde(default)]
    pub disks: Vec<DiskConfig>,
    /// vsock card; none: the guest has no way to the host but the console.
    #[serde(default)]
    pub vsock: Option<VsockConfig>,
    /// Network card; none: the guest has no network.
    #[serde(default)]
    pub network: Option<NetworkConfig>,
    /// Source of random bytes; none: the guest has only its CPU's.
    #[serde(default)]
    pub rng: Option<RngConfig>,
    /// A stream of bytes to the host; none: no such card.
    #[serde(default)]
    pub port: Option<PortConfig>,
    /// Where the serial console goes.
    pub console: ConsoleConfig,
    /// Path at which the control socket is made; an old socket there is replaced.
    pub control_socket: PathBuf,
}

/// A disk backed by a raw file or block device. The format is declared by being here, never detected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    pub path: PathBuf,
    #[serde(default)]
    pub read_only: bool,
    /// What the guest reads as the disk's serial number; none: `sublet-` and the disk's number.
    #[serde(default)]
    pub serial: Option<String>,
    /// Queues between guest and disk; none: one a vCPU.
    #[serde(default)]
    pub queues: Option<u16>,
    /// Past the host's page cache (O_DIRECT). The guest is told which alignment that asks of it.
    #[serde(default)]
    pub direct: bool,
    /// How fast the guest may use it.
    #[serde(default)]
    pub limits: DiskLimits,
    /// None: the guest's blocks are the file's, as they stand there.
    #[serde(default)]
    pub layer: Option<LayerConfig>,
}

/// What a disk's own space is kept in, in bytes; the map has two bits for each.
pub const CHUNK_BYTES: u64 = 64 << 10;
/// The map is read and written in blocks of so many bytes.
pub const MAP_BLOCK_BYTES: u64 = 4096;

/// Where a layered disk's map begins in its file.
pub const fn map_offset(disk_bytes: u64) -> u64 {
    disk_bytes.next_multiple_of(CHUNK_BYTES)
}

/// How large the map is of what has arrived of a base: a bit a chunk.
pub const fn map_of_arrived_bytes(base_bytes: u64) -> u64 {
    base_bytes.div_ceil(CHUNK_BYTES).div_ceil(8)
}

/// How large the file of a layered disk is: its chunks, and the map.
pub const fn layered_file_bytes(disk_bytes: u64) -> u64 {
    let chunks = disk_bytes.div_ceil(CHUNK_BYTES);
    map_offset(disk_bytes) + chunks.div_ceil(4).next_multiple_of(MAP_BLOCK_BYTES)
}

impl DiskConfig {
    /// A disk that can be written, as fast as the host can.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            read_only: false,
            serial: None,
            queues: None,
            direct: false,
            limits: DiskLimits::default(),
            layer: None,
        }
    }
}

/// Limits on a disk's use; none: as fast as the host can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskLimits {
    /// Every request counts as one.
    #[serde(default)]
    pub operations: Option<RateLimit>,
    /// What is read and written. Zeroing counts only where the host has to write the zeroes.
    #[serde(default)]
    pub bytes: Option<RateLimit>,
}

/// So much a second in the long run, and at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    pub per_second: u64,
    /// What may go through at once after a pause. One request is never cut: the first that exceeds what is left goes
    /// through whole, and the next waits until that is made up for.
    pub burst: u64,
}

/// virtio-rng: random bytes from the host's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RngConfig {
    /// Bytes that the guest may draw.
    #[serde(default = "RngConfig::default_bytes")]
    pub bytes: RateLimit,
}

impl RngConfig {
    /// A guest seeds its own generator with some dozens of bytes, and again every few minutes.
    fn default_bytes() -> RateLimit {
        RateLimit { per_second: 64 << 10, burst: 64 << 10 }
    }
}

impl Default for RngConfig {
    fn default() -> Self {
        Self { bytes: Self::default_bytes() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// The guest's context id; unique on the host while the machine lives.
    pub guest_cid: u32,
}

/// virtio-console with one named port: a stream of bytes between `/dev/virtio-ports/NAME` in the guest and a Unix socket
/// of the host's, for a guest that lacks vsock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    pub name: String,
    /// Path at which the socket is made; an old one there is replaced. One connection at a time is let in, while a
    /// program in the guest has the port open.
    pub socket: PathBuf,
}

/// A bounded log: a ring file of `capacity_bytes`, read with [`crate::ConsoleLog`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleConfig {
    pub path: PathBuf,
    pub capacity_bytes: u64,
}

impl ConsoleConfig {
    /// Length of the log's file, in bytes.
    pub fn file_bytes(&self) -> u64 {
        HEADER_BYTES + self.capacity_bytes
    }
}

/// The operating system to start; given with the `boot` request, along with its [`crate::BootFiles`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// Whether an initrd's descriptor follows the kernel's.
    pub has_initrd: bool,
    /// Kernel command line, ASCII, without a terminating NUL.
    pub command_line: String,
    /// What lies under one of its disks; none: zeroes lie under each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseSource>,
}

/// What lies under a layered disk, raw, and is only read. Its descriptor follows those of kernel and initrd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseSource {
    /// The disk's number.
    pub disk: usize,
    /// How much of the file lies under the disk, in bytes, from its start on; above it there are zeroes.
    pub bytes: u64,
    /// Whether it is still arriving. Then the descriptor of a map follows: a bit a chunk ([`CHUNK_BYTES`]), the first the lowest
    /// of its byte. A chunk whose bit is set is there and stays as it is; what the guest wants of others it waits for, see
    /// [`crate::Request::Wanted`].
    pub is_arriving: bool,
}

/// Why a configuration cannot be a machine: names the field and the limit.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("version: this VMM speaks version {PROTOCOL_VERSION}, the configuration is of version {0}")]
    Version(u32),
    #[error("name: must be 1 to 64 characters of a-z, A-Z, 0-9, '-' and '_', is {0:?}")]
    Name(String),
    #[error("user: must be an id of the machine's own, neither root's (0) nor 4294967295, is {0}")]
    User(u32),
    #[error("vcpu_host_cpus: a machine has 1 to {VCPU_MAX} vCPUs, not {0}")]
    VcpuCount(usize),
    #[error("vcpu_host_cpus: host CPU {0} is named for two vCPUs; each vCPU has its own")]
    SharedCpu(u32),
    #[error("memory_mib: must be {MEMORY_MIN_MIB} to {MEMORY_MAX_MIB}, is {0}")]
    Memory(u64),
    #[error("memory_mib: must be even, as huge pages are of 2 MiB, is {0}")]
    HugePages(u64),
    #[error("disks: at most {DISK_MAX}, not {0}")]
    DiskCount(usize),
    #[error("disks: {0:?} is named twice; two disks cannot share one file")]
    SharedDisk(PathBuf),
    #[error("disks[{disk}].layer: its disk is only read, and would never be written to")]
    ReadOnlyLayer { disk: usize },
    #[error("disks[{disk}].layer.bytes: must be sectors of 512 bytes, 1 to {LAYER_MAX}, is {bytes}")]
    LayerBytes { disk: usize, bytes: u64 },
    #[error("disks[{disk}].queues: must be 1 to {DISK_QUEUE_MAX}, is {queues}")]
    Queues { disk: usize, queues: u16 },
    #[error("disks[{disk}].serial: must be 1 to {SERIAL_MAX} printable ASCII characters, is {serial:?}")]
    Serial { disk: usize, serial: String },
    #[error("{field}: rate and burst must be 1 to {RATE_MAX}, are {} and {}", limit.per_second, limit.burst)]
    Rate { field: String, limit: RateLimit },
    #[error("vsock.guest_cid: must be {GUEST_CID_MIN} to 4294967294, is {0}")]
    GuestCid(u32),
    #[error(
        "port.name: must be 1 to {PORT_NAME_MAX} characters of a-z, A-Z, 0-9, '-', '_' and '.', is {0:?}"
    )]
    PortName(String),
    #[error("port.socket: must be another path than control_socket, {0:?}")]
    PortSocket(PathBuf),
    #[error("network.tap: must be 1 to {TAP_NAME_MAX} characters of a-z, A-Z, 0-9, '-' and '_', is {0:?}")]
    Tap(String),
    #[error("network.mac: must be the address of one card, neither a group's nor all zeroes, is {0}")]
    Mac(MacAddress),
    #[error("console.capacity_bytes: must be 4096 to 67108864, is {0}")]
    ConsoleCapacity(u64),
}

impl MachineConfig {
    /// Checks what can be checked without looking at the host.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.version != PROTOCOL_VERSION {
            return Err(ConfigError::Version(self.version));
        }
        self.validate_name()?;
        // The kernel takes the largest for "unchanged".
        if matches!(self.user, 0 | u32::MAX) {
            return Err(ConfigError::User(self.user));
        }
        self.validate_cpus()?;
        if !(MEMORY_MIN_MIB..=MEMORY_MAX_MIB).contains(&self.memory_mib) {
            return Err(ConfigError::Memory(self.memory_mib));
        }
        if self.huge_pages && !self.memory_mib.is_multiple_of(2) {
            return Err(ConfigError::HugePages(self.memory_mib));
        }
        self.validate_disks()?;
        self.validate_channels()
    }

    fn validate_name(&self) -> Result<(), ConfigError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if (1..=64).contains(&self.name.len()) && self.name.chars().all(allowed) {
            return Ok(());
        }
        Err(ConfigError::Name(self.name.clone()))
    }

    fn validate_cpus(&self) -> Result<(), ConfigError> {
        if !(1..=VCPU_MAX).contains(&self.vcpu_host_cpus.len()) {
            return Err(ConfigError::VcpuCount(self.vcpu_host_cpus.len()));
        }
        match first_repeated(&self.vcpu_host_cpus) {
            Some(cpu) => Err(ConfigError::SharedCpu(*cpu)),
            None => Ok(()),
        }
    }

    fn validate_disks(&self) -> Result<(), ConfigError> {
        if self.disks.len() > DISK_MAX {
            return Err(ConfigError::DiskCount(self.disks.len()));
        }
        let paths: Vec<&PathBuf> = self.disks.iter().map(|disk| &disk.path).collect();
        if let Some(path) = first_repeated(&paths) {
            return Err(ConfigError::SharedDisk(path.to_path_buf()));
        }
        self.disks.iter().enumerate().try_for_each(|(number, disk)| disk.validate(number))
    }

    fn validate_channels(&self) -> Result<(), ConfigError> {
        if let Some(vsock) = &self.vsock
            && !(GUEST_CID_MIN..u32::MAX).contains(&vsock.guest_cid)
        {
            return Err(ConfigError::GuestCid(vsock.guest_cid));
        }
        self.network.as_ref().map_or(Ok(()), NetworkConfig::validate)?;
        validate_rate("rng.bytes", self.rng.map(|rng| rng.bytes))?;
        self.validate_port()?;
        if !(4096..=64 << 20).contains(&self.console.capacity_bytes) {
            return Err(ConfigError::ConsoleCapacity(self.console.capacity_bytes));
        }
        Ok(())
    }
}

impl MachineConfig {
    fn validate_port(&self) -> Result<(), ConfigError> {
        let Some(PortConfig { name, socket }) = &self.port else { return Ok(()) };
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !(1..=PORT_NAME_MAX).contains(&name.len()) || !name.chars().all(allowed) {
            return Err(ConfigError::PortName(name.clone()));
        }
        if *socket == self.control_socket {
            return Err(ConfigError::PortSocket(socket.clone()));
        }
        Ok(())
    }
}

impl DiskConfig {
    fn validate(&self, disk: usize) -> Result<(), ConfigError> {
        if let Some(queues) = self.queues.filter(|queues| !(1..=DISK_QUEUE_MAX).contains(queues)) {
            return Err(ConfigError::Queues { disk, queues });
        }
        let is_printable = |serial: &str| serial.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        let is_fine = |serial: &str| (1..=SERIAL_MAX).contains(&serial.len()) && is_printable(serial);
        if let Some(serial) = self.serial.clone().filter(|serial| !is_fine(serial)) {
            return Err(ConfigError::Serial { disk, serial });
        }
        if let Some(LayerConfig { bytes, .. }) = self.layer {
            if self.read_only {
                return Err(ConfigError::ReadOnlyLayer { disk });
            }
            if !(1..=LAYER_MAX).contains(&bytes) || !bytes.is_multiple_of(512) {
                return Err(ConfigError::LayerBytes { disk, bytes });
            }
        }
        validate_rate(&format!("disks[{disk}].limits.operations"), self.limits.operations)?;
        validate_rate(&format!("disks[{disk}].limits.bytes"), self.limits.bytes)
    }
}

fn validate_rate(field: &str, limit: Option<RateLimit>) -> Result<(), ConfigError> {
    let is_fine =
        |limit: &RateLimit| [limit.per_second, limit.burst].iter().all(|rate| (1..=RATE_MAX).contains(rate));
    match limit.filter(|limit| !is_fine(limit)) {
        Some(limit) => Err(ConfigError::Rate { field: field.into(), limit }),
        None => Ok(()),
    }
}

fn first_repeated<T: PartialEq>(items: &[T]) -> Option<&T> {
    items.iter().enumerate().find(|(at, item)| items[..*at].contains(item)).map(|(_, item)| item)
}

#[cfg(test)]
mod tests;
