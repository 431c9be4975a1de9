//! The firmware's library, on this machine: a disk is a file, memory is memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sublet_firmware::boot::boot;
use sublet_firmware::disk::{Disk, DiskError, Volume};
use sublet_firmware::load::{Loaded, Ram, Room};
use sublet_firmware::machine::{Entry, Machine};
use sublet_firmware::memory::{Kind, Range};

pub(crate) const MEMORY_BYTES: usize = 256 << 20;
const ROOM: Room = Room { firmware: 1 << 20..14 << 20, tables: 2 << 20 };

struct FileDisk(File, u64);

impl Disk for FileDisk {
    fn bytes(&self) -> u64 {
        self.1
    }

    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.0.read_exact_at(into, start).map_err(|_| DiskError::Failed { start, bytes: into.len() })
    }
}

/// A machine's memory, from address 0 on.
pub(crate) struct Memory(pub(crate) Vec<u8>);

impl Ram for Memory {
    fn region(&mut self, start: u64, bytes: u64) -> Option<&mut [u8]> {
        let (start, length) = (usize::try_from(start).ok()?, usize::try_from(bytes).ok()?);
        self.0.get_mut(start..start.checked_add(length)?)
    }
}

pub(crate) fn volume(disk: &Path) -> Volume {
    let file = File::open(disk).unwrap();
    let bytes = file.metadata().unwrap().len();
    Volume::whole(Box::new(FileDisk(file, bytes)))
}

pub(crate) fn machine() -> Machine {
    let ram = |start, bytes| Range { start, bytes, kind: Kind::Ram };
    Machine {
        entry: Entry::Pvh(0),
        command_line: "sublet.nonce=7".into(),
        rsdp: Some(0xe_0000),
        map: vec![ram(0, 640 << 10), ram(1 << 20, MEMORY_BYTES as u64 - (1 << 20))],
    }
}

/// What the firmware does with a disk: what it says, what it has loaded, and memory as it is then.
pub(crate) fn start(disk: &Volume) -> (String, Option<Loaded>, Memory) {
    let (mut said, mut memory) = (String::new(), Memory(vec![0; MEMORY_BYTES]));
    let loaded = boot(&mut said, "vda", disk, &machine(), &ROOM, &mut memory).unwrap();
    (said, loaded, memory)
}
