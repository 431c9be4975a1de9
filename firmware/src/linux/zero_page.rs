//! Linux's boot parameters (Documentation/arch/x86/zero-page.rst): what a kernel finds when it starts, and what the
//! firmware finds where a VMM started it as if it were a kernel.

use alloc::vec::Vec;

use super::header::{Header, OFFSET};
use crate::memory::{Kind, PhysicalMemory, Range};

pub const BYTES: usize = 4096;

const RSDP: usize = 0x070;
const MAP_ENTRIES: usize = 0x1e8;
const BOOT_FLAG: usize = 0x1fe;
const LOADER: usize = 0x210;
const INITRD: usize = 0x218;
const INITRD_BYTES: usize = 0x21c;
const COMMAND_LINE: usize = 0x228;
const MAP: usize = 0x2d0;
const MAP_ENTRY_BYTES: usize = 20;
/// Entries that there is room for.
const MAP_LIMIT: usize = 128;
const BOOT_FLAG_VALUE: [u8; 2] = [0x55, 0xaa];
/// What a boot loader without an assigned number calls itself.
const LOADER_UNDEFINED: u8 = 0xff;

/// What a kernel is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters<'a> {
    pub header: &'a Header,
    pub map: &'a [Range],
    pub rsdp: Option<u64>,
    /// Where the command line is.
    pub command_line: u32,
    pub initrd: u32,
    pub initrd_bytes: u32,
}

/// The page as a kernel takes it.
#[must_use]
pub fn write(parameters: &Parameters<'_>) -> [u8; BYTES] {
    let mut page = [0; BYTES];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(OFFSET, &parameters.header.raw);
    put(RSDP, &parameters.rsdp.unwrap_or(0).to_le_bytes());
    put(LOADER, &[LOADER_UNDEFINED]);
    put(INITRD, &parameters.initrd.to_le_bytes());
    put(INITRD_BYTES, &parameters.initrd_bytes.to_le_bytes());
    put(COMMAND_LINE, &parameters.command_line.to_le_bytes());
    let map = &parameters.map[..parameters.map.len().min(MAP_LIMIT)];
    put(MAP_ENTRIES, &[map.len() as u8]);
    for (number, range) in map.iter().enumerate() {
        let at = MAP + number * MAP_ENTRY_BYTES;
        put(at, &range.start.to_le_bytes());
        put(at + 8, &range.bytes.to_le_bytes());
        put(at + 16, &range.kind.number().to_le_bytes());
    }
    page
}

/// What a VMM says in its page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub rsdp: Option<u64>,
    pub command_line: Option<u64>,
    pub map: Vec<Range>,
}

/// Reads the page at `address`; none where no such page is there.
pub fn read(memory: &impl PhysicalMemory, address: u64) -> Option<Told> {
    let page: &[u8; BYTES] = memory.bytes(address, BYTES)?.try_into().ok()?;
    let number = |at: usize| page[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if page[BOOT_FLAG..BOOT_FLAG + 2] != BOOT_FLAG_VALUE {
        return None;
    }
    let entries = usize::from(page[MAP_ENTRIES]).min(MAP_LIMIT);
    let entries = page[MAP..].chunks_exact(MAP_ENTRY_BYTES).take(entries);
    let range = |entry: &[u8]| {
        let (start, rest) = entry.split_first_chunk()?;
        let (bytes, kind) = rest.split_first_chunk()?;
        let kind = Kind::from_number(u32::from_le_bytes(*kind.first_chunk()?));
        Some(Range { start: u64::from_le_bytes(*start), bytes: u64::from_le_bytes(*bytes), kind })
    };
    let map = entries.filter_map(range).filter(|range| range.bytes > 0).collect();
    let some = |address: u64| Some(address).filter(|address| *address != 0);
    Some(Told {
        rsdp: some(number(RSDP)),
        command_line: some(number(COMMAND_LINE) & u64::from(u32::MAX)),
        map,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::linux::header::tests::start;
    use crate::memory::tests::Ram;

    #[test]
    fn what_is_written_is_what_a_kernel_reads() {
        let header = Header::parse(&start(4096), 1 << 20).unwrap();
        let map = [
            Range { start: 0, bytes: 0x9fc00, kind: Kind::Ram },
            Range { start: 1 << 32, bytes: 1 << 30, kind: Kind::Reserved },
        ];
        let parameters = Parameters {
            header: &header,
            map: &map,
            rsdp: Some(0xe0000),
            command_line: 0x1234,
            initrd: 0x5000,
            initrd_bytes: 77,
        };
        let mut page = write(&parameters).to_vec();
        assert_eq!(page[0x202..0x206], *b"HdrS");
        assert_eq!((page[0x210], page[0x218..0x220].to_vec()), (0xff, vec![0, 0x50, 0, 0, 77, 0, 0, 0]));
        page[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        let told = Told { rsdp: Some(0xe0000), command_line: Some(0x1234), map: map.to_vec() };
        assert_eq!(read(&Ram(page), 0), Some(told));
    }

    #[test]
    fn a_map_of_too_many_entries_is_cut() {
        let header = Header::parse(&start(4096), 1 << 20).unwrap();
        let map = vec![Range { start: 0, bytes: 1, kind: Kind::Ram }; 300];
        let page = write(&Parameters {
            header: &header,
            map: &map,
            rsdp: None,
            command_line: 0,
            initrd: 0,
            initrd_bytes: 0,
        });
        assert_eq!(page[MAP_ENTRIES], 128);
    }

    proptest! {
        #[test]
        fn any_page_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), BYTES), flag: bool) {
            let mut bytes = bytes;
            if flag {
                bytes[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&BOOT_FLAG_VALUE);
            }
            let _ = read(&Ram(bytes), 0);
        }
    }
}
