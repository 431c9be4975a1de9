//! How long a boot takes, by the CPU's time stamp counter.

use core::arch::x86_64::{__cpuid, _rdtsc};
use core::fmt;

const LEAF_HYPERVISOR: u32 = 0x4000_0000;
/// The counter's frequency in kHz, where VMware, QEMU and Sublet's VMM tell it.
const LEAF_FREQUENCIES: u32 = 0x4000_0010;
const LEAF_FEATURES: u32 = 1;
const FEATURES_ECX_HYPERVISOR: u32 = 1 << 31;

pub(crate) fn now() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and it touches no memory.
    unsafe { _rdtsc() }
}

/// The time since a moment, as people read it; as ticks where nobody says how long they are.
pub(crate) struct Since(pub(crate) u64);

impl fmt::Display for Since {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ticks = now().wrapping_sub(self.0);
        match ticks_per_millisecond() {
            Some(rate) => write!(out, "{} us", u128::from(ticks) * 1000 / u128::from(rate)),
            None => write!(out, "{ticks} ticks"),
        }
    }
}

fn ticks_per_millisecond() -> Option<u32> {
    let is_guest = __cpuid(LEAF_FEATURES).ecx & FEATURES_ECX_HYPERVISOR != 0;
    let told = is_guest && __cpuid(LEAF_HYPERVISOR).eax >= LEAF_FREQUENCIES;
    told.then(|| __cpuid(LEAF_FREQUENCIES).eax).filter(|rate| *rate != 0)
}
