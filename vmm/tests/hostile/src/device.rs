//! A virtio device over PCI (virtio 1.2, 4.1), found by its capabilities.

use std::{io, time::Duration};

use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use crate::{
    Outcome,
    memory::Memory,
    pci::Function,
    registers::Window,
    ring::{Places, Ring},
    until,
};

/// Device ids (virtio 1.2, 5).
pub(crate) const BLOCK: u16 = 2;
pub(crate) const RNG: u16 = 4;
pub(crate) const VSOCK: u16 = 19;

pub(crate) const NO_VECTOR: u16 = 0xffff;
pub(crate) const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
/// What is accepted of a disk's features, where it has them.
const BLOCK_FEATURES: u64 =
    1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
/// Longest a reset may take: what the device has in hand has to end first.
const RESET_LIMIT: Duration = Duration::from_secs(20);

/// Registers of the common configuration (virtio 1.2, 4.1.4.3).
const DEVICE_SELECT: usize = 0x00;
const DEVICE_FEATURES: usize = 0x04;
const DRIVER_SELECT: usize = 0x08;
const DRIVER_FEATURES: usize = 0x0c;
pub(crate) const CONFIG_VECTOR: usize = 0x10;
const QUEUES: usize = 0x12;
pub(crate) const STATUS: usize = 0x14;
const QUEUE_SELECT: usize = 0x16;
pub(crate) const QUEUE_SIZE: usize = 0x18;
pub(crate) const QUEUE_VECTOR: usize = 0x1a;
pub(crate) const QUEUE_ENABLE: usize = 0x1c;
pub(crate) const QUEUE_DESCRIPTORS: usize = 0x20;
pub(crate) const QUEUE_AVAILABLE: usize = 0x28;
pub(crate) const QUEUE_USED: usize = 0x30;

/// Capability ids, and the kinds of virtio's.
const VENDOR_SPECIFIC: u8 = 9;
const MSIX: u8 = 0x11;
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) function: Function,
    /// Its id among virtio's devices.
    pub(crate) kind: u16,
    pub(crate) registers: Window,
    common: usize,
    pub(crate) notify: usize,
    notify_step: usize,
    /// Where its own configuration is.
    pub(crate) own: usize,
    pub(crate) msix: Msix,
    /// Largest size of each queue.
    pub(crate) sizes: Vec<u16>,
}

/// Where MSI-X is: its control register in configuration space, table and pending bits in the registers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Msix {
    pub(crate) control: u64,
    pub(crate) table: usize,
    pub(crate) pending: usize,
    pub(crate) vectors: u16,
}

impl Device {
    /// All that the machine has, taken from their drivers.
    pub(crate) fn all() -> io::Result<Vec<Self>> {
        Function::all()?.into_iter().map(Self::take).collect()
    }

    fn take(function: Function) -> io::Result<Self> {
        function.take()?;
        let mut device = Self {
            kind: function.config::<u16>(2) - 0x1040,
            registers: function.registers()?,
            common: 0,
            notify: 0,
            notify_step: 0,
            own: 0,
            msix: Msix::default(),
            sizes: vec![],
            function,
        };
        device.find_places();
        device.sizes = (0..device.common::<u16>(QUEUES)).map(|queue| device.queue_size(queue)).collect();
        Ok(device)
    }

    fn find_places(&mut self) {
        for capability in self.function.capabilities() {
            let word = |at: usize| u32::from_le_bytes(capability.bytes[at..at + 4].try_into().unwrap());
            match (capability.id, capability.bytes[3]) {
                (VENDOR_SPECIFIC, COMMON) => self.common = word(8) as usize,
                (VENDOR_SPECIFIC, NOTIFY) => {
                    (self.notify, self.notify_step) = (word(8) as usize, word(16) as usize);
                }
                (VENDOR_SPECIFIC, DEVICE) => self.own = word(8) as usize,
                (MSIX, _) => {
                    self.msix = Msix {
                        control: capability.at + 2,
                        table: word(4) as usize & !7,
                        pending: word(8) as usize & !7,
                        vectors: (word(0) >> 16) as u16 % 2048 + 1,
                    };
                }
                _ => {}
            }
        }
    }

    pub(crate) fn name(&self) -> String {
        let kind = match self.kind {
            BLOCK => "block".to_owned(),
            RNG => "rng".to_owned(),
            VSOCK => "vsock".to_owned(),
            kind => format!("device-{kind}"),
        };
        format!("{kind}-{}", self.function.slot())
    }

