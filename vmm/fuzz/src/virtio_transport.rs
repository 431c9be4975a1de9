//! The registers by which a driver configures and starts a virtio device.

use serde::{Deserialize, Serialize};
use sublet_vmm::{devices::virtio::transport::Transport, pci::PciFunction};

use crate::{
    Seed,
    guest::Guest,
    steps,
    virtio_device::{self, FEATURE, FEATURES, Handle, MAX_SIZE, QUEUES},
};

const MEMORY_BYTES: usize = 0x1_0000;
const LENGTH_MAX: u8 = 16;

/// Status bits (virtio 1.2, 2.1).
const FEATURES_OK: u8 = 8;
const DRIVER_OK: u8 = 4;
const NEEDS_RESET: u8 = 0x40;
const VERSION_1: u64 = 1 << 32;

/// Each register's offset and size in bytes (virtio 1.2, 4.1.4.3).
const REGISTERS: [(u64, usize); 20] = [
    (DEVICE_SELECT, 4),
    (0x04, 4),
    (DRIVER_SELECT, 4),
    (DRIVER_FEATURE, 4),
    (0x10, 2),
    (0x12, 2),
    (STATUS, 1),
    (0x15, 1),
    (QUEUE_SELECT, 2),
    (QUEUE_SIZE, 2),
    (0x1a, 2),
    (QUEUE_ENABLE, 2),
    (0x1e, 2),
    (DESC, 4),
    (0x24, 4),
    (AVAIL, 4),
    (0x2c, 4),
    (USED, 4),
    (0x34, 4),
    (0x38, 4),
];
const DEVICE_SELECT: u64 = 0x00;
const DRIVER_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_ENABLE: u64 = 0x1c;
const DESC: u64 = 0x20;
const AVAIL: u64 = 0x28;
const USED: u64 = 0x30;

