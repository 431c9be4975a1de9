//! The registers by which a driver configures any virtio device over PCI (virtio 1.2, 4.1.4.3).
//!
//! Pure: what is written changes these registers and says what has to be done. Features are fixed once the driver
//! says FEATURES_OK, a queue once it is enabled, everything once the driver says DRIVER_OK; later writes are
//! ignored. So what a device was started with is what it goes on with until it is reset.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};

/// The vector that means "no interrupt".
pub const NO_VECTOR: u16 = 0xffff;

/// Offsets of the registers.
const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_VECTOR: u64 = 0x10;
const NUM_QUEUES: u64 = 0x12;
const STATUS: u64 = 0x14;
const CONFIG_GENERATION: u64 = 0x15;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFF: u64 = 0x1e;
const QUEUE_DESC_LOW: u64 = 0x20;
const QUEUE_DESC_HIGH: u64 = 0x24;
const QUEUE_DRIVER_LOW: u64 = 0x28;
const QUEUE_DRIVER_HIGH: u64 = 0x2c;
const QUEUE_DEVICE_LOW: u64 = 0x30;
const QUEUE_DEVICE_HIGH: u64 = 0x34;

const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;

/// What a write asks the transport to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    None,
    /// The driver is ready.
    Activate,
    /// The driver wants the device as after power-on.
    Reset,
}

/// A queue as the driver describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueConfig {
    pub max_size: u16,
    pub size: u16,
    pub enabled: bool,
    pub vector: u16,
    /// Guest physical addresses of descriptor table, available ring and used ring.
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
}

/// The registers of one device.
#[derive(Debug, Clone)]
pub struct CommonConfig {
    offered: u64,
    accepted: u64,
    device_select: u32,
    driver_select: u32,
    config_vector: u16,
    status: u8,
    queue_select: u16,
    queues: Vec<QueueConfig>,
    vectors: u16,
}

impl CommonConfig {
    /// For a device that offers these features and queues, with this many interrupt vectors.
    pub fn new(offered: u64, max_sizes: impl Iterator<Item = u16>, vectors: u16) -> Self {
        Self {
            offered,
            accepted: 0,
            device_select: 0,
            driver_select: 0,
            config_vector: NO_VECTOR,
            status: 0,
            queue_select: 0,
            queues: max_sizes.map(QueueConfig::new).collect(),
            vectors,
        }
    }

    pub fn accepted_features(&self) -> u64 {
        self.accepted
    }

    pub fn queues(&self) -> &[QueueConfig] {
        &self.queues
    }

    pub fn config_vector(&self) -> u16 {
        self.config_vector
    }

    /// Says in the status that the driver must reset the device.
    pub fn need_reset(&mut self) {
        self.status |= NEEDS_RESET;
    }

    /// Back to how it was after power-on.
    pub fn reset(&mut self) {
        let max_sizes: Vec<u16> = self.queues.iter().map(|queue| queue.max_size).collect();
        *self = Self::new(self.offered, max_sizes.into_iter(), self.vectors);
    }

