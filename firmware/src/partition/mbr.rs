//! The PC's first kind of partition table, four entries in the first sector.

use alloc::vec::Vec;

use super::{Partition, PartitionError, Role, partition};
use crate::disk::{SECTOR_BYTES, Volume};

const SCHEME: &str = "msdos";
const TABLE: usize = 446;
const ENTRY_BYTES: usize = 16;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
const INACTIVE: u8 = 0;
const ACTIVE: u8 = 0x80;
const KIND_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
pub(super) const KIND_GPT: u8 = 0xee;
const KIND_ESP: u8 = 0xef;
const KIND_XBOOTLDR: u8 = 0xea;
/// Partitions within an extended one are numbered from here on.
const FIRST_LOGICAL: u32 = 5;
/// Most partitions within an extended one: each is a link of a chain on the disk.
const LOGICAL_LIMIT: u32 = 60;

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    status: u8,
    pub(super) kind: u8,
    first: u64,
    sectors: u64,
}

/// None where the sector is no table: the first sector of a FAT ends with the same signature, after a program.
pub(super) fn table(sector: &[u8; SECTOR_BYTES as usize]) -> Option<[Entry; 4]> {
    let (entries, _) = sector[TABLE..TABLE + 4 * ENTRY_BYTES].as_chunks::<ENTRY_BYTES>();
    let entries: [Entry; 4] = entries.iter().map(entry).collect::<Vec<_>>().try_into().ok()?;
    let plausible = |entry: &Entry| matches!(entry.status, INACTIVE | ACTIVE);
    (sector.ends_with(&SIGNATURE) && entries.iter().all(plausible)).then_some(entries)
}

fn entry(bytes: &[u8; ENTRY_BYTES]) -> Entry {
    let [status, _, _, _, kind, _, _, _, first @ .., s0, s1, s2, s3] = *bytes;
    let number = |bytes| u64::from(u32::from_le_bytes(bytes));
    Entry { status, kind, first: number(first), sectors: number([s0, s1, s2, s3]) }
}

pub(super) fn partitions(
    disk: &Volume,
    sector: &[u8; SECTOR_BYTES as usize],
) -> Result<Vec<Partition>, PartitionError> {
    let Some(entries) = table(sector) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for (number, entry) in (1..).zip(entries) {
        if KIND_EXTENDED.contains(&entry.kind) {
            logical(disk, entry.first, &mut found)?;
        } else {
            found.extend(primary(disk, number, entry));
        }
    }
    found.sort_by_key(|partition| partition.number);
    Ok(found)
}

fn primary(disk: &Volume, number: u32, entry: Entry) -> Option<Partition> {
    let role = match entry.kind {
        0 => return None,
        KIND_ESP => Role::Esp,
        KIND_XBOOTLDR => Role::Xbootldr,
        _ => Role::Other,
    };
    partition(disk, SCHEME, number, role, entry.first, entry.sectors)
}

/// Each link of an extended partition's chain is a table whose first entry is a partition, counted from the link, and
/// whose second is the next link, counted from the extended partition. A chain that goes backwards ends there.
fn logical(disk: &Volume, extended: u64, found: &mut Vec<Partition>) -> Result<(), PartitionError> {
    let mut link = extended;
    for number in FIRST_LOGICAL..FIRST_LOGICAL + LOGICAL_LIMIT {
        let mut sector = [0; SECTOR_BYTES as usize];
        let is_there = link != 0 && disk.part(link * SECTOR_BYTES, SECTOR_BYTES).is_some();
        if !is_there {
            break;
        }
        disk.read(link * SECTOR_BYTES, &mut sector)?;
        let Some([here, next, ..]) = table(&sector) else { break };
        found.extend(primary(disk, number, Entry { first: link + here.first, ..here }));
        let next_link = extended + next.first;
        if next.first == 0 || next_link <= link {
            break;
        }
        link = next_link;
    }
    Ok(())
}
