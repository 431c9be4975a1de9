//! The one reader of a computer's topology.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    InventoryError,
    files::{Files, value_of},
    topology::{Cache, CacheKind, Core, Node, Topology},
};

const CPUS: &str = "sys/devices/system/cpu";
const NODES: &str = "sys/devices/system/node";
/// What the whole computer has reserved; each node has a folder like it.
const HUGE_PAGES: &str = "sys/kernel/mm/hugepages";

pub(super) fn topology(files: &Files<'_>) -> Result<Topology, InventoryError> {
    let online = files.list(&format!("{CPUS}/online"))?;
    let nodes = nodes(files)?;
    let node_of = cpu_nodes(files, &nodes)?;
    let mut caches = BTreeSet::new();
    let mut cores = BTreeSet::new();
    for cpu in &online {
        let own = caches_of(files, *cpu, &online)?;
        let cpus = siblings(files, *cpu, &online)?;
        if cpus.first() == Some(cpu) {
            let complex = own.iter().max_by_key(|cache| cache.level).and_then(|cache| cache.cpus.first());
            cores.insert(Core {
                socket: topology_number(files, *cpu, "physical_package_id"),
                node: node_of.get(cpu).copied().unwrap_or_default(),
                complex: complex.copied().unwrap_or(*cpu),
                clock_khz: files
                    .number(&format!("{CPUS}/cpu{cpu}/cpufreq/cpuinfo_max_freq"))
                    .unwrap_or_default(),
                cpus: cpus.into_iter().collect(),
            });
        }
        caches.extend(own);
    }
    Ok(Topology { cores: cores.into_iter().collect(), nodes, caches })
}

/// The hardware threads of its core that are online, itself among them.
fn siblings(files: &Files<'_>, cpu: u32, online: &BTreeSet<u32>) -> Result<BTreeSet<u32>, InventoryError> {
    let path = format!("{CPUS}/cpu{cpu}/topology/thread_siblings_list");
    let all = if files.has(&path) { files.list(&path)? } else { [cpu].into() };
    Ok(all.intersection(online).copied().collect())
}

/// A kernel says -1 where it does not know.
fn topology_number(files: &Files<'_>, cpu: u32, name: &str) -> u32 {
    let number = files.number(&format!("{CPUS}/cpu{cpu}/topology/{name}"));
    number.and_then(|number| number.try_into().ok()).unwrap_or_default()
}

fn caches_of(files: &Files<'_>, cpu: u32, online: &BTreeSet<u32>) -> Result<Vec<Cache>, InventoryError> {
    let folder = format!("{CPUS}/cpu{cpu}/cache");
    let mut caches = Vec::new();
    for index in files.numbered(&folder, "index") {
        let of = |name: &str| files.word(&format!("{folder}/index{index}/{name}"));
        let kind = match of("type").as_deref() {
            Some("Data") => CacheKind::Data,
            Some("Instruction") => CacheKind::Instruction,
            _ => CacheKind::Unified,
        };
        let level = of("level").and_then(|level| level.parse().ok()).unwrap_or_default();
        let size = of("size").and_then(|size| size.strip_suffix('K')?.parse().ok());
        let shared = files.list(&format!("{folder}/index{index}/shared_cpu_list"))?;
        let cpus = shared.intersection(online).copied().collect();
        caches.push(Cache { level, kind, size_kib: size.unwrap_or_default(), cpus });
    }
    Ok(caches)
}

/// A kernel that knows of no nodes has one: all of it.
fn nodes(files: &Files<'_>) -> Result<Vec<Node>, InventoryError> {
    let ids = files.numbered(NODES, "node");
    if ids.is_empty() {
        let whole = Node { id: 0, memory_mib: memory_mib(files)?, huge_pages: huge_pages(files, HUGE_PAGES) };
        return Ok(vec![whole]);
    }
    let node = |id| {
        let folder = format!("{NODES}/node{id}");
        Ok(Node {
            id,
            memory_mib: node_memory_mib(files, id)?,
            huge_pages: huge_pages(files, &format!("{folder}/hugepages")),
        })
    };
    ids.into_iter().map(node).collect()
}

fn cpu_nodes(files: &Files<'_>, nodes: &[Node]) -> Result<BTreeMap<u32, u32>, InventoryError> {
    let mut of = BTreeMap::new();
    for node in nodes {
        let path = format!("{NODES}/node{}/cpulist", node.id);
        let cpus = if files.has(&path) { files.list(&path)? } else { BTreeSet::new() };
        of.extend(cpus.into_iter().map(|cpu| (cpu, node.id)));
    }
    Ok(of)
}

fn memory_mib(files: &Files<'_>) -> Result<u64, InventoryError> {
    let path = "proc/meminfo";
    total_mib(&files.text(path)?, "MemTotal")
        .ok_or_else(|| InventoryError::Missing { path: files.path(path), what: "MemTotal" })
}

/// A line of a node's file begins with `Node 0 `.
fn node_memory_mib(files: &Files<'_>, id: u32) -> Result<u64, InventoryError> {
    let path = format!("{NODES}/node{id}/meminfo");
    total_mib(&files.text(&path)?, &format!("Node {id} MemTotal"))
        .ok_or_else(|| InventoryError::Missing { path: files.path(&path), what: "MemTotal" })
}

fn total_mib(text: &str, field: &str) -> Option<u64> {
    let kib: u64 = value_of(text, field)?.strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

/// Folders `hugepages-2048kB`, in each of which `nr_hugepages` are reserved.
fn huge_pages(files: &Files<'_>, folder: &str) -> BTreeMap<u64, u64> {
    let size = |name: &str| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok();
    let pages = |name: &str| files.number(&format!("{folder}/{name}/nr_hugepages")).unwrap_or_default();
    let sizes = files.names(folder);
    sizes.iter().filter_map(|name| Some((size(name)?, pages(name)))).collect()
}
