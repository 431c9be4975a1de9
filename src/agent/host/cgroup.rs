//! Control groups: a group a partition, in which its VMM lives, outside the agent's. What is set aside is kept by the
//! kernel through it, and it can be killed whole.
//!
//! ```text
//! PLACE                    cpuset.cpus.exclusive: all that can be lent
//! ├── PARTITION            the VMM's own threads, on the owner's CPUs
//! │   └── vcpus            threaded; an isolated cpuset partition: nobody else runs on its CPUs
//! └── shares               a cpuset partition of the cores that are set aside for shares
//!     └── PARTITION        all threads of the VMM, within cpu.max
//! ```

mod aside;
mod file;
mod settings;
mod shares;
mod whole;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

pub use self::{
    aside::{DiskBounds, SetAside},
    settings::Settings,
};
use crate::domain::id::PartitionId;

/// Where groups are made unless the owner names another place.
pub const DEFAULT_PLACE: &str = "/sys/fs/cgroup/sublet";
/// Below a partition's group: its vCPUs.
const VCPUS: &str = "vcpus";
/// Below the place: partitions that have shares of CPUs.
const SHARES: &str = "shares";
/// Below the place: what serves partitions' networks.
pub const NETWORK: &str = "network";
/// Below the place: processes that were in it when it was handed over.
const KEEPER: &str = "keeper";

/// The host's control groups for partitions; none where cgroup2 cannot be used, and then no VMM is started.
#[derive(Debug, Clone)]
pub struct Cgroups {
    place: Option<PathBuf>,
    /// Why the host cannot do what they are for.
    refusal: Option<String>,
    /// All that can be lent; one at a time changes which CPUs are whose.
    lendable: Arc<Mutex<BTreeSet<u32>>>,
}

#[derive(Debug, Error)]
pub enum CgroupError {
    #[error(
        "this host has no cgroup2 at /sys/fs/cgroup that can be written, and a VMM needs a group of its own"
    )]
    Unusable,
    #[error("nothing can be set aside on this host: {0}")]
    Refused(String),
    #[error("cannot {act} the control group {path:?}")]
    Failed { act: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot write {value:?} to {path:?}")]
    Write { path: PathBuf, value: String, source: io::Error },
    #[error("{path:?}: the kernel does not keep the CPUs from others, and says {says:?}")]
    NotExclusive { path: PathBuf, says: String },
    #[error("the VMM {0} has no thread for a vCPU")]
    NoVcpus(u32),
}

fn failed(act: &'static str, path: &Path) -> impl Fn(io::Error) -> CgroupError {
    move |source| CgroupError::Failed { act, path: path.to_owned(), source }
}

impl Cgroups {
    /// Uses `place`, where what it lies in is a cgroup2 that can be written.
    pub fn at(place: &Path) -> Self {
        let above = place.parent().unwrap_or(place);
        let usable = above.join("cgroup.controllers").exists() && fs::create_dir_all(place).is_ok();
        Self::new(usable.then(|| place.to_owned()))
    }

    fn new(place: Option<PathBuf>) -> Self {
        Self { place, refusal: None, lendable: Arc::default() }
    }

    /// Of a host that cannot set anything aside.
    pub fn refused(reason: String) -> Self {
        Self { refusal: Some(reason), ..Self::new(None) }
    }

    /// Groups of partitions for something else than their VMMs.
    pub fn below(&self, name: &str) -> Self {
        let place = self.place.as_ref().map(|place| place.join(name));
        Self::new(place.filter(|place| fs::create_dir_all(place).is_ok()))
    }

    pub fn usable(&self) -> bool {
        self.place.is_some()
    }

    /// Has the kernel allow that `cpus`, which is all that can be lent, be kept from others below the place.
    pub fn open(&self, cpus: &BTreeSet<u32>) -> Result<(), CgroupError> {
        let place = self.place()?;
        aside::enable_controllers(place)?;
        let mut lendable = self.changing();
        file::write(place, "cpuset.cpus.exclusive", &file::list(cpus))?;
        lendable.clone_from(cpus);
        // What its groups ask to be kept for them counts only as far as it is kept for it.
        file::write(place, "memory.min", "max")
    }

    /// Deletes the place, once no partition has a group in it; where it was handed over, it stays as it was.
    pub fn close(&self) -> Result<(), CgroupError> {
        let Some(place) = &self.place else { return Ok(()) };
        file::remove(&place.join(NETWORK))?;
        if place.join(KEEPER).exists() {
            return file::write(place, "cpuset.cpus.exclusive", "");
        }
        file::remove(place)
    }

    /// Makes the partition's group with what is set aside for it, for a VMM that is to be started.
    pub fn make(&self, partition: PartitionId, aside: &SetAside) -> Result<(), CgroupError> {
        let place = self.place()?;
        let _one = self.changing();
        let group = match aside.cpu_share_percent {
            None => place.join(partition.to_string()),
            Some(_) => shares::grow(place, &aside.cores)?.join(partition.to_string()),
        };
        fs::create_dir_all(&group).map_err(failed("make", &group))?;
        aside.write(&group)
    }

