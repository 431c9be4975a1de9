//! What a disk's requests are and where its bytes come from, apart from any virtual device.

pub mod disk;
pub mod request;

/// virtio-blk counts in sectors of this size whatever the disk's own (virtio 1.2, 5.2.4).
pub const SECTOR_SIZE: u64 = 512;
