use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::inventory::topology::Node;

fn core(cpus: &[u32], node: u32) -> Core {
    Core { cpus: cpus.to_vec(), socket: node, node, complex: node * 100, clock_khz: 0 }
}

fn node(id: u32, memory_mib: u64) -> Node {
    Node { id, memory_mib, huge_pages: BTreeMap::new() }
}

/// One node, with 8192 MiB.
fn host(cores: &[&[u32]]) -> HostResources {
    let cores = cores.iter().map(|cpus| core(cpus, 0)).collect();
    with(cores, vec![node(0, 8192)])
}

fn with(cores: Vec<Core>, nodes: Vec<Node>) -> HostResources {
    HostResources { topology: Topology { cores, nodes, ..Topology::default() }, disk_mib: 10_000 }
}

const RESERVE: Reserve = Reserve { cpus: 2, memory_mib: 1024, disk_mib: 1000 };

fn smt() -> Lendable {
    Lendable::new(&host(&[&[0, 4], &[1, 5], &[2, 6], &[3, 7]]), &RESERVE, false).unwrap()
}

/// Two nodes of two cores with 4096 MiB each.
fn two_nodes() -> Lendable {
    let cores = vec![core(&[0, 1], 0), core(&[2, 3], 0), core(&[4, 5], 1), core(&[6, 7], 1)];
    Lendable::new(&with(cores, vec![node(0, 4096), node(1, 4096)]), &RESERVE, false).unwrap()
}

fn whole(cpus: u32) -> Wanted {
    let allocation = Allocation { cpus, memory_mib: 512, disk_mib: 100 };
    Wanted { allocation, cpu_share_percent: None }
}

fn share(cpus: u32, percent: u8) -> Wanted {
    Wanted { cpu_share_percent: Some(percent), ..whole(cpus) }
}

fn of_memory(cpus: u32, memory_mib: u64) -> Wanted {
    Wanted { allocation: Allocation { memory_mib, ..whole(cpus).allocation }, ..whole(cpus) }
}

/// Carves each beside those before it.
fn carve_all(lendable: &Lendable, wanted: &[Wanted]) -> Vec<Holding> {
    let mut held = Vec::new();
    for wanted in wanted {
        held.push(lendable.carve(wanted, &held).unwrap());
    }
    held
}

#[test]
fn the_reserve_is_the_lowest_cores_and_is_never_lent() {
    let all = smt().carve(&whole(6), &[]).unwrap();
    assert_eq!(all.cpus, [1, 2, 3, 5, 6, 7]);
    assert_eq!(RESERVE.host_cpus(&host(&[&[0, 4], &[1, 5]]).topology), [0, 4]);
    assert_eq!(smt().carve(&whole(8), &[]), Err(CarveError::Cpus { wanted: 8, free: 6 }));
}

#[test]
fn hardware_threads_of_one_core_are_never_parted() {
    assert_eq!(smt().carve(&whole(2), &[]).unwrap().cpus, [1, 5]);
    let refusal = smt().carve(&whole(3), &[]).unwrap_err();
    assert_eq!(refusal, CarveError::NotWholeCores { wanted: 3, threads: "2".to_owned() });
}

#[test]
fn a_host_with_big_and_little_cores_gives_either() {
    let host = host(&[&[0], &[1, 2], &[3, 4], &[5], &[6]]);
    let lendable = Lendable::new(&host, &Reserve { cpus: 1, ..RESERVE }, false).unwrap();
    assert_eq!(lendable.carve(&whole(3), &[]).unwrap().cpus, [1, 2, 5]);
    assert_eq!(lendable.carve(&whole(1), &[]).unwrap().cpus, [5]);
}

#[test]
fn a_reserve_that_splits_a_core_or_is_too_large_is_refused() {
    let host = host(&[&[0, 2], &[1, 3]]);
    let reserve = |cpus| Lendable::new(&host, &Reserve { cpus, ..RESERVE }, false);
    assert_eq!(reserve(1), Err(ReserveError::NotWholeCores { wanted: 1, fits: 2 }));
    assert_eq!(reserve(6), Err(ReserveError::Cpus(4)));
    let greedy = Reserve { memory_mib: 9000, ..RESERVE };
    assert_eq!(Lendable::new(&host, &greedy, false), Err(ReserveError::Memory(8192)));
}

