//! What a driver reads of the card (virtio 1.2, 5.3.3 and 5.3.4).

use crate::devices::virtio::{COMMON_FEATURES, DeviceIdentity};

/// Console device; PCI class: communication controller, other.
pub const IDENTITY: DeviceIdentity = DeviceIdentity { device_type: 3, class: 0x07_80_00 };
pub const QUEUE_SIZE: u16 = 64;
/// Of port 0, from here to the guest and back; of control messages, the same.
pub const TO_GUEST: usize = 0;
pub const FROM_GUEST: usize = 1;
pub const CONTROL_TO_GUEST: usize = 2;
pub const CONTROL_FROM_GUEST: usize = 3;
pub const QUEUES: usize = 4;
/// VIRTIO_CONSOLE_F_MULTIPORT: without it a port has no name.
pub const MULTIPORT: u64 = 1 << 1;
pub const FEATURES: u64 = COMMON_FEATURES | MULTIPORT;

/// No size of a screen, one port, no emergency writes.
pub const CONFIG: [u8; 12] = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
