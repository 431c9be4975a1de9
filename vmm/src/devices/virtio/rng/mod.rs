//! virtio-rng (virtio 1.2, 5.4): random bytes of the host's kernel, no more than is good for it.

pub mod config;
pub mod device;
pub mod queue;

pub use self::device::{Rng, RngError};

#[cfg(test)]
mod tests;