#[test]
fn memory_counts_with_what_the_vmm_needs_beside_it() {
    let most = 8192 - 1024 - VMM_OVERHEAD_MIB;
    assert!(smt().carve(&of_memory(2, most), &[]).is_ok());
    let refusal = smt().carve(&of_memory(2, most + 1), &[]);
    assert_eq!(refusal, Err(CarveError::Memory { wanted: most + 1, free: 7168 }));
}

#[test]
fn a_disk_larger_than_what_is_free_is_refused() {
    let allocation = Allocation { disk_mib: 9001, ..whole(2).allocation };
    let large = Wanted { allocation, ..whole(2) };
    assert_eq!(smt().carve(&large, &[]), Err(CarveError::Disk { wanted: 9001, free: 9000 }));
}

#[test]
fn a_partition_lies_on_one_node_where_it_fits() {
    let held = carve_all(&two_nodes(), &[whole(2), whole(4)]);
    assert_eq!(held[0].cpus, [2, 3], "the node that has least left");
    assert_eq!(held[1].cpus, [4, 5, 6, 7]);
    let across = two_nodes().carve(&whole(6), &[]).unwrap();
    assert_eq!(across.cpus, [2, 3, 4, 5, 6, 7], "more than a node has");
}

#[test]
fn cpus_are_chosen_where_there_is_memory_for_them() {
    let held = carve_all(&two_nodes(), &[of_memory(2, 3500)]);
    assert_eq!(held[0].cpus, [4, 5], "on node 0 the reserve leaves too little");
    let refusal = two_nodes().carve(&of_memory(2, 3500), &held).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "allocation: 3500 MiB of memory are free, but not on the NUMA nodes of CPUs that are; free are \
         node 0: 3072 MiB, node 1: 580 MiB"
    );
    let across = two_nodes().carve(&of_memory(4, 5000), &[]).unwrap();
    assert_eq!(two_nodes().nodes_of(&across.cpus), [0, 1].into(), "more than a node has");
}

#[test]
fn a_partition_lies_in_one_complex_of_cores_where_it_fits() {
    let complex = |cpus, complex| Core { complex, ..core(cpus, 0) };
    let cores =
        vec![complex(&[0, 1], 0), complex(&[2], 0), complex(&[3], 0), complex(&[4], 4), complex(&[5], 4)];
    let lendable = Lendable::new(&with(cores, vec![node(0, 8192)]), &RESERVE, false).unwrap();
    let held = carve_all(&lendable, &[whole(1), whole(2)]);
    assert_eq!((held[0].cpus.as_slice(), held[1].cpus.as_slice()), ([2].as_slice(), [4, 5].as_slice()));
}

#[test]
fn huge_pages_are_counted_by_node_and_beside_them_what_vmms_need() {
    let huge = |id, pages| Node { huge_pages: [(2048, pages)].into(), ..node(id, 4096) };
    let cores = vec![core(&[0, 1], 0), core(&[2, 3], 0), core(&[4, 5], 1)];
    let host = with(cores, vec![huge(0, 512), huge(1, 1024)]);
    let lendable = Lendable::new(&host, &RESERVE, true).unwrap();
    assert_eq!(lendable.free(&[]).memory_mib, 3072);
    assert_eq!(lendable.carve(&of_memory(2, 1026), &[]).unwrap().cpus, [4, 5]);
    let refusal = lendable.carve(&of_memory(2, 3074), &[]);
    assert_eq!(refusal, Err(CarveError::HugePages { wanted: 3074, free: 3072 }));
    assert_eq!(lendable.carve(&of_memory(2, 511), &[]), Err(CarveError::OddHugePages(511)));
    // What is reserved as huge pages is no memory for the owner.
    let all_huge = with(vec![core(&[0], 0), core(&[1], 0)], vec![huge(0, 2048)]);
    let reserve = Reserve { cpus: 1, ..RESERVE };
    assert_eq!(Lendable::new(&all_huge, &reserve, true), Err(ReserveError::Memory(0)));
    let tight = Lendable::new(&host, &Reserve { memory_mib: 5116, ..RESERVE }, true).unwrap();
    assert_eq!(tight.carve(&whole(2), &[]), Err(CarveError::BesideHugePages { free: 4 }));
}

