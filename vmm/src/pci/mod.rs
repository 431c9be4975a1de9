//! The PCI bus: one bus, one function a slot, configuration by ECAM and by ports, registers in memory.
//!
//! A function's base address register is hardwired to the address of its slot, so nothing the guest writes moves
//! a register on top of something else.

pub mod config_space;
pub mod host_bridge;
pub mod msix;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::arch::layout;

/// One function of the bus. Offsets are checked by the bus: an access never crosses the end of a space.
pub trait PciFunction: Send {
    /// Reads configuration space at `offset` below 4096.
    fn read_config(&mut self, offset: usize, data: &mut [u8]);
    fn write_config(&mut self, offset: usize, data: &[u8]);
    /// Reads the function's registers at `offset` below [`layout::PCI_BAR_SIZE`].
    fn read_registers(&mut self, offset: u64, data: &mut [u8]);
    fn write_registers(&mut self, offset: u64, data: &[u8]);
    /// Stops whatever the function does in the background, and waits for it, but no longer than `patience`. Whether it
    /// has stopped.
    fn reset(&mut self, patience: Duration) -> bool;
}

/// Bytes of a function's configuration space in ECAM (PCI Express Base 6.0, 7.2.2).
const ECAM_FUNCTION_SIZE: u64 = 4096;
const FUNCTIONS_PER_SLOT: u64 = 8;

/// Configuration address register (PCI Local Bus 3.0, 3.2.2.3.2).
const ADDRESS_ENABLE: u32 = 1 << 31;
/// Reserved bits and the two that name a byte of a double word, which read as zero.
const ADDRESS_MASK: u32 = 0x80ff_fffc;

/// The bus and what is in its slots.
#[derive(Default)]
pub struct PciBus {
    slots: Vec<Mutex<Box<dyn PciFunction>>>,
    /// Configuration address register.
    address: AtomicU32,
}

impl PciBus {
    /// Number of the slot that [`PciBus::add`] fills next; none when the bus is full.
    pub fn next_slot(&self) -> Option<usize> {
        Some(self.slots.len()).filter(|slot| *slot < layout::PCI_SLOTS)
    }

    /// Puts a function into the next slot.
    pub fn add(&mut self, function: Box<dyn PciFunction>) {
        self.slots.push(Mutex::new(function));
    }

    /// Stops what every function does in the background, and waits for all of them, but no longer than `patience`.
    /// Whether all have stopped.
    pub fn reset(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let functions = || (0..self.slots.len()).filter_map(|slot| self.function(slot));
        functions().for_each(|mut function| _ = function.reset(Duration::ZERO));
        functions().all(|mut function| function.reset(deadline.saturating_duration_since(Instant::now())))
    }

    /// Reads the configuration address register.
    pub fn read_address(&self, data: &mut [u8]) {
        if let [_, _, _, _] = data {
            data.copy_from_slice(&self.address.load(Ordering::SeqCst).to_le_bytes());
        }
    }

    /// Writes the configuration address register; accesses of other sizes are for other devices.
    pub fn write_address(&self, data: &[u8]) {
        if let Ok(bytes) = data.try_into() {
            self.address.store(u32::from_le_bytes(bytes) & ADDRESS_MASK, Ordering::SeqCst);
        }
    }

    /// Reads byte `offset` on of the configuration data register.
    pub fn read_data(&self, offset: u16, data: &mut [u8]) {
        if let Some((slot, offset)) = self.addressed(offset, data.len()) {
            self.read_config(slot, offset, data);
        }
    }

    pub fn write_data(&self, offset: u16, data: &[u8]) {
        if let Some((slot, offset)) = self.addressed(offset, data.len()) {
            self.write_config(slot, offset, data);
        }
    }

