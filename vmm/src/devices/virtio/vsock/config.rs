//! What a driver reads of the card (virtio 1.2, 5.10.3 and 5.10.4).

use crate::devices::virtio::{COMMON_FEATURES, DeviceIdentity};

/// Socket device; PCI class: communication controller, other.
pub const IDENTITY: DeviceIdentity = DeviceIdentity { device_type: 19, class: 0x07_80_00 };
pub const QUEUE_SIZE: u16 = 256;
/// Receive, transmit, event; the kernel serves the first two, and events tell of migrations, which there are none.
pub const QUEUES: usize = 3;
pub const KERNEL_QUEUES: usize = 2;
/// VIRTIO_VSOCK_F_SEQPACKET.
const SEQPACKET: u64 = 1 << 1;

/// Of what the kernel offers, what is passed on.
pub fn features(offered: u64) -> u64 {
    offered & (COMMON_FEATURES | SEQPACKET)
}

/// The guest's context id.
pub fn config(cid: u32) -> [u8; 8] {
    u64::from(cid).to_le_bytes()
}
