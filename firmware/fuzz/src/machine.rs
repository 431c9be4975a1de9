//! What a VMM says: memory with start information or a zero page at its beginning.

use sublet_firmware::machine::{Entry, Machine};
use sublet_firmware::memory::PhysicalMemory;

use crate::Seed;

const PAGE_BYTES: usize = 4096;

struct Memory<'a>(&'a [u8]);

impl PhysicalMemory for Memory<'_> {
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(address).ok()?;
        self.0.get(start..start.checked_add(length)?)
    }
}

pub fn run(input: &[u8]) {
    for entry in [Entry::Pvh(0), Entry::Linux(0)] {
        if let Ok(machine) = Machine::find(&Memory(input), entry) {
            assert!(!machine.map.is_empty() && machine.map.len() <= 128);
            assert!(machine.command_line.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            let _ = (machine.ram_bytes(), machine.to_string());
        }
    }
}

pub fn seeds() -> Vec<Seed> {
    let entry = |start: u64, bytes: u64, kind: u64| [start, bytes, kind].map(u64::to_le_bytes).concat();
    let map = [entry(0, 0x9fc00, 1), entry(1 << 20, 1 << 28, 1)].concat();
    let mut pvh = [0x336e_c578_u32, 1, 0, 0].map(u32::to_le_bytes).concat();
    pvh.extend([0_u64, 0x100, 0xe_0000, 0x200, 2].map(u64::to_le_bytes).concat());
    pvh.resize(0x100, 0);
    pvh.extend(b"console=ttyS0\0");
    pvh.resize(0x200, 0);
    pvh.extend(&map);
    pvh.resize(PAGE_BYTES + 0x400, 0);
    let mut page = vec![0; 2 * PAGE_BYTES];
    page[0x1e8] = 1;
    page[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    page[0x229] = 0x11;
    page[0x2d0..0x2d0 + 20].copy_from_slice(&map[..20]);
    vec![("pvh", pvh), ("zero_page", page)]
}
