//! What a partition is made of: patent (42), the allocation.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Most CPUs of one partition.
pub const CPUS_MAX: u32 = 32;
/// Least memory of a partition, in MiB.
pub const MEMORY_MIN_MIB: u64 = 64;
/// Most memory of a partition, in MiB (256 GiB).
pub const MEMORY_MAX_MIB: u64 = 256 * 1024;
/// Most disk of a partition, in MiB (2 TiB): what its VMM keeps of a larger one in memory would be more than is set aside for it.
pub const DISK_MAX_MIB: u64 = 2 * 1024 * 1024;

/// The upper bounds that are set aside for a partition, whole and for itself [0019].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Allocation {
    /// Host CPUs (hardware threads), each for one vCPU alone; whole cores only.
    #[cfg_attr(feature = "server", schema(minimum = 1, maximum = 32))]
    pub cpus: u32,
    #[cfg_attr(feature = "server", schema(minimum = 64, maximum = 262_144))]
    pub memory_mib: u64,
    /// The partition's own disk, allocated in full; 0: none.
    #[cfg_attr(feature = "server", schema(minimum = 0, maximum = 16_777_216))]
    pub disk_mib: u64,
}

/// Why an allocation cannot be one on any host.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadAllocation {
    #[error("cpus: a partition has 1 to {CPUS_MAX}, not {0}")]
    Cpus(u32),
    #[error("memory_mib: a partition has {MEMORY_MIN_MIB} to {MEMORY_MAX_MIB}, not {0}")]
    Memory(u64),
    #[error("disk_mib: a partition has at most {DISK_MAX_MIB}, not {0}")]
    Disk(u64),
}

impl Allocation {
    pub fn validate(&self) -> Result<(), BadAllocation> {
        if !(1..=CPUS_MAX).contains(&self.cpus) {
            return Err(BadAllocation::Cpus(self.cpus));
        }
        if !(MEMORY_MIN_MIB..=MEMORY_MAX_MIB).contains(&self.memory_mib) {
            return Err(BadAllocation::Memory(self.memory_mib));
        }
        if self.disk_mib > DISK_MAX_MIB { Err(BadAllocation::Disk(self.disk_mib)) } else { Ok(()) }
    }

    /// Stands for the allocation in a lending key. The text under the digest names each field, so that a field
    /// added later changes it.
    pub fn digest(&self) -> AllocationDigest {
        let text = format!("cpus={} memory_mib={} disk_mib={}", self.cpus, self.memory_mib, self.disk_mib);
        AllocationDigest(Sha256::digest(text).into())
    }
}

/// SHA-256 of an allocation; 64 hexadecimal digits on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "server", schema(value_type = String, pattern = "^[0-9a-f]{64}$"))]
#[serde(try_from = "String", into = "String")]
pub struct AllocationDigest(pub [u8; 32]);

#[derive(Debug, Error, PartialEq, Eq)]
#[error("an allocation digest is 64 hexadecimal digits, not {0:?}")]
pub struct NotADigest(String);

impl TryFrom<String> for AllocationDigest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        match hex::decode_to_slice(&text, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(_) => Err(NotADigest(text)),
        }
    }
}

impl From<AllocationDigest> for String {
    fn from(digest: AllocationDigest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for AllocationDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for AllocationDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Allocation = Allocation { cpus: 1, memory_mib: 256, disk_mib: 64 };

    #[test]
    fn allocations_outside_the_bounds_are_refused_by_name() {
        assert_eq!(SMALL.validate(), Ok(()));
        assert_eq!(Allocation { cpus: 0, ..SMALL }.validate(), Err(BadAllocation::Cpus(0)));
        assert_eq!(Allocation { memory_mib: 1, ..SMALL }.validate(), Err(BadAllocation::Memory(1)));
        assert_eq!(Allocation { disk_mib: u64::MAX, ..SMALL }.validate(), Err(BadAllocation::Disk(u64::MAX)));
    }

    #[test]
    fn any_change_of_an_allocation_changes_its_digest() {
        let others = [
            Allocation { cpus: 2, ..SMALL },
            Allocation { memory_mib: 257, ..SMALL },
            Allocation { disk_mib: 65, ..SMALL },
        ];
        assert!(others.iter().all(|other| other.digest() != SMALL.digest()));
    }

    #[test]
    fn a_digest_is_read_as_it_was_written() {
        let text = SMALL.digest().to_string();
        assert_eq!(AllocationDigest::try_from(text), Ok(SMALL.digest()));
        assert!(AllocationDigest::try_from("12".to_owned()).is_err());
    }
}
