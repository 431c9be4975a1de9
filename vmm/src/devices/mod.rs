//! What the guest finds at its ports and addresses.
//!
//! Reached from vCPU threads, each behind its own lock. What is not there reads as all ones and swallows writes,
//! as on real hardware.

pub mod power;
pub mod pvpanic;
pub mod rtc;
pub mod serial;
pub mod virtio;

use std::sync::Arc;

use sublet_vmm_protocol::Ended;

use self::{rtc::Rtc, serial::SerialPort};
use crate::{arch::layout, pci::PciBus};

/// Everything the guest can reach that is not memory.
pub struct Bus {
    pub serial: SerialPort,
    pub rtc: Rtc,
    pub pci: Arc<PciBus>,
}

const COM1_LAST: u16 = layout::COM1_PORT + layout::COM1_PORTS - 1;
const PCI_CONFIG_DATA_LAST: u16 = layout::PCI_CONFIG_DATA_PORT + 3;

impl Bus {
    /// The guest reads a port. For a string instruction `data` is longer than one access; each register here is
    /// read as if the whole were one.
    pub fn port_in(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match port {
            layout::COM1_PORT..=COM1_LAST => self.serial.read(port - layout::COM1_PORT, data),
            layout::PVPANIC_PORT => pvpanic::read(data),
            layout::SLEEP_STATUS_PORT => power::read_sleep_status(data),
            layout::I8042_COMMAND_PORT => power::read_keyboard_controller(data),
            layout::RTC_VALUE_PORT => self.rtc.read_value(data),
            layout::PCI_CONFIG_ADDRESS_PORT => self.pci.read_address(data),
            layout::PCI_CONFIG_DATA_PORT..=PCI_CONFIG_DATA_LAST => {
                self.pci.read_data(port - layout::PCI_CONFIG_DATA_PORT, data);
            }
            _ => {}
        }
    }

    /// The guest writes a port; returns how it ended, if that is what it wrote.
    pub fn port_out(&self, port: u16, data: &[u8]) -> Option<Ended> {
        match port {
            layout::COM1_PORT..=COM1_LAST => self.serial.write(port - layout::COM1_PORT, data),
            layout::RTC_INDEX_PORT => self.rtc.write_index(data),
            layout::PVPANIC_PORT => return pvpanic::write(data),
            layout::SLEEP_CONTROL_PORT => return power::write_sleep_control(data),
            layout::I8042_COMMAND_PORT => return power::write_keyboard_controller(data),
            layout::RESET_PORT => return power::write_reset_control(data),
            layout::PCI_CONFIG_ADDRESS_PORT => self.pci.write_address(data),
            layout::PCI_CONFIG_DATA_PORT..=PCI_CONFIG_DATA_LAST => {
                self.pci.write_data(port - layout::PCI_CONFIG_DATA_PORT, data);
            }
            _ => {}
        }
        None
    }

    /// The guest reads an address that is not memory.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        self.pci.read(address, data);
    }

    /// The guest writes an address that is not memory.
    pub fn write(&self, address: u64, data: &[u8]) {
        self.pci.write(address, data);
    }
}
