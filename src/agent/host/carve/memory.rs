//! Memory, by the NUMA nodes that it lies on. A guest's is on the nodes of its CPUs and on no others.

use std::collections::BTreeSet;

use super::{CarveError, ReserveError};
use crate::inventory::topology::{Core, Node, Topology};

/// Host memory that a partition takes beyond its guest's, in MiB: the VMM itself, page tables, vhost.
pub const VMM_OVERHEAD_MIB: u64 = 16;

/// So much of a guest's memory, on any of these nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) nodes: BTreeSet<u32>,
    pub(super) mib: u64,
}

/// What there is for guests and their VMMs beside the reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Memory {
    /// Nodes, with what they have for guests.
    nodes: Vec<(u32, u64)>,
    /// What of it is the owner's, and where.
    reserve: Demand,
    /// Where guests' memory is of huge pages: what else there is for their VMMs.
    beside_huge_mib: Option<u64>,
}

impl Memory {
    pub(super) fn new(
        topology: &Topology,
        reserved: &[Core],
        reserve_mib: u64,
        huge_pages: bool,
    ) -> Result<Self, ReserveError> {
        let common: u64 = topology.nodes.iter().map(Node::common_mib).sum();
        let beside = common.checked_sub(reserve_mib).ok_or(ReserveError::Memory(common))?;
        let size = |node: &Node| if huge_pages { node.huge_mib() } else { node.common_mib() };
        let nodes: Vec<_> = topology.nodes.iter().map(|node| (node.id, size(node))).collect();
        let mib = if huge_pages { 0 } else { reserve_mib };
        let near: BTreeSet<u32> = reserved.iter().map(|core| core.node).collect();
        let fits = nodes.iter().filter(|(id, _)| near.contains(id)).map(|(_, mib)| mib).sum::<u64>() >= mib;
        let all = nodes.iter().map(|(id, _)| *id).collect();
        let reserve = Demand { nodes: if fits { near } else { all }, mib };
        Ok(Self { nodes, reserve, beside_huge_mib: huge_pages.then_some(beside) })
    }

    /// What one partition takes of a node.
    fn taken(&self, demand: &Demand) -> u64 {
        let overhead = if self.beside_huge_mib.is_some() { 0 } else { VMM_OVERHEAD_MIB };
        demand.mib.saturating_add(overhead)
    }

    /// Wherever it lies.
    pub(super) fn free(&self, demands: &[Demand]) -> u64 {
        let all: u64 = self.nodes.iter().map(|(_, mib)| mib).sum();
        let taken = demands.iter().map(|demand| self.taken(demand)).fold(0, u64::saturating_add);
        all.saturating_sub(self.reserve.mib).saturating_sub(taken)
    }

    /// Whether a guest with so much fits anywhere beside these.
    pub(super) fn check(&self, wanted: u64, demands: &[Demand]) -> Result<(), CarveError> {
        let free = self.free(demands);
        let Some(beside) = self.beside_huge_mib else {
            let fits = wanted.saturating_add(VMM_OVERHEAD_MIB) <= free;
            return if fits { Ok(()) } else { Err(CarveError::Memory { wanted, free }) };
        };
        if !wanted.is_multiple_of(2) {
            return Err(CarveError::OddHugePages(wanted));
        }
        if wanted > free {
            return Err(CarveError::HugePages { wanted, free });
        }
        let free = beside.saturating_sub(demands.len() as u64 * VMM_OVERHEAD_MIB);
        if free < VMM_OVERHEAD_MIB { Err(CarveError::BesideHugePages { free }) } else { Ok(()) }
    }

    /// Whether there is a way to lay them out. For any nodes, what can lie on them alone must fit them (Hall's marriage
    /// theorem); nodes that nobody's memory connects need not be looked at together.
    pub(super) fn fits(&self, demands: &[Demand]) -> bool {
        let mut all: Vec<Demand> =
            demands.iter().map(|demand| Demand { mib: self.taken(demand), ..demand.clone() }).collect();
        all.push(self.reserve.clone());
        connected(&all).iter().all(|nodes| {
            let on_them_alone = all.iter().filter(|demand| demand.nodes.is_subset(nodes));
            on_them_alone.map(|demand| demand.mib).fold(0, u64::saturating_add) <= self.on(nodes)
        })
    }

    fn on(&self, nodes: &BTreeSet<u32>) -> u64 {
        self.nodes.iter().filter(|(id, _)| nodes.contains(id)).map(|(_, mib)| mib).sum()
    }

    /// `node 0: 7 MiB, node 1: 9 MiB`: what would be free of each if nothing lay on several.
    pub(super) fn by_node(&self, demands: &[Demand]) -> String {
        let free = |(id, mib): &(u32, u64)| {
            let only: BTreeSet<u32> = [*id].into();
            let here = demands.iter().filter(|demand| demand.nodes == only);
            let reserve = if self.reserve.nodes == only { self.reserve.mib } else { 0 };
            let taken = here.map(|demand| self.taken(demand)).fold(reserve, u64::saturating_add);
            format!("node {id}: {} MiB", mib.saturating_sub(taken))
        };
        self.nodes.iter().map(free).collect::<Vec<_>>().join(", ")
    }
}

/// The nodes of each demand, and of each chain of demands that have nodes in common.
fn connected(demands: &[Demand]) -> BTreeSet<BTreeSet<u32>> {
    let mut sets: BTreeSet<BTreeSet<u32>> = demands.iter().map(|demand| demand.nodes.clone()).collect();
    loop {
        let pairs = sets.iter().flat_map(|one| sets.iter().map(move |other| (one, other)));
        let joined: Vec<_> =
            pairs.filter(|(one, other)| !one.is_disjoint(other)).map(|(one, other)| one | other).collect();
        let before = sets.len();
        sets.extend(joined);
        if sets.len() == before {
            return sets;
        }
    }
}
