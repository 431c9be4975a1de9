//! Real machines, read from what their kernels told.

use std::{collections::BTreeSet, fs, io::Write as _};

use tempfile::TempDir;

use super::{
    kernel::{CannotSetAside, ControlGroups},
    topology::{Cache, CacheKind, Core, Topology},
    *,
};

/// A machine's files under a directory of their own.
fn machine(fixture: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for line in fixture.lines().filter(|line| !line.starts_with('#')) {
        let (path, text) = line.split_once('\t').unwrap();
        for path in paths(path) {
            append(&root.path().join(path), text);
        }
    }
    root
}

/// `cpu{0-1}/x` stands for `cpu0/x` and `cpu1/x`.
fn paths(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let (numbers, after) = rest.split_once('}').unwrap();
    let numbers = numbers.split(',').flat_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse::<u32>().unwrap()..=last.parse().unwrap()
    });
    numbers.map(|number| format!("{before}{number}{after}")).collect()
}

fn append(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = fs::File::options().append(true).create(true).open(path).unwrap();
    writeln!(file, "{text}").unwrap();
}

fn read(fixture: &str) -> Inventory {
    Inventory::read(machine(fixture).path()).unwrap()
}

const ONE_SOCKET: &str = include_str!("fixtures/one_socket_smt.txt");
const TWO_SOCKETS: &str = include_str!("fixtures/two_sockets.txt");
const COMPLEXES: &str = include_str!("fixtures/amd_complexes.txt");
const NO_SMT: &str = include_str!("fixtures/no_smt.txt");
const VERSION_1: &str = include_str!("fixtures/control_groups_v1.txt");

fn threads(topology: &Topology) -> Vec<usize> {
    topology.cores.iter().map(|core| core.cpus.len()).collect()
}

#[test]
fn one_socket_with_cores_of_two_kinds() {
    let Inventory { topology, cpu_model, kernel, .. } = read(ONE_SOCKET);
    assert_eq!(cpu_model, "13th Gen Intel(R) Core(TM) i7-1370P (x86-64-v3)");
    assert_eq!(threads(&topology), [[2; 6].as_slice(), &[1; 8]].concat());
    assert_eq!((topology.socket_count(), topology.nodes.len()), (1, 1));
    assert_eq!(topology.nodes[0].memory_mib, 32_489_480 / 1024);
    let (fast, slow) = (&topology.cores[0], &topology.cores[13]);
    assert_eq!((&fast.cpus, &slow.cpus), (&vec![0, 1], &vec![19]));
    assert!(fast.clock_khz > slow.clock_khz, "{fast:?} {slow:?}");
    let last = Cache { level: 3, kind: CacheKind::Unified, size_kib: 24_576, cpus: (0..20).collect() };
    assert!(topology.caches.contains(&last), "{:?}", topology.caches.last());
    assert_eq!(kernel.can_set_aside(), Err(CannotSetAside::TooOld { release: "6.1.0-13-amd64".to_owned() }));
}

#[test]
fn two_sockets_have_a_node_each_with_its_huge_pages() {
    let topology = read(TWO_SOCKETS).topology;
    assert_eq!((topology.socket_count(), topology.cpu_count(), topology.cores.len()), (2, 32, 16));
    let first = Core { cpus: vec![0, 16], socket: 0, node: 0, complex: 0, clock_khz: 0 };
    assert_eq!(Core { clock_khz: 0, ..topology.cores[0].clone() }, first);
    let last = topology.cores.last().unwrap();
    assert_eq!((last.cpus.as_slice(), last.socket, last.node, last.complex), ([15, 31].as_slice(), 1, 1, 8));
    let huge: Vec<u64> = topology.nodes.iter().map(|node| node.huge_mib()).collect();
    assert_eq!(huge, [4096, 4096]);
    assert_eq!(topology.nodes[0].common_mib(), 47_925_628 / 1024 - 4096);
}

#[test]
fn amds_cores_are_known_by_their_complex() {
    let topology = read(COMPLEXES).topology;
    assert_eq!((topology.socket_count(), topology.nodes.len(), topology.cpu_count()), (4, 8, 64));
    let complexes: BTreeSet<u32> = topology.cores.iter().map(|core| core.complex).collect();
    assert_eq!(complexes, (0..8).map(|node| node * 8).collect(), "a last cache a node");
    assert_eq!(topology.nodes[5].memory_mib, 8192, "nodes need not be alike");
    assert_eq!(topology.nodes_of(&[7, 8]), [0, 1].into());
}

#[test]
fn cores_without_threads_are_cores_of_one() {
    let topology = read(NO_SMT).topology;
    assert_eq!(threads(&topology), [1; 32]);
    assert_eq!((topology.socket_count(), topology.nodes.len()), (4, 8));
    assert_eq!(topology.cores[31].node, 7);
}

#[test]
fn control_groups_of_version_1_are_refused_with_the_reason() {
    let kernel = read(VERSION_1).kernel;
    assert_eq!(kernel.control_groups, ControlGroups::V1);
    let refusal = kernel.can_set_aside().unwrap_err();
    assert!(refusal.to_string().contains("systemd.unified_cgroup_hierarchy=1"), "{refusal}");
    assert!(!kernel.has_kvm);
}

#[test]
fn a_cpu_that_is_offline_is_in_no_core() {
    let host = machine(TWO_SOCKETS);
    fs::write(host.path().join("sys/devices/system/cpu/online"), "0,2-31\n").unwrap();
    fs::remove_file(host.path().join("sys/devices/system/cpu/cpu17/topology/thread_siblings_list")).unwrap();
    let topology = Inventory::read(host.path()).unwrap().topology;
    assert_eq!(topology.cpu_count(), 31);
    assert_eq!(topology.cores_of(&[17]).map(|core| core.cpus.as_slice()).collect::<Vec<_>>(), [&[17]]);
}

#[test]
fn a_kernel_that_knows_of_no_nodes_has_one() {
    let host = machine(VERSION_1);
    fs::remove_dir_all(host.path().join("sys/devices/system/node")).unwrap();
    let topology = Inventory::read(host.path()).unwrap().topology;
    assert_eq!((topology.nodes.len(), topology.nodes[0].memory_mib), (1, 24_684_084 / 1024));
    assert_eq!(topology.nodes_of(&[0, 1]), [0].into());
}

#[test]
fn what_cannot_be_read_is_named() {
    let host = machine(VERSION_1);
    fs::write(host.path().join("sys/devices/system/cpu/online"), "0-x").unwrap();
    let error = Inventory::read(host.path()).unwrap_err();
    assert!(error.to_string().contains("\"0-x\" is not a list of CPUs"), "{error}");
    let host = machine(VERSION_1);
    fs::write(host.path().join("sys/devices/system/node/node0/meminfo"), "Node 0 MemFree: 1 kB\n").unwrap();
    assert!(Inventory::read(host.path()).unwrap_err().to_string().ends_with("MemTotal"));
}

#[test]
fn this_machine_can_be_read() {
    let inventory = Inventory::read(Path::new("/")).unwrap();
    assert_eq!(inventory.topology.cores_of(&[0]).count(), 1);
}