    /// Gives the vCPUs of the VMM their CPUs, which from now on are nobody else's; again, where they are not any more.
    pub fn keep(&self, partition: PartitionId, aside: &SetAside, vmm: u32) -> Result<(), CgroupError> {
        let place = self.place()?;
        let lendable = self.changing();
        if file::read_cpus(place, "cpuset.cpus.exclusive") != *lendable {
            file::write(place, "cpuset.cpus.exclusive", &file::list(&lendable))?;
        }
        match aside.cpu_share_percent {
            None => whole::keep(&place.join(partition.to_string()), &aside.cpus, vmm),
            Some(_) => shares::grow(place, &aside.cores).map(drop),
        }
    }

    /// The CPUs that are kept from others now.
    pub fn kept(&self) -> BTreeSet<u32> {
        let Some(place) = &self.place else { return BTreeSet::new() };
        let groups = file::groups(place).into_iter().map(|group| place.join(group).join(VCPUS));
        groups.chain([place.join(SHARES)]).flat_map(|group| file::cpus(&group)).collect()
    }

    /// Moves a process, and all that it starts later, into the partition's group.
    pub fn adopt(&self, partition: PartitionId, process: u32) -> Result<(), CgroupError> {
        let place = self.place()?;
        let group = self.existing(partition).unwrap_or_else(|| place.join(partition.to_string()));
        fs::create_dir_all(&group).map_err(failed("make", &group))?;
        file::write(&group, "cgroup.procs", &process.to_string())
    }

    /// The processes in the partition's group.
    pub fn processes(&self, partition: PartitionId) -> Vec<u32> {
        let listed = self.existing(partition).map(|group| file::read(&group, "cgroup.procs"));
        listed.unwrap_or_default().lines().filter_map(|id| id.parse().ok()).collect()
    }

    /// Moves a process that is not ours out of whatever group of ours it is in, to where every process begins.
    pub fn evict(&self, process: u32) -> Result<(), CgroupError> {
        let place = self.place()?;
        let groups = place.ancestors().skip(1).take_while(|above| above.join("cgroup.controllers").exists());
        let root = groups.last().unwrap_or(place);
        file::write(root, "cgroup.procs", &process.to_string())
    }

    /// Kills whatever is left in the partition's group (SIGKILL).
    pub fn kill(&self, partition: PartitionId) -> Result<(), CgroupError> {
        match self.existing(partition) {
            Some(group) => fs::write(group.join("cgroup.kill"), "1").map_err(failed("kill", &group)),
            None => Ok(()),
        }
    }

    /// Waits until no process is left in the partition's group.
    pub fn wait_until_empty(&self, partition: PartitionId, patience: Duration) -> Result<(), CgroupError> {
        let Some(group) = self.existing(partition) else { return Ok(()) };
        let path = group.join("cgroup.events");
        let deadline = Instant::now() + patience;
        loop {
            let events = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                opened => opened.map_err(failed("read", &path))?,
            };
            let text = io::read_to_string(&events).map_err(failed("read", &path))?;
            let left = deadline.saturating_duration_since(Instant::now());
            if text.lines().any(|line| line == "populated 0") {
                return Ok(());
            }
            if left.is_zero() {
                return Err(failed("empty", &group)(io::ErrorKind::TimedOut.into()));
            }
            // The kernel signals a change of the file by POLLPRI (cgroup-v2.rst, "Un-populated Notification").
            let timeout = Timespec::try_from(left).ok();
            poll(&mut [PollFd::new(&events, PollFlags::PRI)], timeout.as_ref())
                .map_err(|error| failed("watch", &path)(error.into()))?;
        }
    }

    /// Deletes the partition's group; its CPUs are everybody's again.
    pub fn remove(&self, partition: PartitionId) -> Result<(), CgroupError> {
        let (Some(place), Some(group)) = (&self.place, self.existing(partition)) else { return Ok(()) };
        let _one = self.changing();
        file::remove(&group.join(VCPUS))?;
        file::remove(&group)?;
        if group.parent() == Some(place.join(SHARES).as_path()) { shares::shrink(place) } else { Ok(()) }
    }

    fn place(&self) -> Result<&PathBuf, CgroupError> {
        let refusal = || self.refusal.clone().map_or(CgroupError::Unusable, CgroupError::Refused);
        self.place.as_ref().ok_or_else(refusal)
    }

    fn changing(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.lendable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the partition's group is, whether it has whole cores or shares.
    fn existing(&self, partition: PartitionId) -> Option<PathBuf> {
        let (place, name) = (self.place.as_ref()?, partition.to_string());
        [place.join(&name), place.join(SHARES).join(&name)].into_iter().find(|group| group.exists())
    }
}

#[cfg(test)]
mod tests;
