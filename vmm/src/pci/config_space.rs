//! A function's configuration space (PCI Local Bus 3.0, 6.1): bytes, which of their bits the guest may write, and
//! one base address register.

/// Bytes of the space that devices here use; beyond them there are no extended capabilities.
const SIZE: usize = 256;
/// Offsets of the header's registers.
const VENDOR: usize = 0x00;
const DEVICE: usize = 0x02;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const CLASS: usize = 0x09;
const BAR0: usize = 0x10;
const SUBSYSTEM_VENDOR: usize = 0x2c;
const SUBSYSTEM: usize = 0x2e;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
/// Capabilities follow the header.
const FIRST_CAPABILITY: usize = 0x40;

/// Memory space, bus master, and no INTx: what a driver turns on and off.
const COMMAND_WRITABLE: u16 = 0x0406;
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// What a function says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    pub revision: u8,
    /// Base class, subclass, programming interface, from the highest byte down.
    pub class: u32,
    pub subsystem_vendor: u16,
    pub subsystem: u16,
}

/// The space of one function.
#[derive(Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    bar: Option<Bar>,
    /// Where the pointer to the next capability is.
    last_pointer: usize,
    end_of_capabilities: usize,
}

/// Base address register 0: memory, 32 bits, where the machine put it.
#[derive(Debug)]
struct Bar {
    address: u32,
    size: u32,
    /// The guest has written all ones and wants to read the size.
    sizing: bool,
}

impl ConfigSpace {
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            bar: None,
            last_pointer: CAPABILITIES,
            end_of_capabilities: FIRST_CAPABILITY,
        };
        space.set(VENDOR, &identity.vendor.to_le_bytes());
        space.set(DEVICE, &identity.device.to_le_bytes());
        space.set(REVISION, &[identity.revision]);
        space.set(CLASS, &identity.class.to_le_bytes()[..3]);
        space.set(SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes());
        space.set(SUBSYSTEM, &identity.subsystem.to_le_bytes());
        space.writable[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_WRITABLE.to_le_bytes());
        space.writable[INTERRUPT_LINE] = 0xff;
        space
    }

    /// Gives the function registers in memory: `size`, a power of two, at `address`.
    pub fn with_bar(mut self, address: u32, size: u32) -> Self {
        self.bar = Some(Bar { address, size, sizing: false });
        self
    }

    /// Appends a capability: its bytes after the pointer, and which of their bits the guest may write. Returns
    /// where the capability starts. The device's author counts the room: 192 bytes.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let at = self.end_of_capabilities;
        self.set(self.last_pointer, &[at as u8]);
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        self.writable[at + 2..at + 2 + writable.len()].copy_from_slice(writable);
        self.set(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        self.last_pointer = at + 1;
        self.end_of_capabilities = (at + 2 + body.len()).next_multiple_of(4);
        at
    }

    /// Reads from `offset` on; beyond the space there are all ones.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.byte(at);
        }
    }

    /// Writes from `offset` on, what may be written.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        if offset == BAR0
            && let Some(bar) = &mut self.bar
        {
            bar.sizing = data == [0xff; 4];
        }
        for (at, byte) in (offset..).zip(data) {
            if let (Some(old), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *old = (*old & !mask) | (byte & mask);
            }
        }
    }

    fn byte(&self, at: usize) -> u8 {
        match (&self.bar, at) {
            (Some(bar), BAR0..=0x13) => bar.value().to_le_bytes()[at - BAR0],
            _ => self.bytes.get(at).copied().unwrap_or(0xff),
        }
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl Bar {
    fn value(&self) -> u32 {
        if self.sizing { !(self.size - 1) } else { self.address }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const IDENTITY: Identity = Identity {
        vendor: 0x1af4,
        device: 0x1042,
        revision: 1,
        class: 0x01_80_00,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1042,
    };

    fn space() -> ConfigSpace {
        ConfigSpace::new(IDENTITY).with_bar(0xc000_0000, 0x8000)
    }

    fn word(space: &ConfigSpace, offset: usize) -> u32 {
        let mut data = [0; 4];
        space.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn a_function_says_what_it_is() {
        assert_eq!(word(&space(), 0), 0x1042_1af4);
        assert_eq!(word(&space(), 8), 0x0180_0001);
    }

    #[test]
    fn the_size_of_the_registers_can_be_asked_for() {
        let mut space = space();
        space.write(BAR0, &[0xff; 4]);
        assert_eq!(word(&space, BAR0), 0xffff_8000);
        space.write(BAR0, &0xc000_0000_u32.to_le_bytes());
        assert_eq!(word(&space, BAR0), 0xc000_0000);
    }

    #[test]
    fn the_registers_stay_where_they_are() {
        let mut space = space();
        space.write(BAR0, &0xdead_0000_u32.to_le_bytes());
        assert_eq!(word(&space, BAR0), 0xc000_0000);
    }

    #[test]
    fn capabilities_are_a_list() {
        let mut space = space();
        let first = space.add_capability(0x11, &[0; 10], &[]);
        let second = space.add_capability(0x09, &[1, 2, 3], &[0, 0xff]);
        assert_eq!(word(&space, CAPABILITIES) & 0xff, first as u32);
        assert_eq!(word(&space, first) & 0xffff, 0x11 | (second as u32) << 8);
        space.write(second, &[0xee; 4]);
        let mut body = [0; 5];
        space.read(second, &mut body);
        assert_eq!(body, [0x09, 0, 1, 0xee, 3]);
    }

    #[test]
    fn beyond_the_space_there_are_all_ones() {
        assert_eq!(word(&space(), 0x100), u32::MAX);
    }

    proptest! {
        #[test]
        fn what_may_not_be_written_never_changes(writes in vec((0usize..4096, vec(any::<u8>(), 1..5)), 0..50)) {
            let mut space = space();
            space.add_capability(0x11, &[5; 10], &[0, 0x80]);
            let before = (word(&space, 0), word(&space, 8), word(&space, 0x2c), word(&space, 0x44));
            for (offset, data) in writes {
                space.write(offset, &data);
            }
            let after = (word(&space, 0), word(&space, 8), word(&space, 0x2c), word(&space, 0x44));
            prop_assert_eq!(before, after);
        }
    }
}
