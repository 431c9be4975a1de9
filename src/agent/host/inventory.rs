//! What the host has, as its kernel tells it in /proc and /sys.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::carve::{Core, HostResources};

/// Longest model name that is told, in bytes; what CPUID has room for is 48.
const MODEL_NAME_MAX: usize = 100;
/// What each level of x86-64 from the second on adds, in Linux's names (System V psABI for x86-64, "Micro-Architecture
/// Levels"). A guest sees all of it: the VMM passes it on.
const X86_64_LEVELS: [&[&str]; 3] = [
    &["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"],
    &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"],
    &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
];

/// Facts of the host that do not change while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    pub cores: Vec<Core>,
    pub memory_mib: u64,
    /// The model's name, and the level of x86-64 that it amounts to: software is built for these.
    pub cpu_model: String,
    /// How many NUMA nodes partitions lie on, where the host has but one; on others it is not looked at.
    pub numa_nodes: Option<u16>,
    /// Names the time since the host was started; another one says that every guest is gone.
    pub boot_id: String,
    pub has_kvm: bool,
    pub has_vhost_vsock: bool,
}

#[derive(Debug, Error)]
pub enum InventoryError {
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} does not say {what}")]
    Missing { path: PathBuf, what: &'static str },
    #[error("{path:?}: {text:?} is not a list of CPUs such as 0-3,5")]
    CpuList { path: PathBuf, text: String },
    #[error("cannot tell how much space the file system of {path:?} has")]
    FileSystem { path: PathBuf, source: io::Error },
}

impl Inventory {
    /// Reads the host whose file systems are mounted under `root`.
    pub fn read(root: &Path) -> Result<Self, InventoryError> {
        let cpuinfo = root.join("proc/cpuinfo");
        let text = read(&cpuinfo)?;
        let model = value_of(&text, "model name").unwrap_or("unknown");
        let level = x86_64_level(value_of(&text, "flags").unwrap_or_default());
        Ok(Self {
            cores: cores(&root.join("sys/devices/system/cpu"))?,
            memory_mib: memory_mib(&root.join("proc/meminfo"))?,
            cpu_model: format!("{} (x86-64-v{level})", told(model)),
            numa_nodes: numa_nodes(&root.join("sys/devices/system/node/online"))?,
            boot_id: read(&root.join("proc/sys/kernel/random/boot_id"))?.trim().to_owned(),
            has_kvm: root.join("dev/kvm").exists(),
            has_vhost_vsock: root.join("dev/vhost-vsock").exists(),
        })
    }

    /// With what the file system of `state_directory` can hold for partitions, which have `held_mib` of it now.
    pub fn resources(&self, state_directory: &Path, held_mib: u64) -> Result<HostResources, InventoryError> {
        Ok(HostResources {
            cores: self.cores.clone(),
            memory_mib: self.memory_mib,
            disk_mib: available_mib(state_directory)?.saturating_add(held_mib),
        })
    }
}

fn available_mib(directory: &Path) -> Result<u64, InventoryError> {
    let space = rustix::fs::statvfs(directory)
        .map_err(|error| InventoryError::FileSystem { path: directory.to_owned(), source: error.into() })?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize) >> 20)
}

fn read(path: &Path) -> Result<String, InventoryError> {
    fs::read_to_string(path).map_err(|source| InventoryError::Read { path: path.to_owned(), source })
}

/// The value in the first line `key : value`.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.trim(), value.trim())).find(|(name, _)| *name == key).map(|(_, v)| v)
}

/// As much of a model's name as is told.
fn told(model: &str) -> &str {
    let end = model.char_indices().map(|(at, _)| at).take_while(|at| *at <= MODEL_NAME_MAX).last();
    if model.len() <= MODEL_NAME_MAX { model } else { &model[..end.unwrap_or_default()] }
}

/// The highest level whose every feature, and those of the levels below it, is among the CPU's `flags`.
fn x86_64_level(flags: &str) -> usize {
    let flags: BTreeSet<&str> = flags.split_whitespace().collect();
    let reached = X86_64_LEVELS.iter().take_while(|level| level.iter().all(|flag| flags.contains(flag)));
    1 + reached.count()
}

fn memory_mib(path: &Path) -> Result<u64, InventoryError> {
    let text = read(path)?;
    let kib = value_of(&text, "MemTotal").and_then(|value| value.strip_suffix(" kB")?.trim().parse().ok());
    let kib: u64 = kib.ok_or_else(|| InventoryError::Missing { path: path.to_owned(), what: "MemTotal" })?;
    Ok(kib / 1024)
}

