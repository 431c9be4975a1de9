//! Every address in the guest's physical memory and port space, with its reason.
//!
//! ```text
//! 0            640K  896K  1M                    3G        3.5G   3.5G+1M      4G
//! ├─ boot data ─┤     ├ACPI┤── memory ───────────┤─ BARs ───┤─ ECAM ─┤─ APICs ─┤── memory ─▶
//! ```

/// Linux's boot parameters, the "zero page". Low, where no kernel is loaded; Linux copies them early.
pub const ZERO_PAGE_START: u64 = 0x7000;
/// Top of the stack that the boot CPU starts with; 4 KiB below the page tables, used for a few instructions.
pub const BOOT_STACK_POINTER: u64 = 0x8ff0;
/// Page tables that the boot CPU starts with: one PML4, one PDPT and four page directories map the first 4 GiB.
pub const PAGE_TABLES_START: u64 = 0x9000;
/// The boot CPU's descriptor table. After the six pages of page tables.
pub const GDT_START: u64 = 0xf000;
/// The kernel's command line.
pub const COMMAND_LINE_START: u64 = 0x2_0000;
/// Longest command line, without its NUL: Linux's COMMAND_LINE_SIZE is 2048 on x86.
pub const COMMAND_LINE_LIMIT: usize = 2047;
/// Conventional memory ends below the place where PCs keep the extended BIOS data area.
pub const LOW_MEMORY_END: u64 = 0x9_fc00;
/// ACPI tables, the root pointer first: in the BIOS area, where an operating system that is not told looks for it
/// (ACPI 6.5, 5.2.5.1).
pub const ACPI_START: u64 = 0xe_0000;
/// The last 16 bytes of the BIOS area are the reset vector's.
pub const ACPI_END: u64 = RESET_VECTOR;
/// Where an operating system jumps, in real mode, to have the BIOS reset the machine. Linux does that on machines
/// of hardware-reduced ACPI without EFI, rather than write the reset register.
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// Kernels and initrds are loaded above the first MiB.
pub const HIGH_MEMORY_START: u64 = 0x10_0000;

/// Memory below 4 GiB ends here, so that 1 GiB is left for devices.
pub const LOW_RAM_LIMIT: u64 = 3 << 30;
/// Memory that does not fit below goes on here.
pub const HIGH_RAM_START: u64 = 4 << 30;

/// Base address registers of PCI functions, one [`PCI_BAR_SIZE`] a slot.
pub const PCI_BARS_START: u64 = 0xc000_0000;
/// End of the window that the host bridge passes to PCI.
pub const PCI_BARS_END: u64 = 0xe000_0000;
/// Room of one function: its registers, its MSI-X table, its pending bits.
pub const PCI_BAR_SIZE: u64 = 0x8000;
/// PCI configuration space in memory (ECAM): 4 KiB a function, 1 MiB for the one bus.
pub const PCI_ECAM_START: u64 = 0xe000_0000;
pub const PCI_ECAM_SIZE: u64 = 1 << 20;
/// Slots of the one bus.
pub const PCI_SLOTS: usize = 32;

/// Where PCs have their I/O APIC; KVM's is there.
pub const IO_APIC_START: u32 = 0xfec0_0000;
/// Where PCs have their local APICs; KVM's are there.
pub const LOCAL_APIC_START: u32 = 0xfee0_0000;
/// One page that KVM needs on Intel CPUs without unrestricted guests; below the place of a BIOS.
pub const KVM_IDENTITY_MAP_START: u64 = 0xfffb_c000;
/// Three pages for the same purpose.
pub const KVM_TSS_START: u64 = 0xfffb_d000;

/// Keyboard controller; only its reset line is there.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// Number and value of a register of the PC's clock.
pub const RTC_INDEX_PORT: u16 = 0x70;
pub const RTC_VALUE_PORT: u16 = 0x71;
/// First serial port and its interrupt, as on any PC.
pub const COM1_PORT: u16 = 0x3f8;
pub const COM1_PORTS: u16 = 8;
pub const COM1_GSI: u32 = 4;
/// Interrupt that tells ACPI's generic event device of a pressed power button.
pub const POWER_BUTTON_GSI: u32 = 5;
/// pvpanic, where QEMU has it.
pub const PVPANIC_PORT: u16 = 0x505;
/// ACPI sleep control and status registers (ACPI 6.5, 4.8.3.7).
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// PCI configuration space by ports (PCI Local Bus 3.0, 3.2.2.3.2).
pub const PCI_CONFIG_ADDRESS_PORT: u16 = 0xcf8;
pub const PCI_CONFIG_DATA_PORT: u16 = 0xcfc;
/// Reset control register of Intel's chipsets; lies within the ports above.
pub const RESET_PORT: u16 = 0xcf9;

/// Where `bytes` of memory are: start and length of each piece, in order.
pub fn memory_ranges(bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    let low = bytes.min(LOW_RAM_LIMIT);
    [(0, low), (HIGH_RAM_START, bytes - low)].into_iter().filter(|(_, length)| *length > 0)
}

/// Where the registers of the PCI function in `slot` are.
pub fn bar_start(slot: usize) -> u64 {
    PCI_BARS_START + slot as u64 * PCI_BAR_SIZE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn boot_data_does_not_overlap() {
        let pieces = [
            (ZERO_PAGE_START, 0x1000),
            (BOOT_STACK_POINTER - 0xff0, 0x1000),
            (PAGE_TABLES_START, 6 * 0x1000),
            (GDT_START, 0x1000),
            (COMMAND_LINE_START, COMMAND_LINE_LIMIT as u64 + 1),
            (ACPI_START, ACPI_END - ACPI_START),
        ];
        for pair in pieces.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
        const { assert!(COMMAND_LINE_START + (COMMAND_LINE_LIMIT as u64) < LOW_MEMORY_END) };
    }

    #[test]
    fn devices_lie_between_the_two_pieces_of_memory() {
        assert!(bar_start(PCI_SLOTS) <= PCI_BARS_END);
        const { assert!(LOW_RAM_LIMIT <= PCI_BARS_START && PCI_BARS_END <= PCI_ECAM_START) };
        const { assert!(PCI_ECAM_START + PCI_ECAM_SIZE <= IO_APIC_START as u64) };
        const { assert!(KVM_TSS_START + 3 * 4096 <= HIGH_RAM_START) };
    }

    proptest! {
        #[test]
        fn memory_is_all_there_and_none_of_it_where_devices_are(mib in 32u64..=256 * 1024) {
            let ranges: Vec<_> = memory_ranges(mib << 20).collect();
            prop_assert_eq!(ranges.iter().map(|range| range.1).sum::<u64>(), mib << 20);
            for (start, length) in ranges {
                prop_assert!(start + length <= LOW_RAM_LIMIT || start >= HIGH_RAM_START);
            }
        }
    }
}
