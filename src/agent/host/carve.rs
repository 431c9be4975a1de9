//! What can be set aside for a partition: decided from what the host has and what is held already (law 2).

use std::collections::BTreeSet;

use serde::Deserialize;
use thiserror::Error;

use crate::{api::agent::Capacity, domain::resources::Allocation};

/// Host memory that a partition takes beyond its guest's, in MiB: the VMM itself, page tables, vhost.
pub const VMM_OVERHEAD_MIB: u64 = 16;

/// What the host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostResources {
    /// CPUs that are online, by core: the hardware threads that share one.
    pub cores: Vec<Core>,
    pub memory_mib: u64,
    /// What the state directory's file system can hold for partitions: what is free there and what they hold.
    pub disk_mib: u64,
}

/// One core's hardware threads, ascending.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Core(pub Vec<u32>);

/// What the owner keeps in any case. Its CPUs are the lowest, so CPU 0 is always among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reserve {
    pub cpus: u32,
    pub memory_mib: u64,
    pub disk_mib: u64,
}

/// What one partition holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holding {
    pub cpus: Vec<u32>,
    pub memory_mib: u64,
    pub disk_mib: u64,
}

/// Why an allocation cannot be set aside here. Nothing was.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CarveError {
    #[error(
        "allocation.cpus: {wanted} cannot be made of whole cores; this host's free cores have {threads} threads"
    )]
    NotWholeCores { wanted: u32, threads: String },
    #[error("allocation.cpus: {wanted} are asked for, {free} are free")]
    Cpus { wanted: u32, free: u32 },
    #[error(
        "allocation.memory_mib: {wanted} are asked for ({VMM_OVERHEAD_MIB} more are needed beside them), {free} are free"
    )]
    Memory { wanted: u64, free: u64 },
    #[error("allocation.disk_mib: {wanted} are asked for, {free} are free")]
    Disk { wanted: u64, free: u64 },
}

/// Why the reserve cannot be kept.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ReserveError {
    #[error("reserve.cpus: {wanted} do not end at a whole core; {fits} do")]
    NotWholeCores { wanted: u32, fits: u32 },
    #[error("reserve.cpus: the host has only {0}")]
    Cpus(u32),
    #[error("reserve.memory_mib: the host has only {0}")]
    Memory(u64),
}

impl Reserve {
    /// Its CPUs: where everything runs that is no guest's.
    pub fn host_cpus(&self, cores: &[Core]) -> Vec<u32> {
        let ordered: BTreeSet<&Core> = cores.iter().collect();
        ordered.into_iter().flat_map(|core| core.0.iter().copied()).take(self.cpus as usize).collect()
    }
}

impl HostResources {
    pub fn cpu_count(&self) -> u32 {
        count(&self.cores)
    }
}

/// The host's resources with the reserve taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lendable {
    cores: Vec<Core>,
    memory_mib: u64,
    disk_mib: u64,
}

impl Lendable {
    pub fn new(host: &HostResources, reserve: &Reserve) -> Result<Self, ReserveError> {
        let mut cores = host.cores.clone();
        cores.sort();
        let mut kept = 0;
        let mut lent_from = 0;
        while kept < reserve.cpus {
            let core = cores.get(lent_from).ok_or(ReserveError::Cpus(host.cpu_count()))?;
            kept += size(core);
            lent_from += 1;
        }
        if kept != reserve.cpus {
            return Err(ReserveError::NotWholeCores { wanted: reserve.cpus, fits: kept });
        }
        let memory_mib =
            host.memory_mib.checked_sub(reserve.memory_mib).ok_or(ReserveError::Memory(host.memory_mib))?;
        let disk_mib = host.disk_mib.saturating_sub(reserve.disk_mib);
        Ok(Self { cores: cores.split_off(lent_from), memory_mib, disk_mib })
    }

