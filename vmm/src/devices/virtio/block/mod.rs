//! virtio-blk (virtio 1.2, 5.2): disks, with as many queues as the guest has CPUs.
//!
//! All queues of a disk are served by one thread; the work itself is the kernel's, see [`crate::block::engine`].

pub mod config;
pub mod device;
pub mod queue;
pub mod request;

pub use self::device::{Block, BlockError, BlockOptions, DiskService};

#[cfg(test)]
mod tests;
