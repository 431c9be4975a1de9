//! Memory that the kernel was told to leave alone (`mem=`): the machine's last pages, at known addresses.

use std::{fs::File, io, ops::Range};

use crate::registers::{Window, Word};

pub(crate) const PAGE: u64 = 4096;

/// Everything from `start` to the end of the machine's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    window: Window,
    start: u64,
}

/// Where things are in it, from its start; rings come first, 64 KiB a queue.
const QUEUE_ROOM: u64 = 0x1_0000;
const DATA: u64 = 0x40_0000;
const DATA_BYTES: u64 = 0x20_0000;

/// A file whose mappings are physical addresses.
pub(crate) fn physical() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/mem")
}

impl Memory {
    pub(crate) fn open(range: Range<u64>) -> io::Result<Self> {
        let window = Window::map(&physical()?, range.start, (range.end - range.start) as usize)?;
        Ok(Self { window, start: range.start })
    }

    pub(crate) fn start(self) -> u64 {
        self.start
    }

    /// First address after the machine's memory.
    pub(crate) fn end(self) -> u64 {
        self.start + self.window.bytes() as u64
    }

    /// Whether all of that is in it.
    pub(crate) fn holds(self, address: u64, bytes: u64) -> bool {
        address >= self.start && address.checked_add(bytes).is_some_and(|end| end <= self.end())
    }

    /// Where a queue's rings are when they are where they should be.
    pub(crate) fn queue(self, index: u16) -> u64 {
        self.start + u64::from(index) * QUEUE_ROOM
    }

    /// Room for what requests carry.
    pub(crate) fn data(self) -> Range<u64> {
        self.start + DATA..self.start + DATA + DATA_BYTES
    }

    pub(crate) fn get<W: Word>(self, address: u64) -> W {
        self.window.get((address - self.start) as usize)
    }

    pub(crate) fn put<W: Word>(self, address: u64, value: W) {
        self.window.put((address - self.start) as usize, value);
    }

    /// Writes it as far as it lies in this memory.
    pub(crate) fn try_put<W: Word>(self, address: u64, value: W) {
        if self.holds(address, size_of::<W>() as u64) {
            self.put(address, value);
        }
    }

    /// Fills whole double words of a range with a byte.
    pub(crate) fn fill(self, range: Range<u64>, byte: u8) {
        range.step_by(8).for_each(|at| self.put(at, u64::from_le_bytes([byte; 8])));
    }

    /// The first address in a range where the double word is not that byte's.
    pub(crate) fn first_other(self, range: Range<u64>, byte: u8) -> Option<u64> {
        range.step_by(8).find(|at| self.get::<u64>(*at) != u64::from_le_bytes([byte; 8]))
    }
}
