//! What the firmware says about the machine it woke up in.

use core::fmt::{self, Write};

use crate::memory::{Kind, Map, PhysicalMemory, text};
use crate::start_info::{BYTES, StartInfo, StartInfoError};

/// Most bytes of a command line that are shown.
const COMMAND_LINE_LIMIT: usize = 1024;

/// Writes the report to `out`, from the start information at the physical address `start_info`.
pub fn write(out: &mut impl Write, memory: &impl PhysicalMemory, start_info: u64) -> fmt::Result {
    writeln!(out, "Sublet firmware {}", env!("CARGO_PKG_VERSION"))?;
    match memory.bytes(start_info, BYTES).ok_or(StartInfoError::TooShort(0)).and_then(StartInfo::parse) {
        Ok(info) => write_machine(out, memory, &info)?,
        Err(error) => writeln!(out, "Not started by the PVH boot protocol: {error}.")?,
    }
    writeln!(out, "It reads no disks yet, so there is no operating system to start. Halted.")
}

fn write_machine(out: &mut impl Write, memory: &impl PhysicalMemory, info: &StartInfo) -> fmt::Result {
    writeln!(out, "Started by PVH, version {}; modules: {}.", info.version, info.modules)?;
    match info.rsdp {
        Some(address) => writeln!(out, "ACPI root pointer at {address:#x}.")?,
        None => writeln!(out, "No ACPI root pointer.")?,
    }
    write_command_line(out, memory, info)?;
    write_map(out, Map::find(info, memory))
}

fn write_command_line(out: &mut impl Write, memory: &impl PhysicalMemory, info: &StartInfo) -> fmt::Result {
    match info.command_line.map(|address| text(memory, address, COMMAND_LINE_LIMIT)) {
        None => writeln!(out, "No command line."),
        Some(None) => writeln!(out, "The command line is out of reach."),
        Some(Some(line)) => writeln!(out, "Command line: \"{}\".", line.escape_ascii()),
    }
}

fn write_map(out: &mut impl Write, map: Option<Map<'_>>) -> fmt::Result {
    let Some(map) = map else { return writeln!(out, "No memory map.") };
    writeln!(out, "Memory: {} KiB of RAM.", map.ram_bytes() / 1024)?;
    for range in map.ranges() {
        writeln!(out, "  {:#018x} to {:#018x}  {}", range.start, range.last(), range.kind)?;
    }
    match map.ranges().any(|range| range.kind == Kind::Ram) {
        true => Ok(()),
        false => writeln!(out, "The memory map has no RAM in it."),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::tests::{Ram, entry};
    use crate::start_info::tests::structure;

    fn report(memory: &Ram, start_info: u64) -> String {
        let mut text = String::new();
        write(&mut text, memory, start_info).unwrap();
        text
    }

    /// Start information at 0, the command line at 0x100, the memory map at 0x200.
    fn machine(command_line: &[u8], map: &[Vec<u8>]) -> Ram {
        let mut bytes = structure(1, 0x100, 0x200, map.len().try_into().unwrap());
        bytes.resize(0x100, 0);
        bytes.extend(command_line);
        bytes.resize(0x200, 0);
        bytes.extend(map.concat());
        bytes.resize(0x1000, 0);
        Ram(bytes)
    }

    #[test]
    fn the_machine_is_described() {
        let map = [entry(0, 0xa0000, 1), entry(0x10_0000, 0x3f0_0000, 1), entry(0xfffc_0000, 0x4_0000, 2)];
        let expected = concat!(
            "Sublet firmware 0.1.0\n",
            "Started by PVH, version 1; modules: 2.\n",
            "ACPI root pointer at 0xe0000.\n",
            "Command line: \"console=ttyS0\".\n",
            "Memory: 65152 KiB of RAM.\n",
            "  0x0000000000000000 to 0x000000000009ffff  RAM\n",
            "  0x0000000000100000 to 0x0000000003ffffff  RAM\n",
            "  0x00000000fffc0000 to 0x00000000ffffffff  reserved\n",
            "It reads no disks yet, so there is no operating system to start. Halted.\n",
        );
        assert_eq!(report(&machine(b"console=ttyS0\0", &map), 0), expected);
    }

    #[test]
    fn a_command_line_cannot_send_control_characters_to_the_terminal() {
        let text = report(&machine(b"a\x1b[2Jb\n\xff\0", &[]), 0);
        assert!(text.contains(r#"Command line: "a\x1b[2Jb\n\xff"."#), "{text}");
    }

    #[test]
    fn a_machine_without_ram_or_without_a_map_is_reported() {
        assert!(report(&machine(b"\0", &[entry(0, 1, 2)]), 0).contains("has no RAM in it"));
        assert!(report(&machine(b"\0", &[]), 0).contains("No memory map."));
    }

    #[test]
    fn another_boot_protocol_is_reported_and_not_followed() {
        let text = report(&Ram(vec![0; 64]), 0);
        assert!(text.contains("Not started by the PVH boot protocol"), "{text}");
        assert!(text.ends_with("Halted.\n"));
        assert!(report(&Ram(vec![0; 64]), u64::MAX).contains("Not started"));
    }

    proptest! {
        #[test]
        fn any_machine_is_reported_without_a_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600),
            addresses: [u16; 2],
            entries: u32,
            at in 0..64u64,
        ) {
            let [command_line, map] = addresses.map(|address| u64::from(address % 700));
            let start = structure(1, command_line, map, entries);
            bytes.splice(..0, start);
            report(&Ram(bytes), at);
        }
    }
}