    /// Reads a register; only in its own size, anything else is left as it is.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let bytes = match data.len() {
            1 => self.read_8(offset).map(u32::from),
            2 => self.read_16(offset).map(u32::from),
            4 => self.read_32(offset),
            _ => None,
        };
        if let Some(value) = bytes {
            data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
        }
    }

    /// Writes a register; only in its own size, anything else is ignored.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        match *data {
            [value] if offset == STATUS => return self.write_status(value),
            [a, b] => self.write_16(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_32(offset, u32::from_le_bytes([a, b, c, d])),
            _ => {}
        }
        Effect::None
    }

    fn read_8(&self, offset: u64) -> Option<u8> {
        match offset {
            STATUS => Some(self.status),
            // Nothing in a device's configuration ever changes here.
            CONFIG_GENERATION => Some(0),
            _ => None,
        }
    }

    fn read_16(&self, offset: u64) -> Option<u16> {
        let queue = self.queues.get(self.queue_select as usize);
        Some(match offset {
            CONFIG_VECTOR => self.config_vector,
            NUM_QUEUES => self.queues.len() as u16,
            QUEUE_SELECT => self.queue_select,
            // Zero says that there is no such queue.
            QUEUE_SIZE => queue.map_or(0, |queue| queue.size),
            QUEUE_VECTOR => queue.map_or(NO_VECTOR, |queue| queue.vector),
            QUEUE_ENABLE => queue.map_or(0, |queue| u16::from(queue.enabled)),
            QUEUE_NOTIFY_OFF => queue.map_or(0, |_| self.queue_select),
            _ => return None,
        })
    }

    fn read_32(&self, offset: u64) -> Option<u32> {
        let queue = self.queues.get(self.queue_select as usize);
        Some(match offset {
            DEVICE_FEATURE_SELECT => self.device_select,
            DEVICE_FEATURE => half(self.offered, self.device_select),
            DRIVER_FEATURE_SELECT => self.driver_select,
            DRIVER_FEATURE => half(self.accepted, self.driver_select),
            QUEUE_DESC_LOW => queue.map_or(0, |queue| half(queue.desc, 0)),
            QUEUE_DESC_HIGH => queue.map_or(0, |queue| half(queue.desc, 1)),
            QUEUE_DRIVER_LOW => queue.map_or(0, |queue| half(queue.avail, 0)),
            QUEUE_DRIVER_HIGH => queue.map_or(0, |queue| half(queue.avail, 1)),
            QUEUE_DEVICE_LOW => queue.map_or(0, |queue| half(queue.used, 0)),
            QUEUE_DEVICE_HIGH => queue.map_or(0, |queue| half(queue.used, 1)),
            _ => return None,
        })
    }

    /// Status bits are only ever added, but for the reset that takes them all (virtio 1.2, 2.1.2).
    fn write_status(&mut self, value: u8) -> Effect {
        if value == 0 {
            return Effect::Reset;
        }
        let added = value & !self.status & !NEEDS_RESET;
        let was_ready = self.status & DRIVER_OK != 0;
        self.status |= added & !(FEATURES_OK | DRIVER_OK);
        if added & FEATURES_OK != 0 && self.features_are_fine() {
            self.status |= FEATURES_OK;
        }
        if added & DRIVER_OK != 0 && !was_ready && self.status & FEATURES_OK != 0 {
            self.status |= DRIVER_OK;
            return Effect::Activate;
        }
        Effect::None
    }

    fn features_are_fine(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & 1 << VIRTIO_F_VERSION_1 != 0
    }

    fn write_16(&mut self, offset: u64, value: u16) {
        let vector = if value < self.vectors { value } else { NO_VECTOR };
        match offset {
            QUEUE_SELECT => self.queue_select = value,
            CONFIG_VECTOR if !self.is_ready() => self.config_vector = vector,
            QUEUE_SIZE => self.change_queue(|queue| queue.set_size(value)),
            QUEUE_VECTOR => self.change_queue(|queue| queue.vector = vector),
            QUEUE_ENABLE if value == 1 => self.change_queue(|queue| queue.enabled = true),
            _ => {}
        }
    }

    fn write_32(&mut self, offset: u64, value: u32) {
        match offset {
            DEVICE_FEATURE_SELECT => self.device_select = value,
            DRIVER_FEATURE_SELECT => self.driver_select = value,
            DRIVER_FEATURE if self.status & FEATURES_OK == 0 => {
                set_half(&mut self.accepted, self.driver_select, value);
            }
            QUEUE_DESC_LOW => self.change_queue(|queue| set_half(&mut queue.desc, 0, value)),
            QUEUE_DESC_HIGH => self.change_queue(|queue| set_half(&mut queue.desc, 1, value)),
            QUEUE_DRIVER_LOW => self.change_queue(|queue| set_half(&mut queue.avail, 0, value)),
            QUEUE_DRIVER_HIGH => self.change_queue(|queue| set_half(&mut queue.avail, 1, value)),
            QUEUE_DEVICE_LOW => self.change_queue(|queue| set_half(&mut queue.used, 0, value)),
            QUEUE_DEVICE_HIGH => self.change_queue(|queue| set_half(&mut queue.used, 1, value)),
            _ => {}
        }
    }

    fn is_ready(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    /// Changes the selected queue, if it is still open to change.
    fn change_queue(&mut self, change: impl FnOnce(&mut QueueConfig)) {
        let is_ready = self.is_ready();
        match self.queues.get_mut(self.queue_select as usize) {
            Some(queue) if !is_ready && !queue.enabled => change(queue),
            _ => {}
        }
    }
}

impl QueueConfig {
    fn new(max_size: u16) -> Self {
        Self { max_size, size: max_size, enabled: false, vector: NO_VECTOR, desc: 0, avail: 0, used: 0 }
    }

    fn set_size(&mut self, size: u16) {
        if size.is_power_of_two() && size <= self.max_size {
            self.size = size;
        }
    }
}

/// Word 0 or 1 of a 64-bit register; there are no others.
fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, select: u32, word: u32) {
    match select {
        0 => *value = (*value & !0xffff_ffff) | u64::from(word),
        1 => *value = (*value & 0xffff_ffff) | u64::from(word) << 32,
        _ => {}
    }
}

#[cfg(test)]
mod tests;
