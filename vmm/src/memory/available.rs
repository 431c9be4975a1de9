//! What memory the host could give without pushing anybody else out. Asking first matters: locking more than there is
//! does not fail, it wakes the OOM killer.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::{Pages, nodes::Nodes};

const NODES: &str = "/sys/devices/system/node";
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const HUGE_PAGE_MIB: u64 = 2;
/// Memory of a node that is free, or the kernel's copy of what is on a disk: what `MemAvailable` counts of a host.
const OF_A_NODE: [&str; 4] = ["MemFree:", "Active(file):", "Inactive(file):", "SReclaimable:"];

#[derive(Debug, Error)]
pub enum AvailableError {
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    #[error("{path} says nothing of {what}")]
    Missing { path: PathBuf, what: &'static str },
    #[error("the host's kernel has no huge pages of 2 MiB (CONFIG_HUGETLBFS)")]
    NoHugePages,
}

/// So much, of which kind, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Available {
    pub mib: u64,
    pages: Pages,
    nodes: Nodes,
}

impl Available {
    /// On these nodes; of the whole host where there are none.
    pub fn now(pages: Pages, nodes: &Nodes) -> Result<Self, AvailableError> {
        let on_nodes = |of_node: fn(usize) -> Result<u64, AvailableError>| {
            nodes.0.iter().map(|node| of_node(*node)).sum::<Result<u64, _>>()
        };
        let (of_host, on_nodes) = match pages {
            Pages::Any => (of_host()?, on_nodes(of_node)?),
            Pages::Huge => (huge_of_host()?, on_nodes(huge_of_node)?),
        };
        let mib = if nodes.0.is_empty() { of_host } else { of_host.min(on_nodes) };
        Ok(Self { mib, pages, nodes: nodes.clone() })
    }
}

impl fmt::Display for Available {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.mib)?;
        if self.pages == Pages::Huge {
            f.write_str(" in huge pages of 2 MiB (vm.nr_hugepages reserves them)")?;
        }
        match self.nodes.0.as_slice() {
            [] => Ok(()),
            nodes => write!(f, " on NUMA nodes {nodes:?} of the guest's CPUs"),
        }
    }
}

fn of_host() -> Result<u64, AvailableError> {
    let path = Path::new("/proc/meminfo");
    let kib = kib_of(&read(path)?, "MemAvailable:");
    kib.map(|kib| kib / 1024)
        .ok_or(AvailableError::Missing { path: path.to_owned(), what: "available memory (MemAvailable)" })
}

fn of_node(node: usize) -> Result<u64, AvailableError> {
    let path = PathBuf::from(format!("{NODES}/node{node}/meminfo"));
    let text = read(&path)?;
    let kib: Option<u64> = OF_A_NODE.iter().map(|field| kib_of(&text, field)).sum();
    kib.map(|kib| kib / 1024).ok_or(AvailableError::Missing { path, what: "free memory" })
}

/// Those that nobody has been promised.
fn huge_of_host() -> Result<u64, AvailableError> {
    let folder = Path::new(HUGE_PAGES);
    if !folder.exists() {
        return Err(AvailableError::NoHugePages);
    }
    let (free, promised) = (pages(&folder.join("free_hugepages"))?, pages(&folder.join("resv_hugepages"))?);
    Ok(free.saturating_sub(promised) * HUGE_PAGE_MIB)
}

fn huge_of_node(node: usize) -> Result<u64, AvailableError> {
    let path = PathBuf::from(format!("{NODES}/node{node}/hugepages/hugepages-2048kB/free_hugepages"));
    Ok(pages(&path)? * HUGE_PAGE_MIB)
}

fn pages(path: &Path) -> Result<u64, AvailableError> {
    let missing = AvailableError::Missing { path: path.to_owned(), what: "huge pages" };
    read(path)?.trim().parse().map_err(|_| missing)
}

fn read(path: &Path) -> Result<String, AvailableError> {
    fs::read_to_string(path).map_err(|error| AvailableError::Read(path.to_owned(), error))
}

/// Of a line `MemFree: 7 kB`, before which a node's file has `Node 0 `.
fn kib_of(text: &str, field: &str) -> Option<u64> {
    let (_, rest) =
        text.lines().find_map(|line| line.split_once(field).filter(|(before, _)| is_field(before)))?;
    rest.trim().strip_suffix(" kB")?.parse().ok()
}

/// Whether a field begins after this: `Inactive(file):` is no `Active(file):`.
fn is_field(before: &str) -> bool {
    before.is_empty() || before.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_or_found_to_say_nothing() {
        assert_eq!(kib_of("MemTotal: 9 kB\nMemAvailable:    4096 kB\n", "MemAvailable:"), Some(4096));
        assert_eq!(kib_of("MemTotal: 9 kB\n", "MemAvailable:"), None);
        let node = "Node 1 Inactive(file):  3 kB\nNode 1 Active(file):  5 kB\n";
        assert_eq!(kib_of(node, "Active(file):"), Some(5));
    }

    #[test]
    fn what_is_left_says_of_which_kind_and_where() {
        let any = Available { mib: 7, pages: Pages::Any, nodes: Nodes(vec![]) };
        assert_eq!(any.to_string(), "7 MiB");
        let huge = Available { pages: Pages::Huge, nodes: Nodes(vec![0, 1]), ..any };
        assert!(huge.to_string().starts_with("7 MiB in huge pages of 2 MiB"), "{huge}");
        assert!(huge.to_string().ends_with("on NUMA nodes [0, 1] of the guest's CPUs"), "{huge}");
    }
}