    /// Reads ECAM or a function's registers; leaves `data` where neither is.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match place(address, data.len()) {
            Some(Place::Config { slot, offset }) => self.read_config(slot, offset, data),
            Some(Place::Registers { slot, offset }) => {
                if let Some(mut function) = self.function(slot) {
                    function.read_registers(offset, data);
                }
            }
            None => {}
        }
    }

    pub fn write(&self, address: u64, data: &[u8]) {
        match place(address, data.len()) {
            Some(Place::Config { slot, offset }) => self.write_config(slot, offset, data),
            Some(Place::Registers { slot, offset }) => {
                if let Some(mut function) = self.function(slot) {
                    function.write_registers(offset, data);
                }
            }
            None => {}
        }
    }

    fn read_config(&self, slot: usize, offset: usize, data: &mut [u8]) {
        if let Some(mut function) = self.function(slot) {
            function.read_config(offset, data);
        }
    }

    fn write_config(&self, slot: usize, offset: usize, data: &[u8]) {
        if let Some(mut function) = self.function(slot) {
            function.write_config(offset, data);
        }
    }

    fn function(&self, slot: usize) -> Option<MutexGuard<'_, Box<dyn PciFunction>>> {
        self.slots.get(slot).map(|function| function.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the configuration address register points to, for an access of `length` bytes within the data register.
    fn addressed(&self, offset: u16, length: usize) -> Option<(usize, usize)> {
        let address = self.address.load(Ordering::SeqCst);
        let bus_and_function = address & 0x00ff_0700;
        let within = offset as usize + length <= 4;
        let slot = (address >> 11 & 0x1f) as usize;
        (address & ADDRESS_ENABLE != 0 && bus_and_function == 0 && within)
            .then_some((slot, (address & 0xfc) as usize + offset as usize))
    }
}

/// What an address in the window of PCI means.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Config { slot: usize, offset: usize },
    Registers { slot: usize, offset: u64 },
}

fn place(address: u64, length: usize) -> Option<Place> {
    let length = length as u64;
    if let Some(offset) = within(address, layout::PCI_ECAM_START, layout::PCI_ECAM_SIZE) {
        let (number, offset) = (offset / ECAM_FUNCTION_SIZE, offset % ECAM_FUNCTION_SIZE);
        let slot = (number / FUNCTIONS_PER_SLOT) as usize;
        let fits = number % FUNCTIONS_PER_SLOT == 0 && offset + length <= ECAM_FUNCTION_SIZE;
        return fits.then_some(Place::Config { slot, offset: offset as usize });
    }
    let offset = within(address, layout::PCI_BARS_START, layout::PCI_BARS_END - layout::PCI_BARS_START)?;
    let (slot, offset) = ((offset / layout::PCI_BAR_SIZE) as usize, offset % layout::PCI_BAR_SIZE);
    (offset + length <= layout::PCI_BAR_SIZE).then_some(Place::Registers { slot, offset })
}

fn within(address: u64, start: u64, length: u64) -> Option<u64> {
    address.checked_sub(start).filter(|offset| *offset < length)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{host_bridge::HostBridge, *};

    fn bus() -> PciBus {
        let mut bus = PciBus::default();
        bus.add(Box::new(HostBridge::new()));
        bus
    }

    fn read(bus: &PciBus, address: u64) -> u32 {
        let mut data = [0xff; 4];
        bus.read(address, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn both_ways_lead_to_the_same_configuration() {
        let bus = bus();
        bus.write_address(&0x8000_0000_u32.to_le_bytes());
        let mut by_port = [0xff; 4];
        bus.read_data(0, &mut by_port);
        assert_eq!(u32::from_le_bytes(by_port), read(&bus, layout::PCI_ECAM_START));
    }

    #[test]
    fn empty_slots_other_functions_and_other_buses_read_as_all_ones() {
        let bus = bus();
        assert_eq!(read(&bus, layout::PCI_ECAM_START + 0x8000), u32::MAX);
        assert_eq!(read(&bus, layout::PCI_ECAM_START + 0x1000), u32::MAX);
        for address in [0x8001_0000_u32, 0x8000_0100, 0x8000_0800, 0x0000_0000] {
            bus.write_address(&address.to_le_bytes());
            let mut data = [0xff; 4];
            bus.read_data(0, &mut data);
            assert_eq!(data, [0xff; 4], "{address:#x}");
        }
    }

    #[test]
    fn an_access_across_the_end_of_a_space_reaches_nothing() {
        assert_eq!(place(layout::PCI_ECAM_START + 4094, 4), None);
        assert_eq!(place(layout::PCI_BARS_START + layout::PCI_BAR_SIZE - 2, 4), None);
    }

    proptest! {
        #[test]
        fn no_access_breaks_it(accesses in vec((any::<u32>(), 0u16..4, vec(any::<u8>(), 0..9)), 0..50)) {
            let bus = bus();
            for (address, offset, mut data) in accesses {
                bus.write_address(&address.to_le_bytes());
                bus.write_data(offset, &data);
                bus.read_data(offset, &mut data);
                bus.write(u64::from(address), &data);
                bus.read(u64::from(address), &mut data);
            }
        }
    }
}