    pub(crate) fn common<W: crate::registers::Word>(&self, register: usize) -> W {
        self.registers.get(self.common + register)
    }

    pub(crate) fn set_common<W: crate::registers::Word>(&self, register: usize, value: W) {
        self.registers.put(self.common + register, value);
    }

    pub(crate) fn select(&self, queue: u16) {
        self.set_common(QUEUE_SELECT, queue);
    }

    fn queue_size(&self, queue: u16) -> u16 {
        self.select(queue);
        self.common(QUEUE_SIZE)
    }

    pub(crate) fn status(&self) -> u8 {
        self.common(STATUS)
    }

    /// Whether it has told that it cannot go on.
    pub(crate) fn needs_reset(&self) -> bool {
        self.status() & NEEDS_RESET != 0
    }

    /// As after power-on; what is not reset in time never will be.
    pub(crate) fn reset(&self) -> Outcome {
        self.set_common(STATUS, 0u8);
        let done = until(RESET_LIMIT, || (self.status() == 0).then_some(()));
        done.ok_or_else(|| format!("a reset does not end, its status stays {:#x}", self.status()))
    }

    pub(crate) fn offered(&self) -> u64 {
        let half = |select: u32| {
            self.set_common(DEVICE_SELECT, select);
            u64::from(self.common::<u32>(DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    pub(crate) fn accept(&self, features: u64) {
        for (select, half) in [(0u32, features as u32), (1, (features >> 32) as u32)] {
            self.set_common(DRIVER_SELECT, select);
            self.set_common(DRIVER_FEATURES, half);
        }
    }

    /// Everything before its queues are set up, with these features and what every driver accepts.
    pub(crate) fn negotiate(&self, features: u64) -> Outcome {
        let mut status = (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER) as u8;
        self.set_common(STATUS, status);
        self.accept(self.offered() & (features | 1 << VIRTIO_F_VERSION_1));
        status |= VIRTIO_CONFIG_S_FEATURES_OK as u8;
        self.set_common(STATUS, status);
        if self.status() == status { Ok(()) } else { Err(format!("its status is {:#x}", self.status())) }
    }

    pub(crate) fn set_queue(&self, queue: u16, size: u16, places: Places, vector: u16) {
        self.select(queue);
        self.set_common(QUEUE_SIZE, size);
        self.set_common(QUEUE_VECTOR, vector);
        self.set_address(QUEUE_DESCRIPTORS, places.descriptors);
        self.set_address(QUEUE_AVAILABLE, places.available);
        self.set_address(QUEUE_USED, places.used);
        self.set_common(QUEUE_ENABLE, 1u16);
    }

    pub(crate) fn set_address(&self, register: usize, address: u64) {
        self.set_common(register, address as u32);
        self.set_common(register + 4, (address >> 32) as u32);
    }

    pub(crate) fn address(&self, register: usize) -> u64 {
        u64::from(self.common::<u32>(register)) | u64::from(self.common::<u32>(register + 4)) << 32
    }

    pub(crate) fn ready(&self) {
        let status = self.status();
        self.set_common(STATUS, status | DRIVER_OK);
    }

    /// Resets it and starts it with all queues in good places, which interrupt by `vector`.
    pub(crate) fn start(&self, memory: Memory, vector: u16) -> Result<Vec<Ring>, String> {
        self.reset()?;
        let own = if self.kind == BLOCK { BLOCK_FEATURES } else { 0 };
        self.negotiate(1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX | own)?;
        let rings: Vec<_> =
            (0..).zip(&self.sizes).map(|(queue, size)| Ring::new(memory, queue, *size)).collect();
        for (queue, ring) in (0..).zip(&rings) {
            self.set_queue(queue, ring.size, ring.places, vector);
        }
        self.ready();
        match self.status() & (DRIVER_OK | NEEDS_RESET) {
            DRIVER_OK => Ok(rings),
            _ => Err(format!("it does not start, its status is {:#x}", self.status())),
        }
    }

    pub(crate) fn notify(&self, queue: u16) {
        self.registers.put(self.notify + usize::from(queue) * self.notify_step, queue);
    }

    pub(crate) fn notify_all(&self) {
        (0..self.sizes.len() as u16).for_each(|queue| self.notify(queue));
    }
}
