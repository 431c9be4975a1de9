use proptest::prelude::*;

use super::*;

fn host(cores: &[&[u32]]) -> HostResources {
    let cores = cores.iter().map(|threads| Core(threads.to_vec())).collect();
    HostResources { cores, memory_mib: 8192, disk_mib: 10_000 }
}

const RESERVE: Reserve = Reserve { cpus: 2, memory_mib: 1024, disk_mib: 1000 };

fn smt() -> Lendable {
    Lendable::new(&host(&[&[0, 4], &[1, 5], &[2, 6], &[3, 7]]), &RESERVE).unwrap()
}

fn wanted(cpus: u32) -> Allocation {
    Allocation { cpus, memory_mib: 512, disk_mib: 100 }
}

#[test]
fn the_reserve_is_the_lowest_cores_and_is_never_lent() {
    let all = smt().carve(&wanted(6), &[]).unwrap();
    assert_eq!(all.cpus, [1, 2, 3, 5, 6, 7]);
    assert_eq!(RESERVE.host_cpus(&host(&[&[1, 5], &[0, 4]]).cores), [0, 4]);
    assert_eq!(smt().carve(&wanted(8), &[]), Err(CarveError::Cpus { wanted: 8, free: 6 }));
}

#[test]
fn hardware_threads_of_one_core_are_never_parted() {
    assert_eq!(smt().carve(&wanted(2), &[]).unwrap().cpus, [1, 5]);
    let refusal = smt().carve(&wanted(3), &[]).unwrap_err();
    assert_eq!(refusal, CarveError::NotWholeCores { wanted: 3, threads: "2".to_owned() });
}

#[test]
fn a_host_with_big_and_little_cores_gives_either() {
    let host = host(&[&[0], &[1, 2], &[3, 4], &[5], &[6]]);
    let lendable = Lendable::new(&host, &Reserve { cpus: 1, ..RESERVE }).unwrap();
    assert_eq!(lendable.carve(&wanted(3), &[]).unwrap().cpus, [1, 2, 5]);
    assert_eq!(lendable.carve(&wanted(1), &[]).unwrap().cpus, [5]);
}

#[test]
fn a_reserve_that_splits_a_core_or_is_too_large_is_refused() {
    let host = host(&[&[0, 2], &[1, 3]]);
    let reserve = |cpus| Lendable::new(&host, &Reserve { cpus, ..RESERVE });
    assert_eq!(reserve(1), Err(ReserveError::NotWholeCores { wanted: 1, fits: 2 }));
    assert_eq!(reserve(6), Err(ReserveError::Cpus(4)));
    let greedy = Reserve { memory_mib: 9000, ..RESERVE };
    assert_eq!(Lendable::new(&host, &greedy), Err(ReserveError::Memory(8192)));
}

#[test]
fn memory_counts_with_what_the_vmm_needs_beside_it() {
    let exactly = Allocation { memory_mib: 8192 - 1024 - VMM_OVERHEAD_MIB, ..wanted(2) };
    assert!(smt().carve(&exactly, &[]).is_ok());
    let more = Allocation { memory_mib: exactly.memory_mib + 1, ..exactly };
    assert!(matches!(smt().carve(&more, &[]), Err(CarveError::Memory { free: 7168, .. })));
}

#[test]
fn a_disk_larger_than_what_is_free_is_refused() {
    let large = Allocation { disk_mib: 9001, ..wanted(2) };
    assert_eq!(smt().carve(&large, &[]), Err(CarveError::Disk { wanted: 9001, free: 9000 }));
}

#[test]
fn a_change_that_needs_as_many_cpus_keeps_them() {
    let others = [smt().carve(&wanted(2), &[]).unwrap()];
    let now = Holding { cpus: vec![3, 7], memory_mib: 512, disk_mib: 0 };
    let changed = smt().change(&Allocation { memory_mib: 1024, ..wanted(2) }, &now, &others).unwrap();
    assert_eq!((changed.cpus, changed.memory_mib), (vec![3, 7], 1024));
}

#[test]
fn what_takes_no_more_than_before_is_granted_however_little_is_left() {
    let mut full = host(&[&[0, 4], &[1, 5]]);
    full.disk_mib = 0;
    let full = Lendable::new(&full, &RESERVE).unwrap();
    let now = Holding { cpus: vec![1, 5], memory_mib: 512, disk_mib: 100 };
    assert_eq!(full.change(&wanted(2), &now, &[]).as_ref(), Ok(&now));
    let less = Allocation { disk_mib: 50, ..wanted(2) };
    assert_eq!(full.change(&less, &now, &[]).unwrap().disk_mib, 50);
    let more = Allocation { disk_mib: 101, ..wanted(2) };
    assert_eq!(full.change(&more, &now, &[]), Err(CarveError::Disk { wanted: 101, free: 0 }));
}

#[derive(Debug, Clone)]
enum Step {
    Carve(Allocation),
    Change(usize, Allocation),
    Release(usize),
}

fn a_step() -> impl Strategy<Value = Step> {
    let allocation = || {
        (1..5u32, 64..4000u64, 0..5000u64).prop_map(|(cpus, memory_mib, disk_mib)| Allocation {
            cpus,
            memory_mib,
            disk_mib,
        })
    };
    prop_oneof![
        allocation().prop_map(Step::Carve),
        (0..4usize, allocation()).prop_map(|(which, wanted)| Step::Change(which, wanted)),
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

proptest! {
    #[test]
    fn nothing_is_overcommitted_and_nothing_leaks(
        sizes in proptest::collection::vec(1..3u32, 2..8),
        steps in proptest::collection::vec(a_step(), 0..40),
    ) {
        let mut next = 0..;
        let cores = sizes.iter().map(|n| Core(next.by_ref().take(*n as usize).collect())).collect();
        let host = HostResources { cores, memory_mib: 8192, disk_mib: 10_000 };
        let reserve = Reserve { cpus: sizes[0], ..RESERVE };
        let lendable = Lendable::new(&host, &reserve).unwrap();
        let all = lendable.free(&[]);
        let mut held = Vec::new();
        for step in steps {
            take(step, &lendable, &mut held);
            let cpus: Vec<u32> = held.iter().flat_map(|held: &Holding| held.cpus.clone()).collect();
            let distinct: BTreeSet<u32> = cpus.iter().copied().collect();
            prop_assert_eq!(distinct.len(), cpus.len(), "no CPU is held twice");
            prop_assert!(!distinct.contains(&0));
            let threads = host.cores.iter().flat_map(|core| core.0.clone()).collect();
            prop_assert!(distinct.is_subset(&threads));
            let memory: u64 = held.iter().map(Holding::host_memory_mib).sum();
            let disk: u64 = held.iter().map(|held| held.disk_mib).sum();
            prop_assert!(memory + reserve.memory_mib <= host.memory_mib);
            prop_assert!(disk + reserve.disk_mib <= host.disk_mib);
            for core in &host.cores {
                let taken = core.0.iter().filter(|cpu| distinct.contains(cpu)).count();
                prop_assert!(taken == 0 || taken == core.0.len(), "cores are held whole");
            }
        }
        held.clear();
        prop_assert_eq!(lendable.free(&held), all);
    }
}
