//! What a disk is divided into.

mod gpt;
mod mbr;

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use thiserror::Error;

use crate::disk::{DiskError, SECTOR_BYTES, Volume};

#[derive(Debug, PartialEq, Eq, Error)]
pub enum PartitionError {
    #[error("its partition table cannot be read: {0}")]
    Read(#[from] DiskError),
    #[error("its GPT is damaged, and so is the copy of it: {0}")]
    Gpt(gpt::GptError),
}

/// What a partition says it is for (UAPI group, Discoverable Partitions Specification).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The EFI system partition.
    Esp,
    /// An extended boot loader partition, for what the ESP has no room for.
    Xbootldr,
    Other,
}

/// A range of a disk that may have a file system in it.
#[derive(Clone)]
pub struct Partition {
    /// From 1 on, as Linux counts; none for a disk that is not divided.
    pub number: Option<u32>,
    /// As GRUB calls it on the first disk: `gpt2`, `msdos1`; empty for a disk that is not divided.
    pub grub_name: String,
    pub role: Role,
    pub volume: Volume,
}

/// The partitions of a disk in the order of their numbers. One whose numbers make no sense is left out; a disk without a
/// table is one partition as a whole.
pub fn partitions(disk: &Volume) -> Result<Vec<Partition>, PartitionError> {
    let mut sector = [0; SECTOR_BYTES as usize];
    disk.read(0, &mut sector)?;
    if gpt::is_announced(&sector) {
        return gpt::partitions(disk);
    }
    let found = mbr::partitions(disk, &sector)?;
    if !found.is_empty() {
        return Ok(found);
    }
    Ok(vec![Partition { number: None, grub_name: String::new(), role: Role::Other, volume: disk.clone() }])
}

/// A partition of `sectors` from `first` on; none where that is empty or not all on the disk.
fn partition(
    disk: &Volume,
    scheme: &str,
    number: u32,
    role: Role,
    first: u64,
    sectors: u64,
) -> Option<Partition> {
    let (start, bytes) = (first.checked_mul(SECTOR_BYTES)?, sectors.checked_mul(SECTOR_BYTES)?);
    let volume = disk.part(start, bytes).filter(|_| sectors > 0)?;
    Some(Partition { number: Some(number), grub_name: format!("{scheme}{number}"), role, volume })
}
