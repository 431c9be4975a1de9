//! What the owner keeps in any case.

use serde::Deserialize;
use thiserror::Error;

use crate::inventory::topology::{Core, Topology};

/// Its CPUs are the lowest, so CPU 0 is always among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reserve {
    pub cpus: u32,
    pub memory_mib: u64,
    pub disk_mib: u64,
}

/// Why the reserve cannot be kept.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ReserveError {
    #[error("reserve.cpus: {wanted} do not end at a whole core; {fits} do")]
    NotWholeCores { wanted: u32, fits: u32 },
    #[error("reserve.cpus: the host has only {0}")]
    Cpus(u32),
    #[error("reserve.memory_mib: the host has only {0}, huge pages not counted")]
    Memory(u64),
}

impl Reserve {
    /// Its CPUs: where everything runs that is no guest's.
    pub fn host_cpus(&self, topology: &Topology) -> Vec<u32> {
        let cpus = topology.cores.iter().flat_map(|core| core.cpus.iter().copied());
        cpus.take(self.cpus as usize).collect()
    }

    /// The cores that it keeps, and those that are left.
    pub(super) fn divide(&self, topology: &Topology) -> Result<(Vec<Core>, Vec<Core>), ReserveError> {
        let (mut kept, mut cpus) = (Vec::new(), 0);
        while cpus < self.cpus {
            let core = topology.cores.get(kept.len()).ok_or(ReserveError::Cpus(topology.cpu_count()))?;
            cpus += core.threads();
            kept.push(core.clone());
        }
        if cpus != self.cpus {
            return Err(ReserveError::NotWholeCores { wanted: self.cpus, fits: cpus });
        }
        let left = topology.cores.iter().skip(kept.len()).cloned().collect();
        Ok((kept, left))
    }
}
