//! The guest's memory: set aside in full before the machine counts as prepared.
//!
//! Every page is there, locked, and on the NUMA nodes of the guest's CPUs when [`build`] returns. Nothing is
//! overcommitted: a host that does not have the memory is told so, rather than finding out while the guest runs.

mod available;
mod mapping;
mod nodes;
mod prefault;

use std::sync::Arc;

use rustix::mm::mlock;
use thiserror::Error;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap,
};

use self::{
    available::{Available, AvailableError},
    mapping::MapError,
    nodes::{BindError, Nodes},
    prefault::PrefaultError,
};
use crate::arch::layout;

/// The guest's whole physical memory.
pub type GuestMemory = GuestMemoryMmap<()>;

const MIB: u64 = 1 << 20;
/// Bytes written at once when memory is cleared.
const CLEARED_AT_ONCE: usize = 1 << 20;

#[derive(Debug, Error)]
pub enum MemoryError {
    #[error("cannot tell what memory the host has left")]
    Available(#[source] AvailableError),
    #[error("the guest needs {needed_mib} MiB of memory, the host has {available} left")]
    TooLittle { needed_mib: u64, available: Available },
    #[error("cannot map {mib} MiB of memory")]
    Map { mib: u64, source: MapError },
    #[error("cannot have the memory where the guest's CPUs are")]
    Bind(#[source] BindError),
    #[error("cannot have all {mib} MiB of memory at once")]
    Prefault { mib: u64, source: PrefaultError },
    #[error("cannot lock {mib} MiB of memory; RLIMIT_MEMLOCK or the cgroup's limit may be too small")]
    Lock { mib: u64, source: rustix::io::Errno },
    #[error("the regions of the guest's memory do not fit together")]
    Regions,
}

/// What the host's kernel builds the memory of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// Whatever it has; large ones where it can.
    Any,
    /// Pages of 2 MiB that the host has reserved (hugetlb), and no others.
    Huge,
}

/// Sets aside `mib` of memory, near these host CPUs, on which it is also made ready.
pub fn build(mib: u64, pages: Pages, cpus: &[u32]) -> Result<Arc<GuestMemory>, MemoryError> {
    let nodes = Nodes::of_cpus(cpus);
    let available = Available::now(pages, &nodes).map_err(MemoryError::Available)?;
    if available.mib < mib {
        return Err(MemoryError::TooLittle { needed_mib: mib, available });
    }
    let regions = layout::memory_ranges(mib * MIB)
        .map(|(start, bytes)| region(start, bytes, pages, &nodes))
        .collect::<Result<Vec<_>, _>>()?;
    prefault::prefault(&regions, cpus).map_err(|source| MemoryError::Prefault { mib, source })?;
    regions.iter().try_for_each(lock)?;
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

fn region(start: u64, bytes: u64, pages: Pages, nodes: &Nodes) -> Result<GuestRegionMmap, MemoryError> {
    let mapping = mapping::map(bytes as usize, pages)
        .map_err(|source| MemoryError::Map { mib: bytes / MIB, source })?;
    nodes.bind(&mapping).map_err(MemoryError::Bind)?;
    GuestRegionMmap::new(mapping, GuestAddress(start)).ok_or(MemoryError::Regions)
}

/// Has the kernel keep every page where it is. On a kernel that cannot prefault it brings them in as well.
fn lock(region: &GuestRegionMmap) -> Result<(), MemoryError> {
    // SAFETY: the range is a whole mapping of ours; locking changes no byte of it.
    unsafe { mlock(region.as_ptr().cast(), region.size()) }
        .map_err(|source| MemoryError::Lock { mib: region.len() / MIB, source })
}

#[cfg(test)]
mod tests {
    use std::{io, os::fd::AsRawFd};

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn more_than_the_host_has_is_refused_with_both_numbers() {
        let error = build(1 << 30, Pages::Any, &[0]).unwrap_err();
        assert!(
            matches!(error, MemoryError::TooLittle { needed_mib, .. } if needed_mib == 1 << 30),
            "{error}"
        );
    }

    #[test]
    fn huge_pages_that_the_host_does_not_have_are_refused_with_what_to_do() {
        let error = build(1 << 30, Pages::Huge, &[0]).unwrap_err().to_string();
        assert!(error.contains("in huge pages") && error.contains("vm.nr_hugepages"), "{error}");
    }

    /// Whether each page from `start` is in memory (mincore(2)).
    fn pages_there(start: *const u8, bytes: usize) -> Vec<bool> {
        let mut there = vec![0u8; bytes / 4096];
        // SAFETY: the kernel writes a byte a page of the range into the vector, which is as long.
        let result = unsafe { libc::mincore(start.cast_mut().cast(), bytes, there.as_mut_ptr()) };
        assert_eq!(result, 0);
        there.into_iter().map(|byte| byte & 1 == 1).collect()
    }

    #[test]
    fn every_page_is_there_before_it_is_used_and_lies_as_large_pages_want() {
        let regions = [region(0, 65 << 20, Pages::Any, &Nodes::of_cpus(&[0])).unwrap()];
        prefault::prefault(&regions, &[0]).unwrap();
        assert_eq!(regions[0].as_ptr() as usize % (2 << 20), 0);
        assert!(pages_there(regions[0].as_ptr(), regions[0].size()).into_iter().all(|there| there));
    }

    #[test]
    fn on_either_side_of_the_memory_there_is_nothing_to_reach() {
        let mapping = mapping::map(3 << 20, Pages::Any).unwrap();
        let (start, end) = (mapping.as_ptr(), mapping.as_ptr().wrapping_add(mapping.size()));
        let (_reader, writer) = rustix::pipe::pipe().unwrap();
        let can_be_read = |at: *const u8| {
            // SAFETY: asks the kernel to read one byte there; what cannot be read it refuses.
            let written = unsafe { libc::write(writer.as_raw_fd(), at.cast(), 1) };
            written == 1 || Errno::from_io_error(&io::Error::last_os_error()) != Some(Errno::FAULT)
        };
        assert!(can_be_read(start) && can_be_read(end.wrapping_sub(1)));
        assert!(!can_be_read(start.wrapping_sub(1)) && !can_be_read(end));
        assert!(!can_be_read(start.wrapping_sub(2 << 20)) && !can_be_read(end.wrapping_add((1 << 20) - 1)));
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
}
