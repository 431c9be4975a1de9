//! Disks and how bytes get from and to them, apart from any virtual device.
//!
//! A [`disk`] is opened while the machine is prepared; a [`layer`] makes it another than its file. An [`io::Io`] is one piece of work on it, which owns the
//! [`buffers`] of the guest's memory that it moves bytes to or from until it is done. An [`engine`] carries work out:
//! many at once through io_uring, or one after another where the kernel has none.

pub mod buffers;
pub mod device_limits;
pub mod disk;
pub mod engine;
pub mod io;
pub mod layer;

/// virtio-blk counts in sectors of this size whatever the disk's own (virtio 1.2, 5.2.4).
pub const SECTOR_SIZE: u64 = 512;
