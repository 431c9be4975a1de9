//! NUMA nodes of the host (Documentation/admin-guide/mm/numa_memory_policy.rst).

use std::{fs, io, path::Path};

use thiserror::Error;
use vm_memory::MmapRegion;

const CPUS: &str = "/sys/devices/system/cpu";
/// Nodes that a mask names at most, in words of 64.
const MASK_WORDS: usize = 16;

#[derive(Debug, Error)]
pub enum BindError {
    #[error("the kernel's interface can name nodes below {limit}, not {0}", limit = MASK_WORDS * 64)]
    NoSuchNode(usize),
    #[error(
        "the host's kernel does not bind memory to nodes {nodes:?}; this process's cpuset must allow them"
    )]
    Refused { nodes: Vec<usize>, source: io::Error },
}

/// The nodes that some CPUs belong to; none on a kernel that knows no NUMA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nodes(pub(super) Vec<usize>);

impl Nodes {
    pub fn of_cpus(cpus: &[u32]) -> Self {
        Self::below(Path::new(CPUS), cpus)
    }

    fn below(folder: &Path, cpus: &[u32]) -> Self {
        let mut nodes: Vec<_> =
            cpus.iter().filter_map(|cpu| node_of(&folder.join(format!("cpu{cpu}")))).collect();
        nodes.sort_unstable();
        nodes.dedup();
        Self(nodes)
    }

    /// Has every page of it come from these nodes, and from no others even where they are full.
    pub fn bind(&self, mapping: &MmapRegion) -> Result<(), BindError> {
        let mut mask = [0u64; MASK_WORDS];
        for node in &self.0 {
            *mask.get_mut(node / 64).ok_or(BindError::NoSuchNode(*node))? |= 1 << (node % 64);
        }
        if self.0.is_empty() {
            return Ok(());
        }
        // One more than there are: the kernel takes the last as not counted (mbind(2), bugs).
        let bits = MASK_WORDS * 64 + 1;
        // SAFETY: the range is one whole mapping of ours, and the kernel reads `bits` - 1 bits of the mask.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                mapping.as_ptr(),
                mapping.size(),
                libc::MPOL_BIND,
                mask.as_ptr(),
                bits,
                0,
            )
        };
        match (result, io::Error::last_os_error()) {
            (0, _) => Ok(()),
            // A kernel without NUMA has one node, which all memory is on.
            (_, error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
            (_, source) => Err(BindError::Refused { nodes: self.0.clone(), source }),
        }
    }
}

/// A CPU's folder holds a link to its node's, `node0`.
fn node_of(cpu: &Path) -> Option<usize> {
    let names = fs::read_dir(cpu).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix("node")?.parse().ok()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_belongs_to_the_nodes_of_its_cpus_each_once() {
        let folder = tempfile::tempdir().unwrap();
        for (cpu, node) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
            fs::create_dir_all(folder.path().join(format!("cpu{cpu}/node{node}"))).unwrap();
        }
        fs::create_dir_all(folder.path().join("cpu4/nodes")).unwrap();
        let nodes = |cpus: &[u32]| Nodes::below(folder.path(), cpus).0;
        assert_eq!(nodes(&[1, 0]), [0]);
        assert_eq!(nodes(&[3, 1, 2]), [0, 1]);
        assert_eq!(nodes(&[4, 9]), [] as [usize; 0]);
    }
}
