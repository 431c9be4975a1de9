//! What of the machine the program uses, a file each.

mod bytes;
pub(crate) mod clock;
pub(crate) mod disk;
pub(crate) mod heap;
pub(crate) mod memory;
mod pci;
pub(crate) mod ports;
mod transport;
mod unwind;
