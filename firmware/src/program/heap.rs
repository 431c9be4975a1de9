//! Memory to allocate from: a fixed piece of the firmware's own. A boot that wants more ends with a panic that says so.

use core::mem::MaybeUninit;
use core::ptr::addr_of_mut;

use linked_list_allocator::LockedHeap;

/// A disk's cache takes 4 MiB of it, its file systems up to 6.
const HEAP_BYTES: usize = 13 << 20;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

static mut MEMORY: [MaybeUninit<u8>; HEAP_BYTES] = [MaybeUninit::uninit(); HEAP_BYTES];

/// To be called once, before anything is allocated.
pub(crate) fn begin() {
    // SAFETY: nobody else ever names this memory, and it is called once.
    unsafe { HEAP.lock().init(addr_of_mut!(MEMORY).cast(), HEAP_BYTES) };
}