    /// What is left beside `held`.
    pub fn free(&self, held: &[Holding]) -> Capacity {
        Capacity {
            cpus: count(&self.free_cores(held)),
            memory_mib: self.memory_mib.saturating_sub(held.iter().map(Holding::host_memory_mib).sum()),
            disk_mib: self.disk_mib.saturating_sub(held.iter().map(|held| held.disk_mib).sum()),
        }
    }

    /// What `wanted` would hold beside `held`.
    pub fn carve(&self, wanted: &Allocation, held: &[Holding]) -> Result<Holding, CarveError> {
        let free = self.free(held);
        if wanted.memory_mib.saturating_add(VMM_OVERHEAD_MIB) > free.memory_mib {
            return Err(CarveError::Memory { wanted: wanted.memory_mib, free: free.memory_mib });
        }
        if wanted.disk_mib > free.disk_mib {
            return Err(CarveError::Disk { wanted: wanted.disk_mib, free: free.disk_mib });
        }
        let cpus = choose_cores(wanted.cpus, &self.free_cores(held))?;
        Ok(Holding { cpus, memory_mib: wanted.memory_mib, disk_mib: wanted.disk_mib })
    }

    /// What a partition that holds `now` would hold with `wanted` instead. `held` is all that is held by others.
    /// CPUs that stay enough stay the same, and what takes no more than before is not refused, however little is left.
    pub fn change(
        &self,
        wanted: &Allocation,
        now: &Holding,
        held: &[Holding],
    ) -> Result<Holding, CarveError> {
        let no_more = count_of(&now.cpus) == wanted.cpus
            && wanted.memory_mib <= now.memory_mib
            && wanted.disk_mib <= now.disk_mib;
        if no_more {
            let Allocation { memory_mib, disk_mib, .. } = *wanted;
            return Ok(Holding { cpus: now.cpus.clone(), memory_mib, disk_mib });
        }
        let mut changed = self.carve(wanted, held)?;
        if changed.cpus.len() == now.cpus.len() {
            changed.cpus.clone_from(&now.cpus);
        }
        Ok(changed)
    }

    fn free_cores(&self, held: &[Holding]) -> Vec<Core> {
        let taken: BTreeSet<u32> = held.iter().flat_map(|held| held.cpus.iter().copied()).collect();
        let is_free = |core: &&Core| core.0.iter().all(|cpu| !taken.contains(cpu));
        self.cores.iter().filter(is_free).cloned().collect()
    }
}

impl Holding {
    pub fn host_memory_mib(&self) -> u64 {
        self.memory_mib.saturating_add(VMM_OVERHEAD_MIB)
    }
}

fn size(core: &Core) -> u32 {
    count_of(&core.0)
}

fn count_of(cpus: &[u32]) -> u32 {
    u32::try_from(cpus.len()).unwrap_or(u32::MAX)
}

fn count(cores: &[Core]) -> u32 {
    cores.iter().map(size).sum()
}

/// Whole cores with exactly `wanted` threads, the ones with most threads first, then the lowest.
fn choose_cores(wanted: u32, free: &[Core]) -> Result<Vec<u32>, CarveError> {
    if wanted > count(free) {
        return Err(CarveError::Cpus { wanted, free: count(free) });
    }
    let mut cores: Vec<&Core> = free.iter().collect();
    cores.sort_by_key(|core| (std::cmp::Reverse(core.0.len()), core.0.first().copied()));
    let mut left = wanted;
    let mut chosen = Vec::new();
    for core in cores {
        if size(core) <= left {
            left -= size(core);
            chosen.extend(&core.0);
        }
    }
    if left > 0 {
        return Err(CarveError::NotWholeCores { wanted, threads: thread_counts(free) });
    }
    chosen.sort_unstable();
    Ok(chosen)
}

fn thread_counts(cores: &[Core]) -> String {
    let counts: BTreeSet<usize> = cores.iter().map(|core| core.0.len()).collect();
    counts.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests;
