//! The machine that a VMM is asked to prepare.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::PROTOCOL_VERSION;

/// Smallest memory a machine can have, in MiB.
pub const MEMORY_MIN_MIB: u64 = 32;
/// Largest memory a machine can have, in MiB (256 GiB).
pub const MEMORY_MAX_MIB: u64 = 256 * 1024;
/// Most vCPUs a machine can have.
pub const VCPU_MAX: usize = 32;
/// Most disks a machine can have.
pub const DISK_MAX: usize = 8;
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
    /// The host CPU of each vCPU, in vCPU order; its length is the number of vCPUs.
    pub vcpu_host_cpus: Vec<u32>,
    /// Host CPUs where every thread that is not a vCPU may run; empty: those of the vCPUs.
    #[serde(default)]
    pub service_host_cpus: Vec<u32>,
    /// Guest memory in MiB; built, prefaulted and locked before the machine counts as prepared.
    pub memory_mib: u64,
    /// Disks in the order in which the guest sees them (`vda`, `vdb`, …).
    #[serde(default)]
    pub disks: Vec<DiskConfig>,
    /// vsock card; none: the guest has no way to the host but the console.
    #[serde(default)]
    pub vsock: Option<VsockConfig>,
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
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// The guest's context id; unique on the host while the machine lives.
    pub guest_cid: u32,
}

/// A bounded log: a ring file of `capacity_bytes`, read with [`crate::ConsoleLog`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleConfig {
    pub path: PathBuf,
    pub capacity_bytes: u64,
}

/// The operating system to start; given with the `boot` request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// bzImage or uncompressed 64-bit ELF kernel.
    pub kernel: PathBuf,
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// Kernel command line, ASCII, without a terminating NUL.
    pub command_line: String,
}

/// Why a configuration cannot be a machine: names the field and the limit.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("version: this VMM speaks version {PROTOCOL_VERSION}, the configuration is of version {0}")]
    Version(u32),
    #[error("name: must be 1 to 64 characters of a-z, A-Z, 0-9, '-' and '_', is {0:?}")]
    Name(String),
    #[error("vcpu_host_cpus: a machine has 1 to {VCPU_MAX} vCPUs, not {0}")]
    VcpuCount(usize),
    #[error("vcpu_host_cpus: host CPU {0} is named for two vCPUs; each vCPU has its own")]
    SharedCpu(u32),
    #[error("memory_mib: must be {MEMORY_MIN_MIB} to {MEMORY_MAX_MIB}, is {0}")]
    Memory(u64),
    #[error("disks: at most {DISK_MAX}, not {0}")]
    DiskCount(usize),
    #[error("disks: {0:?} is named twice; two disks cannot share one file")]
    SharedDisk(PathBuf),
    #[error("vsock.guest_cid: must be {GUEST_CID_MIN} to 4294967294, is {0}")]
    GuestCid(u32),
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
        self.validate_cpus()?;
        if !(MEMORY_MIN_MIB..=MEMORY_MAX_MIB).contains(&self.memory_mib) {
            return Err(ConfigError::Memory(self.memory_mib));
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
        match first_repeated(&paths) {
            Some(path) => Err(ConfigError::SharedDisk(path.to_path_buf())),
            None => Ok(()),
        }
    }

    fn validate_channels(&self) -> Result<(), ConfigError> {
        if let Some(vsock) = &self.vsock
            && !(GUEST_CID_MIN..u32::MAX).contains(&vsock.guest_cid)
        {
            return Err(ConfigError::GuestCid(vsock.guest_cid));
        }
        if !(4096..=64 << 20).contains(&self.console.capacity_bytes) {
            return Err(ConfigError::ConsoleCapacity(self.console.capacity_bytes));
        }
        Ok(())
    }
}

fn first_repeated<T: PartialEq>(items: &[T]) -> Option<&T> {
    items.iter().enumerate().find(|(at, item)| items[..*at].contains(item)).map(|(_, item)| item)
}

#[cfg(test)]
mod tests;
