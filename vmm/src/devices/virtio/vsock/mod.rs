//! virtio-vsock (virtio 1.2, 5.10) served by the host's kernel (vhost-vsock): this process only configures it.

pub mod config;
pub mod device;
pub mod queue;

pub use self::device::{KernelVsock, VsockCard, VsockError};
