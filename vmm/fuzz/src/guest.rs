//! A guest's memory in the middle of a larger mapping: what is written beside it is seen.

use std::{ptr, slice, sync::Arc};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use sublet_vmm::memory::GuestMemory;
use vm_memory::{GuestAddress, GuestRegionMmap, MmapRegion};

/// Bytes before and after the guest's memory, and what they hold.
const MARGIN: usize = 16 * 1024;
const UNTOUCHED: u8 = 0xa5;

/// The memory, from guest address 0 on.
pub struct Guest {
    pub memory: Arc<GuestMemory>,
    start: *mut u8,
    bytes: usize,
}

impl Guest {
    /// Makes so many bytes of memory, whole pages, all zero.
    pub fn new(bytes: usize) -> Self {
        let whole = bytes + 2 * MARGIN;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping, at an address that the kernel chooses, takes nothing from anybody.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), whole, protection, flags) }.unwrap();
        let start: *mut u8 = start.cast();
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: both margins lie in the mapping just made, which nobody else has; so does what is between them, and the
        // region lives no longer than the mapping: `drop` sees to that.
        let region: MmapRegion = unsafe {
            ptr::write_bytes(start, UNTOUCHED, MARGIN);
            ptr::write_bytes(start.add(MARGIN + bytes), UNTOUCHED, MARGIN);
            MmapRegion::build_raw(start.add(MARGIN), bytes, protection, flags).unwrap()
        };
        let region = GuestRegionMmap::new(region, GuestAddress(0)).unwrap();
        let memory = Arc::new(GuestMemory::from_regions(vec![region]).unwrap());
        Self { memory, start, bytes }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Whether so many bytes from `address` on are memory.
    pub fn has(&self, address: u64, bytes: u64) -> bool {
        address.checked_add(bytes).is_some_and(|end| end <= self.bytes())
    }

    /// Panics if anything beside the memory has been written.
    pub fn check(&self) {
        for margin in [0, MARGIN + self.bytes] {
            // SAFETY: the margins are mapped for as long as `self` lives, no Rust reference to them lives longer than this
            // block, and whatever writes to them is the bug that is looked for.
            let margin = unsafe { slice::from_raw_parts(self.start.add(margin), MARGIN) };
            assert!(margin.iter().all(|byte| *byte == UNTOUCHED), "memory beside the guest's was written");
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        assert_eq!(Arc::strong_count(&self.memory), 1, "somebody still has the guest's memory in hand");
        // SAFETY: the mapping is the one that `new` made, and nothing refers to it any more: the memory's only owner goes
        // with `self`.
        unsafe { munmap(self.start.cast(), self.bytes + 2 * MARGIN) }.unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "memory beside the guest's was written")]
    fn a_byte_written_beside_the_memory_is_seen() {
        let guest = Guest::new(4096);
        // SAFETY: the byte after the memory is in the margin, which belongs to `guest`.
        unsafe { guest.start.add(MARGIN + 4096).write(0) };
        guest.check();
    }
}
