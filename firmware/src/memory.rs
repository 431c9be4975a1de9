//! Physical memory, as far as it can be looked at.

use core::fmt;

use crate::start_info::StartInfo;

/// Most entries of a memory map that are looked at; PCs have about a dozen.
pub const MAP_LIMIT: u32 = 128;
/// Bytes of one entry in memory.
const ENTRY_BYTES: usize = 24;

/// Reads what lies at a physical address.
pub trait PhysicalMemory {
    /// `length` bytes from `address` on; none where they are not all within reach.
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]>;
}

/// What a range of addresses is for (ACPI 6.5, table 15.5: address range types).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ram,
    Reserved,
    AcpiReclaimable,
    AcpiNvs,
    Unusable,
    Disabled,
    Persistent,
    Unknown(u32),
}

impl Kind {
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Ram,
            2 => Self::Reserved,
            3 => Self::AcpiReclaimable,
            4 => Self::AcpiNvs,
            5 => Self::Unusable,
            6 => Self::Disabled,
            7 => Self::Persistent,
            other => Self::Unknown(other),
        }
    }
}

impl Kind {
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Ram => 1,
            Self::Reserved => 2,
            Self::AcpiReclaimable => 3,
            Self::AcpiNvs => 4,
            Self::Unusable => 5,
            Self::Disabled => 6,
            Self::Persistent => 7,
            Self::Unknown(number) => number,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ram => out.write_str("RAM"),
            Self::Reserved => out.write_str("reserved"),
            Self::AcpiReclaimable => out.write_str("ACPI tables"),
            Self::AcpiNvs => out.write_str("ACPI non-volatile"),
            Self::Unusable => out.write_str("unusable"),
            Self::Disabled => out.write_str("disabled"),
            Self::Persistent => out.write_str("persistent"),
            Self::Unknown(number) => write!(out, "type {number}"),
        }
    }
}

/// One range of the memory map (`struct hvm_memmap_table_entry`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First byte's physical address.
    pub start: u64,
    pub bytes: u64,
    pub kind: Kind,
}

impl Range {
    fn parse(entry: &[u8]) -> Option<Self> {
        let (start, rest) = entry.split_first_chunk()?;
        let (bytes, rest) = rest.split_first_chunk()?;
        let (kind, _reserved) = rest.split_first_chunk()?;
        let kind = Kind::from_number(u32::from_le_bytes(*kind));
        Some(Self { start: u64::from_le_bytes(*start), bytes: u64::from_le_bytes(*bytes), kind })
    }

    /// Its last byte's address; a range that claims to go beyond the last address ends there.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.start.saturating_add(self.bytes.saturating_sub(1))
    }
}

/// The memory map that the VMM handed over, in its order.
#[derive(Debug, Clone, Copy)]
pub struct Map<'a> {
    entries: &'a [u8],
}

impl<'a> Map<'a> {
    /// None where there is none, or it is out of reach. Of a map beyond [`MAP_LIMIT`] the first entries count.
    pub fn find(info: &StartInfo, memory: &'a impl PhysicalMemory) -> Option<Self> {
        let (address, entries) = info.memory_map?;
        let length = entries.min(MAP_LIMIT) as usize * ENTRY_BYTES;
        memory.bytes(address, length).map(|entries| Self { entries })
    }

    /// Its ranges; entries left empty are none.
    pub fn ranges(&self) -> impl Iterator<Item = Range> + use<'a> {
        self.entries.chunks_exact(ENTRY_BYTES).filter_map(Range::parse).filter(|range| range.bytes > 0)
    }
}

/// The text at `address` up to its NUL, at most `limit` bytes of it; none where it is out of reach.
pub fn text(memory: &impl PhysicalMemory, address: u64, limit: usize) -> Option<&[u8]> {
    let bytes = memory.bytes(address, limit)?;
    bytes.split(|&byte| byte == 0).next()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Memory from address 0 on.
    pub(crate) struct Ram(pub(crate) Vec<u8>);

    impl PhysicalMemory for Ram {
        fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
            let start = usize::try_from(address).ok()?;
            self.0.get(start..start.checked_add(length)?)
        }
    }

    pub(crate) fn entry(start: u64, bytes: u64, kind: u32) -> Vec<u8> {
        let mut entry = [start.to_le_bytes(), bytes.to_le_bytes()].concat();
        entry.extend(kind.to_le_bytes());
        entry.extend([0; 4]);
        entry
    }

    fn info(memory_map: Option<(u64, u32)>) -> StartInfo {
        StartInfo { version: 1, modules: 0, command_line: None, rsdp: None, memory_map }
    }

    #[test]
    fn ranges_are_read_in_order() {
        let ram =
            Ram([entry(0, 0x9fc00, 1), entry(0xf0000, 0x10000, 2), entry(1 << 20, 1 << 26, 1)].concat());
        let map = Map::find(&info(Some((0, 3))), &ram).unwrap();
        let kinds: Vec<_> = map.ranges().map(|range| range.kind).collect();
        assert_eq!(kinds, [Kind::Ram, Kind::Reserved, Kind::Ram]);
        assert_eq!(map.ranges().last().unwrap().last(), (1 << 20) + (1 << 26) - 1);
    }

    #[test]
    fn entries_that_were_left_empty_are_no_ranges() {
        let ram = Ram([entry(0, 0, 0), entry(0, 4096, 1)].concat());
        let map = Map::find(&info(Some((0, 2))), &ram).unwrap();
        assert_eq!(map.ranges().count(), 1);
    }

    #[test]
    fn a_map_that_is_absent_or_out_of_reach_is_none() {
        let ram = Ram(entry(0, 1, 1));
        assert!(Map::find(&info(None), &ram).is_none());
        assert!(Map::find(&info(Some((1, 1))), &ram).is_none());
        assert!(Map::find(&info(Some((u64::MAX, u32::MAX))), &ram).is_none());
    }

    #[test]
    fn ends_do_not_overflow() {
        let ram = Ram([entry(u64::MAX, u64::MAX, 1), entry(5, u64::MAX, 1), entry(7, 0, 9)].concat());
        let map = Map::find(&info(Some((0, 3))), &ram).unwrap();
        assert!(map.ranges().all(|range| range.last() >= range.start));
    }

    #[test]
    fn a_text_ends_with_its_nul_or_at_its_limit() {
        let ram = Ram(b"hello\0world".to_vec());
        assert_eq!(text(&ram, 0, 11), Some(b"hello".as_slice()));
        assert_eq!(text(&ram, 6, 3), Some(b"wor".as_slice()));
        assert_eq!(text(&ram, 6, 6), None);
    }

    proptest! {
        #[test]
        fn any_map_is_read_without_a_panic(bytes: Vec<u8>, address: u64, entries: u32) {
            let ram = Ram(bytes);
            for address in [address, address % 64] {
                if let Some(map) = Map::find(&info(Some((address, entries))), &ram) {
                    prop_assert!(map.ranges().count() <= MAP_LIMIT as usize);
                }
            }
        }
    }
}
