//! PCI configuration space by ports (PCI Local Bus 3.0, 3.2.2.3.2), which every PC has, whether or not it also has ECAM.

use alloc::vec::Vec;

use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{
    Command, ConfigurationAccess, DeviceFunction, HeaderType, PciRoot,
};
use virtio_drivers::transport::pci::virtio_device_type;

use super::ports::{read_long, write_long};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
/// Of a bridge: the buses on its two sides.
const BUSES: u8 = 0x18;

pub(super) struct ConfigPorts;

impl ConfigPorts {
    fn select(function: DeviceFunction, register: u8) {
        let DeviceFunction { bus, device, function } = function;
        let address = u32::from(bus) << 16 | u32::from(device) << 11 | u32::from(function) << 8;
        write_long(ADDRESS, ENABLE | address | u32::from(register & !3));
    }
}

impl ConfigurationAccess for ConfigPorts {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        Self::select(function, register);
        read_long(DATA)
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        Self::select(function, register);
        write_long(DATA, data);
    }

    // SAFETY: the trait's: one of the two is used at a time. No more than one CPU runs here.
    unsafe fn unsafe_clone(&self) -> Self {
        Self
    }
}

/// Every virtio disk, bus after bus, made ready to be talked to.
pub(super) fn block_devices(root: &mut PciRoot<ConfigPorts>) -> Vec<DeviceFunction> {
    let (mut found, mut buses, mut at) = (Vec::new(), Vec::from([0_u8]), 0);
    while let Some(bus) = buses.get(at).copied() {
        at += 1;
        for (function, info) in root.enumerate_bus(bus) {
            if info.header_type == HeaderType::PciPciBridge {
                let [_, secondary, ..] = ConfigPorts.read_word(function, BUSES).to_le_bytes();
                // Buses beyond a bridge have higher numbers, so that there is an end.
                buses.extend(Some(secondary).filter(|secondary| *secondary > bus));
            } else if virtio_device_type(&info) == Some(DeviceType::Block) {
                found.push(function);
            }
        }
    }
    for function in &found {
        let (_, command) = root.get_status_command(*function);
        root.set_command(*function, command | Command::MEMORY_SPACE | Command::BUS_MASTER);
    }
    found
}
