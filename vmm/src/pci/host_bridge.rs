//! The bus's first function, by which an operating system that probes finds that there is a bus.

use std::time::Duration;

use super::{
    PciFunction,
    config_space::{ConfigSpace, Identity},
};

/// Red Hat's generic PCI Express host bridge: no registers, no driver needed.
const IDENTITY: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    revision: 0,
    class: 0x06_00_00,
    subsystem_vendor: 0,
    subsystem: 0,
};

#[derive(Debug)]
pub struct HostBridge(ConfigSpace);

impl HostBridge {
    pub fn new() -> Self {
        Self(ConfigSpace::new(IDENTITY))
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl PciFunction for HostBridge {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.0.write(offset, data);
    }

    fn read_registers(&mut self, _offset: u64, _data: &mut [u8]) {}

    fn write_registers(&mut self, _offset: u64, _data: &[u8]) {}

    fn reset(&mut self, _patience: Duration) -> bool {
        true
    }
}
