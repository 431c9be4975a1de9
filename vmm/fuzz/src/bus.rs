//! The PCI bus: configuration space by ports and by ECAM, and registers, in accesses of any width at any place; and the
//! other ports beside it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sublet_vmm::{
    arch::layout,
    console::Console,
    devices::{Bus, rtc::Rtc, serial::SerialPort},
    pci::{PciBus, host_bridge::HostBridge},
};
use sublet_vmm_protocol::ConsoleConfig;
use vmm_sys_util::eventfd::EventFd;

use crate::{Seed, files::MemoryFile, guest::Guest, steps, virtio_device};

const MEMORY_BYTES: usize = 0x1_0000;
/// A host bridge and a virtio device.
const SLOTS: u64 = 2;
/// Longest access, in bytes: more than any instruction has.
const LENGTH_MAX: u8 = 16;
const CONSOLE_BYTES: u64 = 4096;
/// Ports by which a guest ends itself.
const ENDS: [u16; 4] =
    [layout::I8042_COMMAND_PORT, layout::PVPANIC_PORT, layout::SLEEP_CONTROL_PORT, layout::RESET_PORT];
const ENABLE: u32 = 1 << 31;
const BAR0: usize = 0x10;
const BAR_START: u32 = layout::PCI_BARS_START as u32 + layout::PCI_BAR_SIZE as u32;
const BAR_SIZING: u32 = !(layout::PCI_BAR_SIZE as u32 - 1);

