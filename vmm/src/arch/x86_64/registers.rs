//! The state in which a vCPU starts: 64-bit mode with the first 4 GiB mapped one to one, as Linux's 64-bit boot
//! protocol wants it (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use kvm_bindings::{kvm_fpu, kvm_lapic_state, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::layout;
use crate::memory::GuestMemory;

const CR0_PROTECTED_MODE: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER_LONG_MODE_ENABLE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set.
const RFLAGS_RESERVED: u64 = 1 << 1;

/// Selectors that the boot protocol fixes: __BOOT_CS and __BOOT_DS.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
/// Flat segments: present, ring 0, 4 GiB; 64-bit code, and data.
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;
const GDT: [u64; 4] = [0, 0, CODE_DESCRIPTOR, DATA_DESCRIPTOR];

const PAGE_PRESENT_WRITABLE: u64 = 0b11;
const PAGE_LARGE: u64 = 1 << 7;
const PAGE_SIZE: u64 = 0x1000;
const LARGE_PAGE_SIZE: u64 = 0x20_0000;
const ENTRIES: u64 = 512;
const MAPPED_GIB: u64 = 4;

/// Offsets of the local interrupt registers in the local APIC's page (Intel SDM volume 3, 11.4.1).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVERY_NMI: u32 = 0x4;
const DELIVERY_EXTERNAL: u32 = 0x7;

/// Where the boot CPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryPoint {
    pub address: u64,
}

/// General registers: RSI points to the boot parameters.
pub fn general(entry: EntryPoint) -> kvm_regs {
    kvm_regs {
        rip: entry.address,
        rsi: layout::ZERO_PAGE_START,
        rsp: layout::BOOT_STACK_POINTER,
        rbp: layout::BOOT_STACK_POINTER,
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    }
}

/// Turns the special registers after reset into those of 64-bit mode.
pub fn enter_long_mode(reset: kvm_sregs) -> kvm_sregs {
    let mut sregs = reset;
    sregs.gdt.base = layout::GDT_START;
    sregs.gdt.limit = size_of_val(&GDT) as u16 - 1;
    sregs.idt.limit = 0;
    sregs.cs = segment(CODE_SELECTOR, CODE_DESCRIPTOR);
    let data = segment(DATA_SELECTOR, DATA_DESCRIPTOR);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.cr3 = layout::PAGE_TABLES_START;
    sregs.cr4 |= CR4_PHYSICAL_ADDRESS_EXTENSION;
    sregs.cr0 |= CR0_PROTECTED_MODE | CR0_EXTENSION_TYPE | CR0_PAGING;
    sregs.efer |= EFER_LONG_MODE_ENABLE | EFER_LONG_MODE_ACTIVE;
    sregs
}

/// The floating point unit after FNINIT.
pub fn floating_point() -> kvm_fpu {
    kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() }
}

/// Local interrupt pins as on a PC: LINT0 takes the PIC's interrupts, LINT1 the NMI.
pub fn wire_local_interrupts(lapic: &mut kvm_lapic_state) {
    set_delivery(lapic, LVT_LINT0, DELIVERY_EXTERNAL);
    set_delivery(lapic, LVT_LINT1, DELIVERY_NMI);
}

/// Writes the descriptor table and the page tables that the registers point to.
pub fn write_tables(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    for (index, descriptor) in GDT.iter().enumerate() {
        memory.write_obj(*descriptor, GuestAddress(layout::GDT_START + index as u64 * 8))?;
    }
    let tables = |index: u64| layout::PAGE_TABLES_START + index * PAGE_SIZE;
    memory.write_obj(tables(1) | PAGE_PRESENT_WRITABLE, GuestAddress(tables(0)))?;
    for gib in 0..MAPPED_GIB {
        let directory = tables(2 + gib);
        memory.write_obj(directory | PAGE_PRESENT_WRITABLE, GuestAddress(tables(1) + gib * 8))?;
        let entries = (0..ENTRIES).flat_map(|entry| {
            let page = (gib * ENTRIES + entry) * LARGE_PAGE_SIZE;
            (page | PAGE_PRESENT_WRITABLE | PAGE_LARGE).to_le_bytes()
        });
        // At once: two thousand single writes would take longer than all else that a boot writes here.
        memory.write_slice(&entries.collect::<Vec<_>>(), GuestAddress(directory))?;
    }
    Ok(())
}

/// Unpacks a descriptor with base 0 into the form KVM takes (Intel SDM volume 3, 3.4.5).
fn segment(selector: u16, descriptor: u64) -> kvm_segment {
    let bit = |at: u32| (descriptor >> at & 1) as u8;
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: (descriptor >> 40 & 0xf) as u8,
        s: bit(44),
        dpl: (descriptor >> 45 & 0b11) as u8,
        present: bit(47),
        avl: bit(52),
        l: bit(53),
        db: bit(54),
        g: bit(55),
        ..Default::default()
    }
}

fn set_delivery(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let bytes = &mut lapic.regs[register..register + 4];
    let mut value = 0u32;
    for (at, byte) in bytes.iter().enumerate() {
        value |= u32::from(*byte as u8) << (8 * at);
    }
    value = (value & !0x700) | (mode << 8);
    for (byte, new) in bytes.iter_mut().zip(value.to_le_bytes()) {
        *byte = new as _;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_four_gib_are_mapped_one_to_one() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_tables(&memory).unwrap();
        let entry = |table: u64, index: u64| {
            memory.read_obj::<u64>(GuestAddress((table & !0xfff) + index * 8)).unwrap()
        };
        for address in [0, 0x1234_5678, 0xffff_ffff_u64] {
            let directories = entry(layout::PAGE_TABLES_START, address >> 39);
            let directory = entry(directories, address >> 30 & 511);
            let page = entry(directory, address >> 21 & 511);
            assert_eq!(page & !0x1f_ffff, address & !0x1f_ffff);
            assert_ne!(page & PAGE_LARGE, 0);
        }
    }

    #[test]
    fn code_runs_in_64_bit_mode() {
        let sregs = enter_long_mode(kvm_sregs::default());
        assert_eq!((sregs.cs.l, sregs.cs.db, sregs.cs.selector), (1, 0, CODE_SELECTOR));
        assert_eq!((sregs.ss.type_, sregs.ss.present), (3, 1));
        assert_ne!(sregs.efer & EFER_LONG_MODE_ACTIVE, 0);
    }

    #[test]
    fn local_interrupts_keep_their_other_bits() {
        let mut lapic = kvm_lapic_state::default();
        lapic.regs[LVT_LINT0] = 0x55;
        wire_local_interrupts(&mut lapic);
        assert_eq!(lapic.regs[LVT_LINT0], 0x55);
        assert_eq!(lapic.regs[LVT_LINT0 + 1], 7);
        assert_eq!(lapic.regs[LVT_LINT1 + 1], 4);
    }
}
