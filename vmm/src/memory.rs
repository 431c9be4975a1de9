//! The guest's memory: set aside in full before the machine counts as prepared.
//!
//! Every page is there and locked when [`build`] returns. Nothing is overcommitted: a host that does not have the
//! memory is told so, rather than finding out while the guest runs.

use std::{fs, io, sync::Arc};

use rustix::mm::{Advice, madvise, mlock};
use thiserror::Error;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion, mmap::MmapRegionError,
};

use crate::arch::layout;

/// The guest's whole physical memory.
pub type GuestMemory = GuestMemoryMmap<()>;

const MIB: u64 = 1 << 20;
/// Bytes written at once when memory is cleared.
const CLEARED_AT_ONCE: usize = 1 << 20;

#[derive(Debug, Error)]
pub enum MemoryError {
    #[error("cannot read what memory the host has from /proc/meminfo")]
    Meminfo(#[source] io::Error),
    #[error("the guest needs {needed_mib} MiB of memory, the host has {available_mib} MiB left")]
    TooLittle { needed_mib: u64, available_mib: u64 },
    #[error("cannot map {mib} MiB of memory")]
    Map { mib: u64, source: MmapRegionError },
    #[error("cannot keep the guest's memory out of core dumps")]
    KeepOut(#[source] rustix::io::Errno),
    #[error("cannot lock {mib} MiB of memory; RLIMIT_MEMLOCK or the cgroup's limit may be too small")]
    Lock { mib: u64, source: rustix::io::Errno },
    #[error("the regions of the guest's memory do not fit together")]
    Regions,
}

/// Sets aside `mib` of memory. The kernel takes it near the CPU that this thread runs on.
pub fn build(mib: u64) -> Result<Arc<GuestMemory>, MemoryError> {
    let available_mib = available_mib()?;
    if available_mib < mib {
        return Err(MemoryError::TooLittle { needed_mib: mib, available_mib });
    }
    let regions = layout::memory_ranges(mib * MIB)
        .map(|(start, bytes)| region(start, bytes))
        .collect::<Result<Vec<_>, _>>()?;
    GuestMemory::from_regions(regions).map(Arc::new).map_err(|_| MemoryError::Regions)
}

/// Makes every byte zero again, where a failed boot has left something of what it read.
pub fn clear(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    let zeroes = vec![0; CLEARED_AT_ONCE];
    for region in memory.iter() {
        let mut at = region.start_addr();
        let mut left = region.len();
        while left > 0 {
            let bytes = left.min(CLEARED_AT_ONCE as u64);
            memory.write_slice(&zeroes[..bytes as usize], at)?;
            at = GuestAddress(at.0 + bytes);
            left -= bytes;
        }
    }
    Ok(())
}

fn region(start: u64, bytes: u64) -> Result<GuestRegionMmap, MemoryError> {
    let mib = bytes / MIB;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // Without MAP_NORESERVE, so that a host that does not overcommit accounts for it here.
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let mapping = MmapRegion::build(None, bytes as usize, protection, flags)
        .map_err(|source| MemoryError::Map { mib, source })?;
    advise(&mapping, Advice::LinuxDontDump).map_err(MemoryError::KeepOut)?;
    // Large pages make the guest faster; a kernel built without them refuses, and the guest runs all the same.
    let _ = advise(&mapping, Advice::LinuxHugepage);
    // SAFETY: the range is the mapping just made, which nothing else refers to; locking changes no byte of it.
    unsafe { mlock(mapping.as_ptr().cast(), mapping.size()) }
        .map_err(|source| MemoryError::Lock { mib, source })?;
    GuestRegionMmap::new(mapping, GuestAddress(start)).ok_or(MemoryError::Regions)
}

fn advise(mapping: &MmapRegion, advice: Advice) -> rustix::io::Result<()> {
    // SAFETY: the range is one whole mapping of ours, and neither piece of advice used here changes its contents.
    unsafe { madvise(mapping.as_ptr().cast(), mapping.size(), advice) }
}

/// What the host could give without pushing anybody else out. Asking first matters: locking more than there is
/// does not fail, it wakes the OOM killer.
fn available_mib() -> Result<u64, MemoryError> {
    let text = fs::read_to_string("/proc/meminfo").map_err(MemoryError::Meminfo)?;
    available_kib(&text).map(|kib| kib / 1024).ok_or_else(|| {
        MemoryError::Meminfo(io::Error::new(io::ErrorKind::InvalidData, "no MemAvailable line"))
    })
}

fn available_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_host_has_is_refused_with_both_numbers() {
        let error = build(1 << 30).unwrap_err();
        assert!(
            matches!(error, MemoryError::TooLittle { needed_mib, .. } if needed_mib == 1 << 30),
            "{error}"
        );
    }

    #[test]
    fn clearing_leaves_nothing_of_what_was_written() {
        let memory =
            GuestMemory::from_ranges(&[(GuestAddress(0), 3 << 20), (GuestAddress(1 << 32), 5000)]).unwrap();
        let places = [0, (3 << 20) - 1, 1 << 32, (1 << 32) + 4999];
        for place in places {
            memory.write_obj(7u8, GuestAddress(place)).unwrap();
        }
        clear(&memory).unwrap();
        for place in places {
            assert_eq!(memory.read_obj::<u8>(GuestAddress(place)).unwrap(), 0, "{place:#x}");
        }
    }

    #[test]
    fn meminfo_is_read_or_found_to_say_nothing() {
        assert_eq!(available_kib("MemTotal: 9 kB\nMemAvailable:    4096 kB\n"), Some(4096));
        assert_eq!(available_kib("MemTotal: 9 kB\n"), None);
    }
}
