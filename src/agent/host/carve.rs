//! What can be set aside for a partition: decided from what the host has and what is held already (law 2).
//!
//! Whole cores are a partition's alone, with all their hardware threads. Shares of CPUs [0019] lie on cores that are set
//! aside for shares: no core has both. Memory is near its CPUs: within one complex of cores where they fit, else on one
//! NUMA node, else on several. The reserve's CPUs are never lent.

mod cores;
mod memory;
mod reserve;

use std::collections::BTreeSet;

use thiserror::Error;

use self::{
    cores::{Free, Pool},
    memory::{Demand, Memory},
};
pub use self::{
    memory::VMM_OVERHEAD_MIB,
    reserve::{Reserve, ReserveError},
};
use crate::{
    api::agent::Capacity,
    domain::resources::Allocation,
    inventory::topology::{Core, Topology},
};

/// What the host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostResources {
    pub topology: Topology,
    /// What the state directory's file system can hold for partitions: what is free there and what they hold.
    pub disk_mib: u64,
}

/// What a partition is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub allocation: Allocation,
    /// Of each CPU's time; none: whole cores.
    pub cpu_share_percent: Option<u8>,
}

/// What one partition holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holding {
    pub cpus: Vec<u32>,
    /// Of each of these CPUs' time; none: whole cores.
    pub cpu_share_percent: Option<u8>,
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
        "allocation.cpus: {wanted} with {percent} % of each are asked for, {free} have as much left; cores that are set \
         aside for shares and cores that are free were looked at"
    )]
    Shares { wanted: u32, percent: u8, free: u32 },
    #[error(
        "allocation.memory_mib: {wanted} are asked for ({VMM_OVERHEAD_MIB} more are needed beside them), {free} are free"
    )]
    Memory { wanted: u64, free: u64 },
    #[error(
        "allocation.memory_mib: {wanted} are asked for, {free} are free in huge pages of 2 MiB: vm.nr_hugepages reserves \
         them before the agent is started"
    )]
    HugePages { wanted: u64, free: u64 },
    #[error("allocation.memory_mib: must be even, as huge pages are of 2 MiB, is {0}")]
    OddHugePages(u64),
    #[error("allocation: {VMM_OVERHEAD_MIB} MiB are needed beside huge pages, {free} are free")]
    BesideHugePages { free: u64 },
    #[error(
        "allocation: {wanted} MiB of memory are free, but not on the NUMA nodes of CPUs that are; free are {free}"
    )]
    Nodes { wanted: u64, free: String },
    #[error("allocation.disk_mib: {wanted} are asked for, {free} are free")]
    Disk { wanted: u64, free: u64 },
}

/// The host's resources with the reserve taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lendable {
    topology: Topology,
    cores: Vec<Core>,
    memory: Memory,
    disk_mib: u64,
}

impl Lendable {
    /// `huge_pages`: guests' memory is of these and of nothing else.
    pub fn new(host: &HostResources, reserve: &Reserve, huge_pages: bool) -> Result<Self, ReserveError> {
        let (kept, cores) = reserve.divide(&host.topology)?;
        Ok(Self {
            memory: Memory::new(&host.topology, &kept, reserve.memory_mib, huge_pages)?,
            topology: host.topology.clone(),
            cores,
            disk_mib: host.disk_mib.saturating_sub(reserve.disk_mib),
        })
    }

    /// What is left beside `held`.
    pub fn free(&self, held: &[Holding]) -> Capacity {
        Capacity {
            cpus: self.free_cores(held).threads(),
            memory_mib: self.memory.free(&self.demands(held)),
            disk_mib: self.disk_mib.saturating_sub(held.iter().map(|held| held.disk_mib).sum()),
        }
    }

    /// What `wanted` would hold beside `held`.
    pub fn carve(&self, wanted: &Wanted, held: &[Holding]) -> Result<Holding, CarveError> {
        let free = self.free_cores(held);
        self.check_sizes(&wanted.allocation, held)?;
        let pools = free.pools(wanted.cpu_share_percent.is_some());
        let mut refusal = None;
        for cpus in pools.iter().filter_map(|pool| choose(wanted, pool)) {
            let holding = wanted.holding(cpus);
            if self.memory_fits(&holding, held) {
                return Ok(holding);
            }
            let wanted = wanted.allocation.memory_mib;
            refusal = Some(CarveError::Nodes { wanted, free: self.memory.by_node(&self.demands(held)) });
        }
        Err(refusal.unwrap_or_else(|| free.refusal(wanted.allocation.cpus, wanted.cpu_share_percent)))
    }

    /// What a partition that holds `now` would hold with `wanted` instead. `held` is all that is held by others.
    /// CPUs that stay enough stay the same, and what takes no more than before is not refused, however little is left.
    pub fn change(&self, wanted: &Wanted, now: &Holding, held: &[Holding]) -> Result<Holding, CarveError> {
        let same = wanted.holding(now.cpus.clone());
        let same_cpus = now.cpus.len() == wanted.allocation.cpus as usize
            && now.cpu_share_percent == wanted.cpu_share_percent;
        if same_cpus && same.memory_mib <= now.memory_mib && same.disk_mib <= now.disk_mib {
            return Ok(same);
        }
        self.check_sizes(&wanted.allocation, held)?;
        let stays = same_cpus && self.memory_fits(&same, held);
        if stays { Ok(same) } else { self.carve(wanted, held) }
    }

    /// What is asked of the host as a whole, wherever it lies.
    fn check_sizes(&self, wanted: &Allocation, held: &[Holding]) -> Result<(), CarveError> {
        self.memory.check(wanted.memory_mib, &self.demands(held))?;
        let free = self.free(held).disk_mib;
        if wanted.disk_mib > free {
            return Err(CarveError::Disk { wanted: wanted.disk_mib, free });
        }
        Ok(())
    }

    fn memory_fits(&self, holding: &Holding, held: &[Holding]) -> bool {
        let mut demands = self.demands(held);
        demands.push(self.demand(holding));
        self.memory.fits(&demands)
    }

    fn demands(&self, held: &[Holding]) -> Vec<Demand> {
        held.iter().map(|held| self.demand(held)).collect()
    }

    fn demand(&self, held: &Holding) -> Demand {
        Demand { nodes: self.nodes_of(&held.cpus), mib: held.memory_mib }
    }

    /// Of CPUs that were taken offline it is not known: anywhere.
    fn nodes_of(&self, cpus: &[u32]) -> BTreeSet<u32> {
        let nodes = self.topology.nodes_of(cpus);
        if nodes.is_empty() { self.topology.nodes.iter().map(|node| node.id).collect() } else { nodes }
    }

    fn free_cores(&self, held: &[Holding]) -> Free<'_> {
        Free::of(&self.cores, held)
    }
}

impl Wanted {
    fn holding(&self, mut cpus: Vec<u32>) -> Holding {
        cpus.sort_unstable();
        Holding {
            cpus,
            cpu_share_percent: self.cpu_share_percent,
            memory_mib: self.allocation.memory_mib,
            disk_mib: self.allocation.disk_mib,
        }
    }
}

fn choose(wanted: &Wanted, pool: &Pool<'_>) -> Option<Vec<u32>> {
    match wanted.cpu_share_percent {
        None => pool.whole_cores(wanted.allocation.cpus),
        Some(percent) => pool.shares(wanted.allocation.cpus, percent),
    }
}

#[cfg(test)]
mod tests;
