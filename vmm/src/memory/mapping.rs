//! A piece of the guest's memory in this process: aligned as large pages are, between two ranges that nobody can
//! reach.

use std::ptr;

use rustix::{
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous},
};
use thiserror::Error;
use vm_memory::{MmapRegion, mmap::MmapRegionError};

use super::Pages;

/// A large page of x86-64. KVM maps one to the guest at once only where it is aligned here as it is in the guest.
const LARGE_PAGE: usize = 2 << 20;

#[derive(Debug, Error)]
pub enum MapError {
    #[error("there is no room for it among this process's addresses")]
    Reserve(#[source] Errno),
    #[error("the host's kernel does not give it")]
    Map(#[source] Errno),
    #[error("it cannot be kept out of core dumps")]
    KeepOut(#[source] Errno),
    #[error("the mapping cannot be used")]
    Region(#[source] MmapRegionError),
}

/// Maps `bytes` with at least a large page on either side that faults, so that no mistake at an end of the guest's
/// memory reaches anything else. It stays mapped as long as the process lives: the guest's memory ends with it.
pub(super) fn map(bytes: usize, pages: Pages) -> Result<MmapRegion, MapError> {
    let reserved = reserve(bytes + 3 * LARGE_PAGE).map_err(MapError::Reserve)?;
    let first = reserved.wrapping_add(LARGE_PAGE);
    let start = first.wrapping_add(first.align_offset(LARGE_PAGE));
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | of_pages(pages);
    // SAFETY: replaces a part of the range just reserved, which nothing refers to.
    unsafe { mmap_anonymous(start.cast(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags) }
        .map_err(MapError::Map)?;
    advise(start, bytes, Advice::LinuxDontDump).map_err(MapError::KeepOut)?;
    if pages == Pages::Any {
        // Large pages make the guest faster; a kernel built without them refuses, and the guest runs all the same.
        let _ = advise(start, bytes, Advice::LinuxHugepage);
    }
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: start and length are those of the mapping just made, which is never unmapped.
    unsafe { MmapRegion::build_raw(start, bytes, protection, flags.bits() as i32 | libc::MAP_ANONYMOUS) }
        .map_err(MapError::Region)
}

/// Addresses that nothing else will be mapped at, and no memory.
fn reserve(bytes: usize) -> Result<*mut u8, Errno> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping, where the kernel has room.
    unsafe { mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::empty(), flags) }.map(<*mut _>::cast)
}

/// Without MAP_NORESERVE, so that a host that does not overcommit accounts for it at once.
fn of_pages(pages: Pages) -> MapFlags {
    match pages {
        Pages::Any => MapFlags::empty(),
        Pages::Huge => MapFlags::HUGETLB | MapFlags::HUGE_2MB,
    }
}

fn advise(start: *mut u8, bytes: usize, advice: Advice) -> Result<(), Errno> {
    // SAFETY: the range is one whole mapping of ours, and neither piece of advice used here changes its contents.
    unsafe { madvise(start.cast(), bytes, advice) }
}
