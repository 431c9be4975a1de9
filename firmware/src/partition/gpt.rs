//! The GUID partition table (UEFI 2.10, chapter 5), with sectors of 512 bytes.

use alloc::vec;
use alloc::vec::Vec;
use core::mem::size_of;

use bytemuck::pod_read_unaligned;
use crc::{CRC_32_ISO_HDLC, Crc};
use gpt_disk_types::{GptHeader, GptPartitionEntry, GptPartitionType, Guid, guid};
use thiserror::Error;

use super::{Partition, PartitionError, Role, mbr, partition};
use crate::disk::{DiskError, SECTOR_BYTES, Volume};

const SCHEME: &str = "gpt";
const PRIMARY_SECTOR: u64 = 1;
/// Most bytes of entries that are read; the usual 128 entries take 16 KiB.
const TABLE_LIMIT: u64 = 256 << 10;
const XBOOTLDR: Guid = guid!("bc13c2ff-59e6-4262-a352-b275fd6f7172");

#[derive(Debug, PartialEq, Eq, Error)]
pub enum GptError {
    #[error("it does not begin with \"EFI PART\"")]
    Signature,
    #[error("its header's checksum is wrong")]
    HeaderChecksum,
    #[error("it has {entries} entries of {entry_bytes} bytes")]
    Shape { entries: u32, entry_bytes: u32 },
    #[error("its entries' checksum is wrong")]
    EntriesChecksum,
    #[error("{0}")]
    Read(DiskError),
}

/// A disk with a GPT has one partition in its MBR that keeps others from it.
pub(super) fn is_announced(first_sector: &[u8; SECTOR_BYTES as usize]) -> bool {
    mbr::table(first_sector).is_some_and(|entries| entries.iter().any(|entry| entry.kind == mbr::KIND_GPT))
}

pub(super) fn partitions(disk: &Volume) -> Result<Vec<Partition>, PartitionError> {
    let backup_sector = (disk.bytes() / SECTOR_BYTES).saturating_sub(1);
    let entries =
        entries(disk, PRIMARY_SECTOR).or_else(|primary| entries(disk, backup_sector).map_err(|_| primary));
    let entries = entries.map_err(PartitionError::Gpt)?;
    let used = (1..).zip(entries).filter(|(_, entry)| entry.is_used());
    Ok(used.filter_map(|(number, entry)| partition_of(disk, number, &entry)).collect())
}

fn partition_of(disk: &Volume, number: u32, entry: &GptPartitionEntry) -> Option<Partition> {
    let (first, last) = (entry.starting_lba.to_u64(), entry.ending_lba.to_u64());
    let sectors = last.checked_sub(first)?.checked_add(1)?;
    let kind = { entry.partition_type_guid };
    let role = match kind {
        GptPartitionType::EFI_SYSTEM => Role::Esp,
        GptPartitionType(XBOOTLDR) => Role::Xbootldr,
        _ => Role::Other,
    };
    partition(disk, SCHEME, number, role, first, sectors)
}

/// The entries of the table whose header is in this sector.
fn entries(disk: &Volume, header_sector: u64) -> Result<Vec<GptPartitionEntry>, GptError> {
    let mut sector = [0; SECTOR_BYTES as usize];
    disk.read(header_sector * SECTOR_BYTES, &mut sector).map_err(GptError::Read)?;
    let header: GptHeader = pod_read_unaligned(&sector[..size_of::<GptHeader>()]);
    if !header.is_signature_valid() {
        return Err(GptError::Signature);
    }
    if header.calculate_header_crc32() != header.header_crc32 {
        return Err(GptError::HeaderChecksum);
    }
    read_entries(disk, &header)
}

fn read_entries(disk: &Volume, header: &GptHeader) -> Result<Vec<GptPartitionEntry>, GptError> {
    let entries = header.number_of_partition_entries.to_u32();
    let entry_bytes = header.size_of_partition_entry.to_u32();
    let table_bytes = u64::from(entries) * u64::from(entry_bytes);
    let shape = GptError::Shape { entries, entry_bytes };
    if (entry_bytes as usize) < size_of::<GptPartitionEntry>() || table_bytes > TABLE_LIMIT {
        return Err(shape);
    }
    let mut table = vec![0; usize::try_from(table_bytes).map_err(|_| shape)?];
    let start = header.partition_entry_lba.to_u64().saturating_mul(SECTOR_BYTES);
    disk.read(start, &mut table).map_err(GptError::Read)?;
    if Crc::<u32>::new(&CRC_32_ISO_HDLC).checksum(&table) != header.partition_entry_array_crc32.0.to_u32() {
        return Err(GptError::EntriesChecksum);
    }
    let entry = |bytes: &[u8]| pod_read_unaligned(&bytes[..size_of::<GptPartitionEntry>()]);
    Ok(table.chunks_exact(entry_bytes as usize).map(entry).collect())
}
