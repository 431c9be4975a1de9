//! Model-specific registers that a vCPU starts with (Intel SDM volume 4).

use kvm_bindings::{Msrs, kvm_msr_entry};

const IA32_TSC: u32 = 0x10;
const IA32_MISC_ENABLE: u32 = 0x1a0;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;

const MISC_ENABLE_FAST_STRINGS: u64 = 1;
const MTRR_ENABLE: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;

/// What firmware would have set; everything else is as KVM resets it.
pub fn at_start() -> Option<Msrs> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    Msrs::from_entries(&[
        entry(IA32_TSC, 0),
        entry(IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRINGS),
        entry(IA32_MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK),
    ])
    .ok()
}
