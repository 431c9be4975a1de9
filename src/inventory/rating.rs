//! How fast cores are, so that offers compare: the rounds of a fixed piece of work that each hardware thread does in a
//! second, while all of its core do the same.
//!
//! A round is [`STEPS`] steps, each a multiplication, a look-up whose place depends on the step before, in a table that
//! fits a core's own second cache, a sum of fractions, and a branch that cannot be foreseen. It depends on nothing but the
//! core. Programs of a release build are measured; a debug build's figures are its own.

mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use super::topology::{Core, CoreKind, Topology};

pub use self::work::STEPS;

/// How long each kind of core is measured, whatever it is.
const MEASURED: Duration = Duration::from_millis(250);
/// Rounds between two looks at the clock.
const ROUNDS_AT_ONCE: u32 = 16;

/// Rounds a second of each hardware thread, by kind of core.
pub type Ratings = BTreeMap<CoreKind, u32>;

/// Measures a core of each kind, one after another; of each the last, which is the least likely to serve interrupts.
pub fn measure(topology: &Topology) -> Ratings {
    let kinds: BTreeSet<CoreKind> = topology.cores.iter().map(Core::kind).collect();
    let core = |kind| topology.cores.iter().rev().find(|core| core.kind() == kind);
    kinds.into_iter().filter_map(|kind| Some((kind, measure_core(core(kind)?)))).collect()
}

/// What is stated of CPUs: the slowest's, to two digits, so that what differs by chance is of one kind to whoever
/// searches.
pub fn stated(ratings: &Ratings, topology: &Topology, cpus: &[u32]) -> Option<u32> {
    let of_cores = topology.cores_of(cpus).map(|core| ratings.get(&core.kind()).copied());
    let slowest = of_cores.collect::<Option<Vec<u32>>>()?.into_iter().min()?;
    Some(to_two_digits(slowest)).filter(|rounds| *rounds > 0)
}

/// Rounded down.
fn to_two_digits(number: u32) -> u32 {
    let unit = 10u32.pow(number.checked_ilog10().unwrap_or_default().saturating_sub(1));
    number / unit * unit
}

/// The slowest of its threads, by the best of several stretches: what else the host does disturbs some, not all.
fn measure_core(core: &Core) -> u32 {
    let begin = Barrier::new(core.cpus.len());
    let best = thread::scope(|scope| {
        let threads: Vec<_> =
            core.cpus.iter().map(|cpu| scope.spawn(|| best_stretch(*cpu, &begin))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Duration::MAX)).max()
    });
    let rounds = f64::from(ROUNDS_AT_ONCE) / best.unwrap_or(Duration::MAX).as_secs_f64();
    // Numbers beyond become the largest there is.
    rounds as u32
}

/// How long the fastest stretch took.
fn best_stretch(cpu: u32, begin: &Barrier) -> Duration {
    keep_to(cpu);
    let mut work = work::Work::default();
    begin.wait();
    let started = Instant::now();
    let mut best = Duration::MAX;
    while best == Duration::MAX || started.elapsed() < MEASURED {
        let stretch = Instant::now();
        (0..ROUNDS_AT_ONCE).for_each(|_| work.round());
        best = best.min(stretch.elapsed());
    }
    best
}

/// Where that is refused, wherever the kernel puts it.
#[cfg(target_os = "linux")]
fn keep_to(cpu: u32) {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let cpu = cpu as usize;
    if cpu < CpuSet::MAX_CPU {
        let mut only = CpuSet::new();
        only.set(cpu);
        let _ = sched_setaffinity(None, &only);
    }
}

/// No host, but whoever asks for its own core's speed gets it.
#[cfg(not(target_os = "linux"))]
fn keep_to(_: u32) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(cpus: &[u32], clock_khz: u64) -> Core {
        Core { cpus: cpus.to_vec(), socket: 0, node: 0, complex: 0, clock_khz }
    }

    #[test]
    fn ratings_are_stated_to_two_digits_and_of_the_slowest_core() {
        let numbers = [0, 7, 99, 100, 1037, 98_765].map(to_two_digits);
        assert_eq!(numbers, [0, 7, 99, 100, 1000, 98_000]);
        let topology = Topology { cores: vec![core(&[0, 1], 5), core(&[2], 3)], ..Topology::default() };
        let ratings: Ratings = topology.cores.iter().map(Core::kind).zip([812, 411]).collect();
        assert_eq!(stated(&ratings, &topology, &[0, 1]), Some(810));
        assert_eq!(stated(&ratings, &topology, &[0, 1, 2]), Some(410));
        assert_eq!(stated(&Ratings::new(), &topology, &[0]), None, "not measured");
    }

    #[test]
    fn each_kind_of_core_is_measured_within_a_bound_of_time() {
        let topology = Topology { cores: vec![core(&[0], 2), core(&[1], 2)], ..Topology::default() };
        let ratings = measure(&topology);
        assert_eq!(ratings.len(), 1);
        assert!(ratings.values().all(|rounds| *rounds > 0), "{ratings:?}");
    }
}
