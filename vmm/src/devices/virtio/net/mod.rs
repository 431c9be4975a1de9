//! virtio-net (virtio 1.2, 5.1) served by the host's kernel (vhost-net) over a TAP interface: this process only
//! configures it, and no byte of a frame passes through it.
//!
//! So how much may pass is not limited here, as it is for a disk, but by whoever made the interface, with the host's
//! packet filter on it. What a guest may say, and to whom, is decided there too: a guest can send any frame.
//!
//! The card has one pair of queues, whose frames one thread of the kernel's carries; several would need a TAP with
//! several queues and a control queue for the driver to turn them on.

pub mod config;
pub mod device;
pub mod queue;

pub use self::device::{KernelNet, NetCard, NetError};
