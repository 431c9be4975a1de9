//! virtio-console (virtio 1.2, 5.3) with one named port: a stream of bytes between `/dev/virtio-ports/NAME` in the guest
//! and a Unix socket of the host, for guests that lack vsock. It is no console: that is the serial port.

pub mod config;
pub mod control;
pub mod device;
pub mod queue;

pub use self::device::{PortCard, PortError};

#[cfg(test)]
mod tests;