#[derive(Debug, Serialize, Deserialize)]
enum Step {
    /// One of the registers, in its own size.
    Set(u8, #[serde(with = "postcard::fixint::le")] u32),
    /// The function's registers, anywhere.
    Write(#[serde(with = "postcard::fixint::le")] u16, Vec<u8>),
    Read(#[serde(with = "postcard::fixint::le")] u16, u8),
    WriteConfig(#[serde(with = "postcard::fixint::le")] u16, Vec<u8>),
    ReadConfig(#[serde(with = "postcard::fixint::le")] u16, u8),
    /// The device takes its time to reset, or no longer.
    Busy(bool),
    /// The host connects no interrupts, or does again.
    RefuseLines(bool),
    /// The device cannot go on.
    Fail,
}

pub fn run(input: &[u8]) {
    let guest = Guest::new(MEMORY_BYTES);
    let (transport, handle) = virtio_device::transport(1, &guest);
    let mut driver = Driver { transport, handle };
    let mut before = driver.state();
    for step in steps::read(input) {
        driver.take(step);
        let after = driver.state();
        after.check();
        after.check_against(&before);
        before = after;
    }
    drop(driver);
    guest.check();
}

struct Driver {
    transport: Transport,
    handle: Handle,
}

/// What a driver can read of all this.
#[derive(Debug, PartialEq, Eq)]
struct State {
    status: u8,
    accepted: u64,
    queues: Vec<Vec<u32>>,
    is_active: bool,
    is_resetting: bool,
    resets: usize,
}

impl Driver {
    fn take(&mut self, step: Step) {
        match step {
            Step::Set(number, value) => {
                let (register, size) = REGISTERS[usize::from(number) % REGISTERS.len()];
                self.transport.write_registers(register, &value.to_le_bytes()[..size]);
            }
            Step::Write(offset, data) => self.transport.write_registers(u64::from(offset % 0x8000), &data),
            Step::Read(offset, length) => {
                self.transport.read_registers(u64::from(offset % 0x8000), &mut buffer(length));
            }
            Step::WriteConfig(offset, data) => self.transport.write_config(usize::from(offset % 4096), &data),
            Step::ReadConfig(offset, length) => {
                self.transport.read_config(usize::from(offset % 4096), &mut buffer(length));
            }
            Step::Busy(is_busy) => self.handle.seen().is_busy = is_busy,
            Step::RefuseLines(refuses) => self.handle.seen().refuses_lines = refuses,
            Step::Fail => self.handle.seen().failure.iter().for_each(|failure| failure.tell()),
        }
    }

    /// While a device resets its registers are not written, and only what needs none to be written is read.
    fn state(&mut self) -> State {
        let status = self.read(STATUS, 1) as u8;
        let (is_resetting, is_active, resets) = {
            let seen = self.handle.seen();
            (seen.is_resetting, seen.is_active, seen.resets)
        };
        let (accepted, queues) = if is_resetting { (0, vec![]) } else { (self.accepted(), self.queues()) };
        State { status, accepted, queues, is_active, is_resetting, resets }
    }

    fn accepted(&mut self) -> u64 {
        let selected = self.read(DRIVER_SELECT, 4);
        let halves = [0u32, 1].map(|half| {
            self.transport.write_registers(DRIVER_SELECT, &half.to_le_bytes());
            u64::from(self.read(DRIVER_FEATURE, 4))
        });
        self.transport.write_registers(DRIVER_SELECT, &selected.to_le_bytes());
        halves[1] << 32 | halves[0]
    }

    fn queues(&mut self) -> Vec<Vec<u32>> {
        let selected = self.read(QUEUE_SELECT, 2) as u16;
        let queues = (0..QUEUES).map(|queue| {
            self.transport.write_registers(QUEUE_SELECT, &queue.to_le_bytes());
            REGISTERS[9..19].iter().map(|(register, size)| self.read(*register, *size)).collect()
        });
        let queues = queues.collect();
        self.transport.write_registers(QUEUE_SELECT, &selected.to_le_bytes());
        queues
    }

    fn read(&mut self, register: u64, size: usize) -> u32 {
        let mut data = [0; 4];
        self.transport.read_registers(register, &mut data[..size]);
        u32::from_le_bytes(data)
    }
}

impl State {
    /// What is always so.
    fn check(&self) {
        let has = |bit| self.status & bit != 0;
        if self.is_resetting {
            assert_ne!(self.status, 0, "a device that still resets reads as reset");
            return;
        }
        if has(FEATURES_OK) {
            assert_eq!(self.accepted & !FEATURES, 0, "features that were not offered are fine");
            assert_ne!(self.accepted & VERSION_1, 0, "a driver of before 1.0 is fine");
        }
        assert!(!has(DRIVER_OK) || has(FEATURES_OK), "a device works before its features are settled");
        assert!(!self.is_active || has(DRIVER_OK), "a device works before its driver is ready");
        assert!(
            !has(DRIVER_OK) || self.is_active || has(NEEDS_RESET),
            "a device does not work and does not say so"
        );
    }

    /// What never changes but by a reset.
    fn check_against(&self, before: &Self) {
        if self.is_resetting || before.is_resetting || self.resets != before.resets {
            return;
        }
        assert_eq!(before.status & !self.status, 0, "a status bit is gone");
        if before.status & FEATURES_OK != 0 {
            assert_eq!(self.accepted, before.accepted, "features changed once they were settled");
        }
        if before.status & DRIVER_OK != 0 {
            assert_eq!(self.queues, before.queues, "queues changed once the driver was ready");
        }
    }
}

fn buffer(length: u8) -> Vec<u8> {
    vec![0xff; usize::from(length % (LENGTH_MAX + 1))]
}

/// A driver that uses queue 0 with its rings at these addresses.
fn driven(desc: u32, avail: u32, used: u32) -> Vec<Step> {
    let set = |register, value| {
        let number = REGISTERS.iter().position(|(offset, _)| *offset == register).unwrap_or(0);
        Step::Set(number as u8, value)
    };
    vec![
        set(STATUS, 1),
        set(STATUS, 3),
        set(DRIVER_FEATURE, FEATURE as u32),
        set(DRIVER_SELECT, 1),
        set(DRIVER_FEATURE, 1),
        set(STATUS, 0xb),
        set(QUEUE_SIZE, u32::from(MAX_SIZE)),
        set(DESC, desc),
        set(AVAIL, avail),
        set(USED, used),
        set(QUEUE_ENABLE, 1),
        set(STATUS, 0xf),
    ]
}

pub fn seeds() -> Vec<Seed> {
    let reset = || Step::Set(6, 0);
    let chain = |parts: Vec<Vec<Step>>| steps::written(&parts.into_iter().flatten().collect::<Vec<_>>());
    let good = || driven(0x1000, 0x2000, 0x3000);
    let late = vec![Step::Set(8, 0), Step::Set(13, 0x5000), Step::Set(11, 1), Step::Set(3, 7)];
    let lines = vec![
        Step::WriteConfig(0x98 + 2, vec![0, 0x80]),
        Step::Write(0x4008, vec![1, 0, 0, 0, 0, 0, 0, 0]),
        Step::RefuseLines(true),
        Step::Write(0x4008, vec![1, 0, 0, 0, 1, 0, 0, 0]),
        Step::Read(0x5000, 8),
    ];
    vec![
        ("started", chain(vec![good(), late])),
        ("last_page", chain(vec![driven(0xff00, 0xffd8, 0xff7c)])),
        ("outside", chain(vec![driven(0x1_0000, 0x2000, 0x3000), vec![reset()], good()])),
        ("failed", chain(vec![good(), vec![Step::Fail, Step::Read(0, 4)]])),
        (
            "slow_reset",
            chain(vec![good(), vec![Step::Busy(true), reset()], good(), vec![Step::Busy(false)], good()]),
        ),
        ("lines", chain(vec![lines])),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_does_as_it_should_starts_the_device_and_one_with_rings_outside_does_not() {
        for (desc, is_active) in [(0x1000, true), (0x1_0000, false)] {
            let guest = Guest::new(MEMORY_BYTES);
            let (transport, handle) = virtio_device::transport(1, &guest);
            let mut driver = Driver { transport, handle };
            driven(desc, 0x2000, 0x3000).into_iter().for_each(|step| driver.take(step));
            assert_eq!(driver.handle.seen().is_active, is_active);
        }
    }
}
