//! What a driver reads of the source: nothing but what it is (virtio 1.2, 5.4.3 and 5.4.4).

use crate::devices::virtio::{COMMON_FEATURES, DeviceIdentity};

/// Entropy source; PCI class: unclassified, as there is none for it.
pub const IDENTITY: DeviceIdentity = DeviceIdentity { device_type: 4, class: 0x00_ff_00 };
/// A driver has one request waiting, rarely two.
pub const QUEUE_SIZE: u16 = 16;
pub const FEATURES: u64 = COMMON_FEATURES;