#[test]
fn shares_lie_on_cores_of_their_own_as_many_as_fit() {
    let held = carve_all(&smt(), &[share(1, 60), share(1, 40), share(2, 50), share(1, 50), whole(2)]);
    let cpus: Vec<_> = held.iter().map(|held| held.cpus.as_slice()).collect();
    assert_eq!(cpus[..2], [&[1], &[1]], "together they are a CPU's whole time");
    assert_eq!(cpus[2], [2, 5], "the other thread of the core that was begun, and one of another");
    assert_eq!(cpus[3], [2]);
    assert_eq!(cpus[4], [3, 7], "whole cores are where no shares are");
    let refusal = smt().carve(&share(3, 60), &held).unwrap_err();
    assert_eq!(refusal, CarveError::Shares { wanted: 3, percent: 60, free: 1 });
}

#[test]
fn a_core_is_free_for_all_again_when_its_last_share_is_released() {
    let held = carve_all(&smt(), &[share(1, 10)]);
    assert_eq!((smt().free(&[]).cpus, smt().free(&held).cpus), (6, 4));
    assert_eq!(smt().carve(&whole(6), &[]).unwrap().cpus, [1, 2, 3, 5, 6, 7]);
    assert_eq!(smt().carve(&whole(6), &held), Err(CarveError::Cpus { wanted: 6, free: 4 }));
}

#[test]
fn a_change_that_needs_as_many_cpus_keeps_them_where_there_is_memory() {
    let others = carve_all(&smt(), &[whole(2)]);
    let now = Holding { cpus: vec![3, 7], memory_mib: 512, ..Holding::default() };
    let changed = smt().change(&of_memory(2, 1024), &now, &others).unwrap();
    assert_eq!((changed.cpus, changed.memory_mib), (vec![3, 7], 1024));
    let now = Holding { cpus: vec![2, 3], memory_mib: 512, ..Holding::default() };
    assert_eq!(two_nodes().change(&of_memory(2, 3500), &now, &[]).unwrap().cpus, [4, 5]);
}

#[test]
fn what_takes_no_more_than_before_is_granted_however_little_is_left() {
    let mut full = host(&[&[0, 4], &[1, 5]]);
    full.disk_mib = 0;
    let full = Lendable::new(&full, &RESERVE, false).unwrap();
    let now = Holding { cpus: vec![1, 5], memory_mib: 512, disk_mib: 100, ..Holding::default() };
    let of_disk = |disk_mib| {
        let mut wanted = whole(2);
        wanted.allocation.disk_mib = disk_mib;
        wanted
    };
    assert_eq!(full.change(&of_disk(100), &now, &[]).as_ref(), Ok(&now));
    assert_eq!(full.change(&of_disk(50), &now, &[]).unwrap().disk_mib, 50);
    let more = of_disk(101);
    assert_eq!(full.change(&more, &now, &[]), Err(CarveError::Disk { wanted: 101, free: 0 }));
}

#[derive(Debug, Clone)]
enum Step {
    Carve(Wanted),
    Change(usize, Wanted),
    Release(usize),
}

fn a_step() -> impl Strategy<Value = Step> {
    let wanted = || {
        let sizes = (1..5u32, 64..4000u64, 0..5000u64, prop::option::of(1..100u8));
        sizes.prop_map(|(cpus, memory_mib, disk_mib, cpu_share_percent)| Wanted {
            allocation: Allocation { cpus, memory_mib, disk_mib },
            cpu_share_percent,
        })
    };
    prop_oneof![
        wanted().prop_map(Step::Carve),
        (0..4usize, wanted()).prop_map(|(which, wanted)| Step::Change(which, wanted)),
        (0..4usize).prop_map(Step::Release),
    ]
}

fn take(step: Step, lendable: &Lendable, held: &mut Vec<Holding>) {
    match step {
        Step::Carve(wanted) => held.extend(lendable.carve(&wanted, held)),
        Step::Change(which, wanted) if which < held.len() => {
            let now = held.remove(which);
            let changed = lendable.change(&wanted, &now, held);
            held.push(changed.unwrap_or(now));
        }
        Step::Release(which) if which < held.len() => drop(held.remove(which)),
        Step::Change(..) | Step::Release(_) => {}
    }
}

