//! Shares of CPUs: the cores that are set aside for them, on which nothing but partitions with shares runs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{CgroupError, SHARES, aside, failed, file};

/// Sets these cores aside for shares as well; the group in which partitions that have shares are.
pub(super) fn grow(place: &Path, cores: &BTreeSet<u32>) -> Result<PathBuf, CgroupError> {
    let shares = place.join(SHARES);
    fs::create_dir_all(&shares).map_err(failed("make", &shares))?;
    aside::enable_controllers(&shares)?;
    file::write(&shares, "memory.min", "max")?;
    resize(&shares, &(&file::cpus(&shares) | cores))?;
    Ok(shares)
}

/// Gives back the cores that no share lies on any more.
pub(super) fn shrink(place: &Path) -> Result<(), CgroupError> {
    let shares = place.join(SHARES);
    let groups = file::groups(&shares);
    if groups.is_empty() {
        return file::remove(&shares);
    }
    let left = groups.iter().flat_map(|group| file::cpus(&shares.join(group))).collect();
    resize(&shares, &left)
}

fn resize(shares: &Path, cores: &BTreeSet<u32>) -> Result<(), CgroupError> {
    let list = file::list(cores);
    file::write(shares, "cpuset.cpus", &list)?;
    file::write(shares, "cpuset.cpus.exclusive", &list)?;
    file::make_exclusive(shares, "root")
}