fn cores(directory: &Path) -> Result<Vec<Core>, InventoryError> {
    let online = cpu_list(&directory.join("online"))?;
    let mut cores = BTreeSet::new();
    for cpu in &online {
        let siblings = directory.join(format!("cpu{cpu}/topology/thread_siblings_list"));
        let threads = if siblings.exists() { cpu_list(&siblings)? } else { [*cpu].into() };
        cores.insert(Core(threads.intersection(&online).copied().collect()));
    }
    Ok(cores.into_iter().collect())
}

/// 1 where the host has one node; a kernel that knows of no nodes has no such file.
fn numa_nodes(path: &Path) -> Result<Option<u16>, InventoryError> {
    Ok((!path.exists() || cpu_list(path)?.len() == 1).then_some(1))
}

fn cpu_list(path: &Path) -> Result<BTreeSet<u32>, InventoryError> {
    let text = read(path)?;
    let ranges = text.trim().split(',').filter(|range| !range.is_empty());
    let cpus: Option<Vec<_>> = ranges.map(cpu_range).collect();
    let wrong = || InventoryError::CpuList { path: path.to_owned(), text: text.trim().to_owned() };
    Ok(cpus.ok_or_else(wrong)?.into_iter().flatten().collect())
}

fn cpu_range(range: &str) -> Option<std::ops::RangeInclusive<u32>> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host under a directory of its own, with these files.
    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let common = [
            ("proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD EPYC 7763\nflags\t\t: svm\n"),
            ("proc/meminfo", "MemTotal:        2048000 kB\nMemFree: 1 kB\n"),
            ("proc/sys/kernel/random/boot_id", "b1\n"),
            ("sys/devices/system/cpu/online", "0-3\n"),
        ];
        for (path, text) in common.iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn siblings(of: &[(u32, &str)]) -> Vec<(String, String)> {
        let path = |cpu| format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        of.iter().map(|(cpu, list)| (path(cpu), format!("{list}\n"))).collect()
    }

    #[test]
    fn a_cpu_is_of_the_level_of_which_it_lacks_nothing() {
        let [v2, v3, v4] = X86_64_LEVELS.map(|level| level.join(" "));
        assert_eq!(x86_64_level("fpu sse2"), 1);
        assert_eq!(x86_64_level(&format!("fpu {v2}")), 2);
        assert_eq!(x86_64_level(&format!("{v3} {v2}")), 3);
        assert_eq!(x86_64_level(&format!("{v2} {v4}")), 2);
        assert_eq!(x86_64_level(&format!("{v2} {v3} {v4} amx_tile")), 4);
    }

    #[test]
    fn a_host_is_read_with_its_siblings_together() {
        let siblings = siblings(&[(0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")]);
        let files: Vec<(&str, &str)> = siblings.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
        let inventory = Inventory::read(host(&files).path()).unwrap();
        assert_eq!(inventory.cores, [Core(vec![0, 2]), Core(vec![1, 3])]);
        assert_eq!((inventory.memory_mib, inventory.boot_id.as_str()), (2000, "b1"));
        assert_eq!(inventory.cpu_model, "AMD EPYC 7763 (x86-64-v1)");
        assert!(!inventory.has_kvm);
    }

    #[test]
    fn a_cpu_that_is_offline_is_in_no_core() {
        let siblings = siblings(&[(0, "0-1"), (1, "0-1")]);
        let mut files: Vec<(&str, &str)> = siblings.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
        files.push(("sys/devices/system/cpu/online", "0,2-3"));
        let inventory = Inventory::read(host(&files).path()).unwrap();
        assert_eq!(inventory.cores, [Core(vec![0]), Core(vec![2]), Core(vec![3])]);
    }

    #[test]
    fn partitions_lie_on_one_node_where_there_is_but_one() {
        for (online, nodes) in [("0\n", Some(1)), ("0-1\n", None)] {
            let host = host(&[("sys/devices/system/node/online", online)]);
            assert_eq!(Inventory::read(host.path()).unwrap().numa_nodes, nodes);
        }
        assert_eq!(Inventory::read(host(&[]).path()).unwrap().numa_nodes, Some(1));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let broken = host(&[("sys/devices/system/cpu/online", "0-x")]);
        let error = Inventory::read(broken.path()).unwrap_err();
        assert!(error.to_string().contains("\"0-x\" is not a list of CPUs"), "{error}");
        let silent = host(&[("proc/meminfo", "MemFree: 1 kB\n")]);
        assert!(Inventory::read(silent.path()).unwrap_err().to_string().ends_with("MemTotal"));
    }

    #[test]
    fn this_machine_can_be_read() {
        let inventory = Inventory::read(Path::new("/")).unwrap();
        assert!(inventory.cores.iter().any(|core| core.0.contains(&0)));
        assert!(inventory.resources(Path::new("/"), 7).unwrap().disk_mib >= 7);
    }
}
