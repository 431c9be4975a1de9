//! Which cores are free, which are set aside for shares, and which of them a partition is given.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{CarveError, Holding};
use crate::inventory::topology::Core;

/// A CPU's whole time, in percent.
const WHOLE: u32 = 100;

/// What of some cores is not held.
#[derive(Debug)]
pub(super) struct Free<'a> {
    /// Whole.
    cores: Vec<&'a Core>,
    /// Set aside for shares already.
    shared: Vec<&'a Core>,
    /// Percent of each CPU that shares hold.
    used: BTreeMap<u32, u32>,
}

/// Cores that lie together.
#[derive(Debug)]
pub(super) struct Pool<'a> {
    cores: Vec<&'a Core>,
    shared: Vec<&'a Core>,
    used: &'a BTreeMap<u32, u32>,
}

impl<'a> Free<'a> {
    pub(super) fn of(cores: &'a [Core], held: &[Holding]) -> Self {
        let mut whole = BTreeSet::new();
        let mut used = BTreeMap::new();
        for held in held {
            for cpu in &held.cpus {
                match held.cpu_share_percent {
                    None => drop(whole.insert(*cpu)),
                    Some(percent) => *used.entry(*cpu).or_default() += u32::from(percent),
                }
            }
        }
        let has = |core: &Core, held: &dyn Fn(&u32) -> bool| core.cpus.iter().any(held);
        let not_whole = cores.iter().filter(|core| !has(core, &|cpu| whole.contains(cpu)));
        let (shared, free) = not_whole.partition(|core| has(core, &|cpu| used.contains_key(cpu)));
        Self { cores: free, shared, used }
    }

    pub(super) fn threads(&self) -> u32 {
        threads(&self.cores)
    }

    /// Where to look, the nearest together first: the complexes, the nodes, all. Of like ones the fullest comes first, so
    /// that the emptiest stay whole; for shares, those come first that have shares.
    pub(super) fn pools(&self, for_shares: bool) -> Vec<Pool<'_>> {
        let complexes = self.grouped(|core| core.complex, for_shares);
        let nodes = self.grouped(|core| core.node, for_shares);
        let all = Pool { cores: self.cores.clone(), shared: self.shared.clone(), used: &self.used };
        complexes.into_iter().chain(nodes).chain([all]).collect()
    }

    fn grouped(&self, by: impl Fn(&Core) -> u32, for_shares: bool) -> Vec<Pool<'_>> {
        let names: BTreeSet<u32> = self.cores.iter().chain(&self.shared).map(|core| by(core)).collect();
        let of = |cores: &[&'a Core], name| cores.iter().filter(|core| by(core) == name).copied().collect();
        let pool =
            |name| Pool { cores: of(&self.cores, name), shared: of(&self.shared, name), used: &self.used };
        let mut pools: Vec<_> = names.into_iter().map(pool).collect();
        pools.sort_by_key(|pool| (for_shares && pool.shared.is_empty(), threads(&pool.cores)));
        pools
    }

    /// Why no pool has so many.
    pub(super) fn refusal(&self, wanted: u32, percent: Option<u8>) -> CarveError {
        if let Some(percent) = percent {
            let all = Pool { cores: self.cores.clone(), shared: self.shared.clone(), used: &self.used };
            let free = u32::try_from(all.with_room(percent).count()).unwrap_or(u32::MAX);
            return CarveError::Shares { wanted, percent, free };
        }
        if wanted > self.threads() {
            return CarveError::Cpus { wanted, free: self.threads() };
        }
        CarveError::NotWholeCores { wanted, threads: thread_counts(&self.cores) }
    }
}

impl Pool<'_> {
    /// Whole cores with exactly `wanted` threads, the ones with most threads first, then the lowest.
    pub(super) fn whole_cores(&self, wanted: u32) -> Option<Vec<u32>> {
        let mut cores = self.cores.clone();
        cores.sort_by_key(|core| (Reverse(core.cpus.len()), core.cpus.first().copied()));
        let mut left = wanted;
        let mut chosen = Vec::new();
        for core in cores {
            if core.threads() <= left {
                left -= core.threads();
                chosen.extend(&core.cpus);
            }
        }
        (left == 0).then_some(chosen)
    }

    /// `wanted` CPUs, each with so much of its time left: those that have least left first, so that as few cores as can be
    /// are set aside for shares.
    pub(super) fn shares(&self, wanted: u32, percent: u8) -> Option<Vec<u32>> {
        let chosen: Vec<u32> = self.with_room(percent).take(wanted as usize).collect();
        (chosen.len() == wanted as usize).then_some(chosen)
    }

    fn with_room(&self, percent: u8) -> impl Iterator<Item = u32> {
        let used = |cpu: &u32| self.used.get(cpu).copied().unwrap_or_default();
        let mut begun: Vec<u32> = self.shared.iter().flat_map(|core| core.cpus.iter().copied()).collect();
        begun.retain(|cpu| used(cpu) + u32::from(percent) <= WHOLE);
        begun.sort_by_key(|cpu| (Reverse(used(cpu)), *cpu));
        begun.into_iter().chain(self.cores.iter().flat_map(|core| core.cpus.iter().copied()))
    }
}

fn threads(cores: &[&Core]) -> u32 {
    cores.iter().map(|core| core.threads()).sum()
}

fn thread_counts(cores: &[&Core]) -> String {
    let counts: BTreeSet<usize> = cores.iter().map(|core| core.cpus.len()).collect();
    counts.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ")
}
