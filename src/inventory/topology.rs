//! What a computer is made of: sockets, cores with their hardware threads, NUMA nodes with their memory, caches. Pure:
//! whoever plans with it reads nothing.

use std::collections::{BTreeMap, BTreeSet};

/// Size of the huge pages that guests' memory can be of, in KiB.
pub const HUGE_PAGE_KIB: u64 = 2048;

/// All of it, in the order of its numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    pub cores: Vec<Core>,
    pub nodes: Vec<Node>,
    pub caches: BTreeSet<Cache>,
}

/// One core: what its hardware threads share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Core {
    /// Its hardware threads that are online, ascending; there is one at least.
    pub cpus: Vec<u32>,
    pub socket: u32,
    pub node: u32,
    /// The lowest of the CPUs that share its last cache: of AMD's those of one complex (CCX).
    pub complex: u32,
    /// Its highest clock, in kHz; 0: the kernel does not say. Cores of different kinds differ in it.
    pub clock_khz: u64,
}

/// Memory that is equally near to its CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub id: u32,
    pub memory_mib: u64,
    /// How many pages of each size are reserved (hugetlb), by their size in KiB.
    pub huge_pages: BTreeMap<u64, u64>,
}

/// One cache, and the CPUs that share it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cache {
    pub level: u8,
    pub kind: CacheKind,
    pub size_kib: u64,
    pub cpus: BTreeSet<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheKind {
    Data,
    Instruction,
    Unified,
}

/// What cores that perform alike have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreKind {
    pub clock_khz: u64,
    pub threads: usize,
}

impl Core {
    pub fn kind(&self) -> CoreKind {
        CoreKind { clock_khz: self.clock_khz, threads: self.cpus.len() }
    }

    /// Its hardware threads.
    pub fn threads(&self) -> u32 {
        u32::try_from(self.cpus.len()).unwrap_or(u32::MAX)
    }
}

impl Node {
    /// In huge pages that guests' memory can be of.
    pub fn huge_mib(&self) -> u64 {
        self.huge_pages.get(&HUGE_PAGE_KIB).map_or(0, |pages| pages.saturating_mul(HUGE_PAGE_KIB) / 1024)
    }

    /// In pages that are reserved for nothing.
    pub fn common_mib(&self) -> u64 {
        let reserved_kib: u64 = self.huge_pages.iter().map(|(kib, pages)| kib.saturating_mul(*pages)).sum();
        self.memory_mib.saturating_sub(reserved_kib / 1024)
    }
}

impl Topology {
    pub fn cpu_count(&self) -> u32 {
        self.cores.iter().map(Core::threads).sum()
    }

    pub fn memory_mib(&self) -> u64 {
        self.nodes.iter().map(|node| node.memory_mib).sum()
    }

    pub fn socket_count(&self) -> usize {
        self.cores.iter().map(|core| core.socket).collect::<BTreeSet<_>>().len()
    }

    /// The cores that have any of these CPUs.
    pub fn cores_of<'a>(&'a self, cpus: &'a [u32]) -> impl Iterator<Item = &'a Core> {
        self.cores.iter().filter(|core| core.cpus.iter().any(|cpu| cpus.contains(cpu)))
    }

    /// The nodes that these CPUs belong to.
    pub fn nodes_of(&self, cpus: &[u32]) -> BTreeSet<u32> {
        self.cores_of(cpus).map(|core| core.node).collect()
    }

    /// These CPUs with the hardware threads of each core one after another: the order in which a guest learns that they
    /// are one core's.
    pub fn by_core(&self, cpus: &[u32]) -> Vec<u32> {
        let threads = self.cores.iter().flat_map(|core| &core.cpus).copied();
        let known: Vec<u32> = threads.filter(|cpu| cpus.contains(cpu)).collect();
        let unknown = cpus.iter().copied().filter(|cpu| !known.contains(cpu)).collect::<Vec<_>>();
        known.into_iter().chain(unknown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(cpus: &[u32], node: u32) -> Core {
        Core { cpus: cpus.to_vec(), socket: node, node, complex: cpus[0], clock_khz: 0 }
    }

    #[test]
    fn a_guest_is_given_the_threads_of_a_core_one_after_another() {
        let cores = vec![core(&[0, 4], 0), core(&[1, 5], 0), core(&[2, 6], 1)];
        let topology = Topology { cores, ..Topology::default() };
        assert_eq!(topology.by_core(&[1, 2, 5, 6]), [1, 5, 2, 6]);
        assert_eq!(topology.by_core(&[1, 9]), [1, 9], "one that was taken offline since");
        assert_eq!((topology.cpu_count(), topology.socket_count()), (6, 2));
        assert_eq!(topology.nodes_of(&[6, 4]), [0, 1].into());
    }

    #[test]
    fn memory_that_is_reserved_as_huge_pages_is_no_other_memory() {
        let huge_pages = [(2048, 100), (1 << 20, 2)].into();
        let node = Node { id: 0, memory_mib: 8192, huge_pages };
        assert_eq!((node.huge_mib(), node.common_mib()), (200, 8192 - 200 - 2048));
    }
}
