//! What a VMM says about the machine, whichever way it started the firmware.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use thiserror::Error;

use crate::linux::zero_page;
use crate::memory::{Kind, Map, PhysicalMemory, Range, text};
use crate::start_info::{BYTES, StartInfo, StartInfoError};

/// Most bytes of a command line that are taken.
const COMMAND_LINE_LIMIT: usize = 4096;

/// How a VMM started the firmware, and where what it has to say is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// By the PVH boot protocol, with the address of the start information.
    Pvh(u64),
    /// By Linux's 64-bit boot protocol, with the address of the zero page.
    Linux(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MachineError {
    #[error("{0}")]
    StartInfo(StartInfoError),
    #[error("there is no zero page at {0:#x}")]
    ZeroPage(u64),
    #[error("there is no memory map")]
    NoMap,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub entry: Entry,
    /// Printable; empty where there is none.
    pub command_line: String,
    /// Where ACPI's root pointer is.
    pub rsdp: Option<u64>,
    pub map: Vec<Range>,
}

impl Machine {
    pub fn find(memory: &impl PhysicalMemory, entry: Entry) -> Result<Self, MachineError> {
        let (command_line, rsdp, map) = match entry {
            Entry::Pvh(address) => {
                let bytes = memory.bytes(address, BYTES).ok_or(StartInfoError::TooShort(0));
                let info = bytes.and_then(StartInfo::parse).map_err(MachineError::StartInfo)?;
                let map = Map::find(&info, memory).map(|map| map.ranges().collect());
                (info.command_line, info.rsdp, map.unwrap_or_default())
            }
            Entry::Linux(address) => {
                let page = zero_page::read(memory, address).ok_or(MachineError::ZeroPage(address))?;
                (page.command_line, page.rsdp, page.map)
            }
        };
        if map.is_empty() {
            return Err(MachineError::NoMap);
        }
        let command_line = command_line.and_then(|address| text(memory, address, COMMAND_LINE_LIMIT));
        Ok(Self { entry, command_line: printable(command_line.unwrap_or_default()), rsdp, map })
    }

    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        let ram = self.map.iter().filter(|range| range.kind == Kind::Ram);
        ram.fold(0, |sum, range| sum.saturating_add(range.bytes))
    }
}

/// What is no printable ASCII becomes a question mark: it goes to a terminal, and to a kernel.
fn printable(bytes: &[u8]) -> String {
    let letter = |byte: &u8| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '?' };
    bytes.iter().map(letter).collect::<String>().trim().to_string()
}

impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.entry {
            Entry::Pvh(_) => "PVH",
            Entry::Linux(_) => "Linux's boot protocol",
        };
        write!(out, "started by {protocol}, with {} MiB of memory", self.ram_bytes() >> 20)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::tests::{Ram, entry};
    use crate::start_info::tests::structure;

    /// Start information at 0, the command line at 0x100, the memory map at 0x200.
    pub(crate) fn memory(command_line: &[u8], map: &[Vec<u8>]) -> Ram {
        let mut bytes = structure(1, 0x100, 0x200, map.len().try_into().unwrap());
        bytes.resize(0x100, 0);
        bytes.extend(command_line);
        bytes.resize(0x200, 0);
        bytes.extend(map.concat());
        bytes.resize(0x4000, 0);
        Ram(bytes)
    }

    #[test]
    fn what_a_vmm_says_by_pvh_is_taken() {
        let map = [entry(0, 0xa0000, 1), entry(0x10_0000, 0x3f0_0000, 1), entry(0xfffc_0000, 0x4_0000, 2)];
        let machine = Machine::find(&memory(b"console=ttyS0\0", &map), Entry::Pvh(0)).unwrap();
        assert_eq!((machine.command_line.as_str(), machine.rsdp), ("console=ttyS0", Some(0xe0000)));
        assert_eq!((machine.map.len(), machine.ram_bytes()), (3, 0x3fa_0000));
        assert_eq!(machine.to_string(), "started by PVH, with 63 MiB of memory");
    }

    #[test]
    fn a_command_line_cannot_send_control_characters_to_the_terminal() {
        let machine =
            Machine::find(&memory(b" a\x1b[2Jb\n\xff\0", &[entry(0, 1, 1)]), Entry::Pvh(0)).unwrap();
        assert_eq!(machine.command_line, "a?[2Jb??");
    }

    #[test]
    fn a_machine_that_is_not_described_is_an_error() {
        let error = Machine::find(&memory(b"\0", &[]), Entry::Pvh(0)).unwrap_err();
        assert_eq!(error, MachineError::NoMap);
        let nothing = Ram(vec![0; 8192]);
        assert!(matches!(Machine::find(&nothing, Entry::Pvh(0)), Err(MachineError::StartInfo(_))));
        assert_eq!(Machine::find(&nothing, Entry::Linux(0)), Err(MachineError::ZeroPage(0)));
        assert_eq!(Machine::find(&nothing, Entry::Linux(u64::MAX)), Err(MachineError::ZeroPage(u64::MAX)));
    }

    proptest! {
        #[test]
        fn any_machine_is_described_or_an_error(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600),
            addresses: [u16; 2],
            entries: u32,
            at in 0..64u64,
        ) {
            let [command_line, map] = addresses.map(|address| u64::from(address % 700));
            bytes.splice(..0, structure(1, command_line, map, entries));
            let _ = Machine::find(&Ram(bytes.clone()), Entry::Pvh(at));
            bytes.resize(5000, 7);
            let _ = Machine::find(&Ram(bytes), Entry::Linux(at));
        }
    }
}
