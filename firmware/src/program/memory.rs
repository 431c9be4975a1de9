//! Memory by its physical addresses, which `entry.s` has mapped to themselves.

use core::arch::x86_64::__cpuid;
use core::ptr::{addr_of, addr_of_mut};
use core::slice;

use sublet_firmware::load::{Ram, Room, TABLES_BYTES};
use sublet_firmware::memory::PhysicalMemory;

/// Everything that is loaded is below: what a kernel is told of it has 32 bits.
const LOAD_END: u64 = 1 << 32;
/// The first byte that is not mapped, on a CPU with pages of 1 GiB and on one without.
const MAPPED_END: u64 = 1 << 39;
const MAPPED_END_WITHOUT: u64 = 1 << 32;
/// Where a CPU says whether it has them (AMD APM volume 3, appendix E).
const LEAF_EXTENDED_FEATURES: u32 = 0x8000_0001;
const FEATURES_EDX_PAGES_1_GIB: u32 = 1 << 26;

/// Aligned as a page is.
#[repr(C, align(4096))]
struct Tables([u8; TABLES_BYTES]);

/// What a kernel finds when it starts.
static mut TABLES: Tables = Tables([0; TABLES_BYTES]);

unsafe extern "C" {
    /// In `link.ld`: the firmware's first byte, and the first after it.
    static image_start: u8;
    static image_end: u8;
}

/// What the firmware takes of memory.
pub(crate) fn room() -> Room {
    let firmware = addr_of!(image_start) as u64..addr_of!(image_end) as u64;
    Room { firmware, tables: addr_of_mut!(TABLES) as u64 }
}

pub(crate) struct Mapped;

/// Whether all of a range is where things are loaded, and none of it at 0.
fn is_low(start: u64, length: usize) -> bool {
    start != 0 && start.checked_add(length as u64).is_some_and(|end| end <= LOAD_END)
}

/// The first address that is not mapped.
pub(super) fn mapped_end() -> u64 {
    let has_large_pages = __cpuid(LEAF_EXTENDED_FEATURES).edx & FEATURES_EDX_PAGES_1_GIB != 0;
    if has_large_pages { MAPPED_END } else { MAPPED_END_WITHOUT }
}

impl PhysicalMemory for Mapped {
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        let mapped = length > 0 && is_low(address, length);
        // SAFETY: `entry.s` has mapped all of the range, it does not begin at 0, and only this one CPU runs,
        // which looks at nothing but what the VMM left, and writes to nothing of it before it is done with that.
        // Addresses with nothing behind them read as all ones.
        mapped.then(|| unsafe { slice::from_raw_parts(address as *const u8, length) })
    }
}

impl Ram for Mapped {
    fn region(&mut self, start: u64, bytes: u64) -> Option<&mut [u8]> {
        let length = usize::try_from(bytes).ok()?;
        let (room, end) = (room(), start.checked_add(bytes)?);
        let is_tables = start >= room.tables && end <= room.tables + TABLES_BYTES as u64;
        let is_ours = start < room.firmware.end && end > room.firmware.start;
        let usable = is_low(start, length) && (is_tables || !is_ours);
        // SAFETY: `entry.s` has mapped all of the range, and it does not begin at 0. It is the tables', which nothing
        // else names, or outside the firmware, where nothing of it lies; the borrow of `self` keeps two apart.
        usable.then(|| unsafe { slice::from_raw_parts_mut(start as *mut u8, length) })
    }
}
