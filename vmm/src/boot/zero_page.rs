//! Linux's boot parameters (Documentation/arch/x86/zero-page.rst): where kernel, initrd, command line and ACPI
//! tables are, and what memory there is.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion};

use super::kernel::Kernel;
use crate::{arch::layout, memory::GuestMemory};

/// Kinds of memory in the map that BIOSes give by INT 15h, E820h (ACPI 6.5, 15.1).
const MEMORY: u32 = 1;
const RESERVED: u32 = 2;

/// Something in memory below 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub start: u32,
    pub bytes: u32,
}

pub fn write(
    memory: &GuestMemory,
    kernel: &Kernel,
    command_line_bytes: u32,
    initrd: Option<Placed>,
) -> Result<(), GuestMemoryError> {
    let mut params =
        boot_params { hdr: kernel.header, acpi_rsdp_addr: layout::ACPI_START, ..Default::default() };
    params.hdr.cmd_line_ptr = layout::COMMAND_LINE_START as u32;
    params.hdr.cmdline_size = command_line_bytes;
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = initrd.start;
        params.hdr.ramdisk_size = initrd.bytes;
    }
    let map = memory_map(memory);
    params.e820_entries = map.len() as u8;
    params.e820_table[..map.len()].copy_from_slice(&map);
    memory.write_obj(params, GuestAddress(layout::ZERO_PAGE_START))
}

/// What of the address space is memory, and what is taken.
fn memory_map(memory: &GuestMemory) -> Vec<boot_e820_entry> {
    let entry = |start: u64, end: u64, kind| boot_e820_entry { addr: start, size: end - start, r#type: kind };
    let mut map = vec![
        entry(0, layout::LOW_MEMORY_END, MEMORY),
        entry(layout::LOW_MEMORY_END, layout::HIGH_MEMORY_START, RESERVED),
        entry(layout::PCI_ECAM_START, layout::PCI_ECAM_START + layout::PCI_ECAM_SIZE, RESERVED),
    ];
    map.extend(memory.iter().map(|region| {
        let start = region.start_addr().0;
        entry(start.max(layout::HIGH_MEMORY_START), start + region.len(), MEMORY)
    }));
    map.sort_by_key(|entry| entry.addr);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_is_in_order_and_overlaps_nowhere() {
        let ranges = [(GuestAddress(0), 64 << 20), (GuestAddress(layout::HIGH_RAM_START), 1 << 20)];
        let map = memory_map(&GuestMemory::from_ranges(&ranges).unwrap());
        for pair in map.windows(2) {
            assert!({ pair[0].addr } + { pair[0].size } <= { pair[1].addr });
        }
        let usable: u64 = map.iter().filter(|entry| { entry.r#type } == MEMORY).map(|entry| entry.size).sum();
        let below_1_mib = layout::LOW_MEMORY_END;
        assert_eq!(usable, below_1_mib + (63 << 20) + (1 << 20));
    }
}