/// One access.
#[derive(Debug, Serialize, Deserialize)]
enum Step {
    /// Of the configuration address register.
    WriteAddress(Vec<u8>),
    ReadAddress(u8),
    /// Of the configuration data register, from one of its bytes on.
    WriteData(u8, Vec<u8>),
    ReadData(u8, u8),
    /// By ECAM: slot, offset.
    WriteConfig(u8, #[serde(with = "postcard::fixint::le")] u16, Vec<u8>),
    ReadConfig(u8, #[serde(with = "postcard::fixint::le")] u16, u8),
    /// Slot, offset.
    WriteRegisters(u8, #[serde(with = "postcard::fixint::le")] u16, Vec<u8>),
    ReadRegisters(u8, #[serde(with = "postcard::fixint::le")] u16, u8),
    /// Any port.
    Out(#[serde(with = "postcard::fixint::le")] u16, Vec<u8>),
    In(#[serde(with = "postcard::fixint::le")] u16, u8),
    /// Any address.
    Write(#[serde(with = "postcard::fixint::le")] u64, Vec<u8>),
    Read(#[serde(with = "postcard::fixint::le")] u64, u8),
}

pub fn run(input: &[u8]) {
    let guest = Guest::new(MEMORY_BYTES);
    let log = MemoryFile::new(0);
    let bus = bus(&guest, &log);
    let fixed = fixed(&bus);
    for step in steps::read(input) {
        access(&bus, step);
    }
    assert_eq!(self::fixed(&bus), fixed, "a function says something else of itself");
    let bar = word_by_ecam(&bus, 1, BAR0);
    assert!(matches!(bar, BAR_START | BAR_SIZING), "the registers are at {bar:#x}");
    both_ways_lead_to_the_same(&bus);
    drop(bus);
    guest.check();
}

fn bus(guest: &Guest, log: &MemoryFile) -> Bus {
    let mut pci = PciBus::default();
    pci.add(Box::new(HostBridge::new()));
    pci.add(Box::new(virtio_device::transport(1, guest).0));
    let console = Console::new(&ConsoleConfig { path: log.path(), capacity_bytes: CONSOLE_BYTES }).unwrap();
    let interrupt = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).unwrap();
    Bus { serial: SerialPort::new(interrupt, Arc::new(console)), rtc: Rtc::default(), pci: Arc::new(pci) }
}

fn access(bus: &Bus, step: Step) {
    match step {
        Step::WriteAddress(data) => _ = bus.port_out(layout::PCI_CONFIG_ADDRESS_PORT, &data),
        Step::ReadAddress(length) => bus.port_in(layout::PCI_CONFIG_ADDRESS_PORT, &mut buffer(length)),
        Step::WriteData(byte, data) => _ = bus.port_out(data_port(byte), &data),
        Step::ReadData(byte, length) => bus.port_in(data_port(byte), &mut buffer(length)),
        Step::WriteConfig(slot, offset, data) => bus.write(ecam(slot.into(), offset), &data),
        Step::ReadConfig(slot, offset, length) => read(bus, slot.into(), ecam(slot.into(), offset), length),
        Step::WriteRegisters(slot, offset, data) => bus.write(registers(slot.into(), offset), &data),
        Step::ReadRegisters(slot, offset, length) => {
            read(bus, slot.into(), registers(slot.into(), offset), length);
        }
        Step::Out(port, data) => {
            let ended = bus.port_out(port, &data);
            assert!(ended.is_none() || ENDS.contains(&port), "port {port:#x} ends the guest: {ended:?}");
        }
        Step::In(port, length) => bus.port_in(port, &mut buffer(length)),
        Step::Write(address, data) => bus.write(address, &data),
        Step::Read(address, length) => bus.read(address, &mut buffer(length)),
    }
}

/// Where there is no function, nothing answers.
fn read(bus: &Bus, slot: u64, address: u64, length: u8) {
    let mut data = buffer(length);
    bus.read(address, &mut data);
    assert!(slot < SLOTS || data.iter().all(|byte| *byte == 0xff), "slot {slot} answers");
}

fn data_port(byte: u8) -> u16 {
    layout::PCI_CONFIG_DATA_PORT + u16::from(byte % 4)
}

fn ecam(slot: u64, offset: u16) -> u64 {
    layout::PCI_ECAM_START + (slot << 15) + u64::from(offset % 4096)
}

fn registers(slot: u64, offset: u16) -> u64 {
    layout::PCI_BARS_START + slot * layout::PCI_BAR_SIZE + u64::from(offset) % layout::PCI_BAR_SIZE
}

fn buffer(length: u8) -> Vec<u8> {
    vec![0xff; usize::from(length % (LENGTH_MAX + 1))]
}

/// What of each function's header never changes: all but command, status, BAR and interrupt line.
fn fixed(bus: &Bus) -> Vec<u8> {
    let header = |slot| (0..0x40).step_by(4).flat_map(move |at| word_by_ecam(bus, slot, at).to_le_bytes());
    let mut bytes: Vec<u8> = (0..SLOTS).flat_map(header).collect();
    for start in [0, 0x40] {
        for at in [0x04, 0x05, 0x10, 0x11, 0x12, 0x13, 0x3c] {
            bytes[start + at] = 0;
        }
    }
    bytes
}

fn both_ways_lead_to_the_same(bus: &Bus) {
    for (slot, offset) in (0..SLOTS).flat_map(|slot| (0..256).step_by(4).map(move |offset| (slot, offset))) {
        let address = ENABLE | (slot as u32) << 11 | offset as u32;
        assert!(bus.port_out(layout::PCI_CONFIG_ADDRESS_PORT, &address.to_le_bytes()).is_none());
        let mut by_ports = [0xff; 4];
        bus.port_in(layout::PCI_CONFIG_DATA_PORT, &mut by_ports);
        assert_eq!(u32::from_le_bytes(by_ports), word_by_ecam(bus, slot, offset), "slot {slot}, {offset:#x}");
    }
}

fn word_by_ecam(bus: &Bus, slot: u64, offset: usize) -> u32 {
    let mut data = [0xff; 4];
    bus.read(ecam(slot, offset as u16), &mut data);
    u32::from_le_bytes(data)
}

pub fn seeds() -> Vec<Seed> {
    let word = |value: u32| value.to_le_bytes().to_vec();
    let by_ports = [
        Step::WriteAddress(word(ENABLE | 1 << 11)),
        Step::ReadAddress(4),
        Step::ReadData(0, 4),
        Step::WriteAddress(word(ENABLE | 1 << 11 | BAR0 as u32)),
        Step::WriteData(0, word(u32::MAX)),
        Step::ReadData(0, 4),
        Step::WriteData(2, vec![0, 0xc0]),
    ];
    let by_ecam = [
        Step::ReadConfig(1, 0, 4),
        Step::WriteConfig(1, 4, vec![6, 4]),
        Step::WriteConfig(1, BAR0 as u16, word(u32::MAX)),
        Step::ReadConfig(1, 0x34, 1),
        Step::ReadConfig(2, 0, 4),
        Step::ReadConfig(1, 4094, 4),
        Step::Read(layout::PCI_ECAM_START + 0x1000, 8),
        Step::Write(layout::PCI_BARS_END - 1, vec![1, 2]),
    ];
    // The configuration access capability, behind four others, and MSI-X behind that.
    let access = [
        Step::WriteConfig(1, 0x84 + 8, word(0x2000)),
        Step::WriteConfig(1, 0x84 + 12, word(4)),
        Step::ReadConfig(1, 0x84 + 16, 4),
        Step::WriteRegisters(1, 0x4000, vec![0, 0x10, 0xe0, 0xfe, 0, 0, 0, 0]),
        Step::WriteRegisters(1, 0x4008, vec![0x41, 0, 0, 0, 0, 0, 0, 0]),
        Step::WriteConfig(1, 0x98 + 2, vec![0, 0x80]),
        Step::ReadRegisters(1, 0x5000, 8),
        Step::WriteRegisters(1, 0x3000, vec![0, 0]),
        Step::WriteConfig(1, 0x98 + 2, vec![0, 0xc0]),
    ];
    let ports = [
        Step::Out(layout::COM1_PORT, b"hello".into()),
        Step::In(layout::COM1_PORT + 5, 1),
        Step::Out(layout::COM1_PORT + 4, vec![0x10]),
        Step::Out(layout::PVPANIC_PORT, vec![1]),
        Step::Out(layout::SLEEP_CONTROL_PORT, vec![0x34]),
        Step::Out(layout::RESET_PORT, vec![6]),
        Step::In(layout::I8042_COMMAND_PORT, 1),
    ];
    vec![
        ("other_ports", steps::written(&ports)),
        ("by_ports", steps::written(&by_ports)),
        ("by_ecam", steps::written(&by_ecam)),
        ("access_and_msix", steps::written(&access)),
    ]
}