/// Cores of one or two threads, on up to three nodes.
fn a_host() -> impl Strategy<Value = HostResources> {
    let cores = prop::collection::vec((1..3usize, 0..3u32), 2..10);
    let nodes = prop::collection::vec((1500..5000u64, 0..600u64), 3);
    (cores, nodes).prop_map(|(cores, nodes)| {
        let mut next = 0..;
        let cores = cores.into_iter().map(|(threads, node)| {
            let cpus: Vec<u32> = next.by_ref().take(threads).collect();
            core(&cpus, node)
        });
        let nodes = (0..).zip(nodes).map(|(id, (memory_mib, pages))| Node {
            huge_pages: [(2048, pages)].into(),
            ..node(id, memory_mib)
        });
        with(cores.collect(), nodes.collect())
    })
}

/// How much of each CPU is held, in percent; whole cores' are all of it.
fn percent_by_cpu(held: &[Holding]) -> BTreeMap<u32, u32> {
    let mut taken = BTreeMap::new();
    for held in held {
        for cpu in &held.cpus {
            *taken.entry(*cpu).or_default() += u32::from(held.cpu_share_percent.unwrap_or(100));
        }
    }
    taken
}

/// What lies on these nodes alone is no more than they have, whichever they are.
fn is_overcommitted(host: &HostResources, reserve_mib: u64, held: &[Holding], huge_pages: bool) -> bool {
    let topology = &host.topology;
    (1u32..8).any(|some| {
        let nodes: BTreeSet<u32> = (0..3).filter(|node| some & (1 << node) != 0).collect();
        let on = held.iter().filter(|held| topology.nodes_of(&held.cpus).is_subset(&nodes));
        let overhead = if huge_pages { 0 } else { VMM_OVERHEAD_MIB };
        let guests: u64 = on.map(|held| held.memory_mib + overhead).sum();
        let own = if nodes.len() == 3 && !huge_pages { reserve_mib } else { 0 };
        let has = topology.nodes.iter().filter(|node| nodes.contains(&node.id));
        let has: u64 = has.map(|node| if huge_pages { node.huge_mib() } else { node.common_mib() }).sum();
        guests + own > has
    })
}

proptest! {
    #[test]
    fn nothing_is_overcommitted_and_nothing_leaks(
        host in a_host(),
        huge_pages in any::<bool>(),
        steps in prop::collection::vec(a_step(), 0..40),
    ) {
        let reserve = Reserve { cpus: host.topology.cores[0].threads(), ..RESERVE };
        let lendable = Lendable::new(&host, &reserve, huge_pages).unwrap();
        let all = lendable.free(&[]);
        let mut held = Vec::new();
        for step in steps {
            take(step, &lendable, &mut held);
            let taken = percent_by_cpu(&held);
            prop_assert!(taken.values().all(|percent| *percent <= 100), "no CPU is held beyond its time");
            let kept = reserve.host_cpus(&host.topology);
            prop_assert!(kept.contains(&0) && kept.iter().all(|cpu| !taken.contains_key(cpu)));
            let known: BTreeSet<u32> = host.topology.cores.iter().flat_map(|core| core.cpus.clone()).collect();
            prop_assert!(taken.keys().all(|cpu| known.contains(cpu)));
            prop_assert!(!is_overcommitted(&host, reserve.memory_mib, &held, huge_pages));
            let disk: u64 = held.iter().map(|held| held.disk_mib).sum();
            prop_assert!(disk + reserve.disk_mib <= host.disk_mib);
            for core in &host.topology.cores {
                let here = |held: &&Holding| held.cpus.iter().any(|cpu| core.cpus.contains(cpu));
                let (shares, whole): (Vec<&Holding>, Vec<&Holding>) =
                    held.iter().filter(here).partition(|held| held.cpu_share_percent.is_some());
                prop_assert!(whole.is_empty() || shares.is_empty(), "a core has either");
                let all_of_it = |held: &&Holding| core.cpus.iter().all(|cpu| held.cpus.contains(cpu));
                prop_assert!(whole.len() <= 1 && whole.iter().all(all_of_it), "cores are held whole");
            }
        }
        held.clear();
        prop_assert_eq!(lendable.free(&held), all);
    }
}
