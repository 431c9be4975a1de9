//! The freeze guard: how a partition's machine is to be, how it is, and what puts it back. It looks from outside, as the
//! host's kernel tells it; the machine itself is not asked.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    agent::{
        guest::process::ProcessId,
        host::{
            cgroup::{CgroupError, Cgroups, SetAside, Settings},
            cpus::Cpus,
            disk::{self, DiskExtent},
            threads::{self, ORDINARY_POLICY, Process, Thread},
        },
    },
    domain::{
        id::PartitionId,
        receipt::segment::{Violation, Watched},
    },
};

/// Longest text of a deviation, in characters.
const TOLD_MAX: usize = 120;
/// What a thread that runs a vCPU is called, before the vCPU's number.
const VCPU_NAME: &str = "vcpu";

/// What was found when the machine had been prepared; kept, so that an agent that was started anew sees what was changed
/// while none ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    pub locked_kib: u64,
    pub cgroup: Settings,
}

/// How a machine is to be.
#[derive(Debug, Clone)]
pub struct Expected {
    pub partition: PartitionId,
    pub process: ProcessId,
    /// What the host's kernel keeps for it.
    pub aside: SetAside,
    /// The host CPU of each vCPU.
    pub vcpu_cpus: Vec<u32>,
    /// Where all its other threads keep to.
    pub service_cpus: Vec<u32>,
    pub baseline: Baseline,
    pub disk: Option<ExpectedDisk>,
}

#[derive(Debug, Clone)]
pub struct ExpectedDisk {
    pub path: PathBuf,
    pub mib: u64,
}

/// How it is.
#[derive(Debug, Clone)]
pub struct Seen {
    pub process: Process,
    pub threads: Vec<Thread>,
    cgroup: Settings,
    /// Who else is in the machine's group.
    strangers: Vec<Stranger>,
    offline: Vec<u32>,
    disk: Option<DiskExtent>,
}

/// A process that is not the machine's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stranger {
    id: u32,
    name: String,
}

/// Where it is looked.
#[derive(Debug, Clone)]
pub struct Lookout {
    pub cgroups: Cgroups,
    pub cpus: Cpus,
}

/// Something that is not as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deviation {
    pub what: Watched,
    pub subject: String,
    pub before: String,
    pub after: String,
    remedy: Remedy,
}

/// What puts it back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Remedy {
    None,
    BringOnline(u32),
    /// Into its group, and its vCPUs' threads into theirs.
    Adopt,
    /// Its CPUs are nobody else's again.
    Keep,
    /// Out of its group.
    Evict(u32),
    Set {
        name: String,
        value: String,
        found: String,
    },
    Place {
        thread: u32,
        cpus: Vec<u32>,
    },
    MakeOrdinary(u32),
    MakeNotNice(u32),
    ShapeDisk,
    LetGoOn,
}

impl Seen {
    /// Looks at the machine; none: its process has ended.
    pub fn look(expected: &Expected, lookout: &Lookout) -> Option<Self> {
        let id = expected.process.id;
        let process = threads::process(Path::new("/proc"), id)?;
        let threads = threads::threads(Path::new("/proc"), id);
        // Looked at last: what was read is of the process that was meant.
        if ProcessId::of(id) != Some(expected.process) {
            return None;
        }
        let offline = |cpu: &&u32| !lookout.cpus.is_online(**cpu);
        Some(Self {
            process,
            threads,
            cgroup: lookout.cgroups.settings(expected.partition),
            strangers: strangers(expected, lookout),
            offline: expected.vcpu_cpus.iter().filter(offline).copied().collect(),
            disk: expected.disk.as_ref().and_then(|disk| disk::extent(&disk.path)),
        })
    }

    /// The thread of each vCPU that has one still.
    pub fn vcpus(&self) -> impl Iterator<Item = (usize, &Thread)> {
        self.threads.iter().filter_map(|thread| Some((vcpu_of(thread)?, thread)))
    }
}

fn strangers(expected: &Expected, lookout: &Lookout) -> Vec<Stranger> {
    let others = lookout.cgroups.processes(expected.partition).into_iter();
    let others = others.filter(|id| *id != expected.process.id);
    others.filter_map(|id| Some(Stranger { id, name: threads::program(Path::new("/proc"), id)? })).collect()
}

/// What the kernel begins in the VMM's name when a vCPU first runs goes by such names, and is beside that vCPU at first.
const KERNELS_NAME: &str = "kvm-";

fn is_kernels(thread: &Thread) -> bool {
    thread.name.starts_with(KERNELS_NAME)
}

/// Of which vCPU it is the thread.
fn vcpu_of(thread: &Thread) -> Option<usize> {
    thread.name.strip_prefix(VCPU_NAME)?.parse().ok()
}

impl Baseline {
    pub fn of(partition: PartitionId, process: ProcessId, lookout: &Lookout) -> Self {
        let locked_kib = threads::process(Path::new("/proc"), process.id).map_or(0, |found| found.locked_kib);
        Self { locked_kib, cgroup: lookout.cgroups.settings(partition) }
    }
}

impl Expected {
    /// What is not as it is to be, in the order in which it is put back: what others hang on first.
    pub fn compare(&self, seen: &Seen, lookout: &Lookout) -> Vec<Deviation> {
        let mut found: Vec<Deviation> = seen.offline.iter().map(|cpu| offline(*cpu)).collect();
        found.extend(self.compare_place(seen, lookout));
        found.extend(self.compare_settings(&seen.cgroup));
        found.extend(seen.strangers.iter().map(stranger));
        found.extend(seen.threads.iter().flat_map(|thread| self.compare_thread(thread)));
        found.extend(self.compare_memory(&seen.process));
        found.extend(self.compare_disk(seen.disk));
        found.extend(seen.process.stopped.then(stopped));
        found
    }

    /// Puts what the kernel has begun to where the VMM's other threads are. Nobody has changed anything.
    pub fn place_kernels(&self, seen: &Seen, lookout: &Lookout) -> Result<(), RestoreError> {
        let strays = seen.threads.iter().filter(|thread| is_kernels(thread));
        for stray in strays.filter(|stray| !is_placed(stray, &self.service_cpus)) {
            self.keep(lookout)?;
            threads::place(stray.id, &self.service_cpus)?;
        }
        Ok(())
    }

    fn compare_place(&self, seen: &Seen, lookout: &Lookout) -> Vec<Deviation> {
        let Lookout { cgroups, .. } = lookout;
        let homes = cgroups.home(self.partition).zip(cgroups.vcpus_home(self.partition));
        let Some((home, vcpus_home)) = homes else { return Vec::new() };
        let moved = |subject: &str, home: &str, found: &str, remedy| {
            (!found.ends_with(home)).then(|| deviation(Watched::Cgroup, subject, home, found, remedy))
        };
        if let Some(moved) = moved("the process's group", &home, &seen.process.cgroup, Remedy::Adopt) {
            return vec![moved];
        }
        let of_thread = |thread: &Thread| {
            moved(&format!("group of thread {}", thread.name), &vcpus_home, &thread.cgroup, Remedy::Keep)
        };
        seen.vcpus().filter_map(|(_, thread)| of_thread(thread)).collect()
    }

    fn compare_settings(&self, seen: &Settings) -> Vec<Deviation> {
        let differing = seen.iter().filter_map(|(name, found)| {
            let value = self.baseline.cgroup.get(name).map_or_else(|| at_first(name), String::as_str);
            let remedy = match name.ends_with("cpuset.cpus.partition") {
                true => Remedy::Keep,
                false => Remedy::Set { name: name.clone(), value: value.to_owned(), found: found.clone() },
            };
            (value != found).then(|| deviation(Watched::Cgroup, name, value, found, remedy))
        });
        differing.collect()
    }

    fn compare_thread(&self, thread: &Thread) -> Vec<Deviation> {
        let subject = format!("thread {}", thread.name);
        let mut found = Vec::new();
        let cpus = match vcpu_of(thread) {
            Some(vcpu) => self.vcpu_cpus.get(vcpu).map(|cpu| vec![*cpu]),
            None => Some(self.service_cpus.clone()).filter(|_| !is_kernels(thread)),
        };
        if let Some(cpus) = cpus.filter(|cpus| !is_placed(thread, cpus)) {
            let (before, after) = (list(&cpus), list(&thread.affinity));
            let remedy = Remedy::Place { thread: thread.id, cpus };
            found.push(deviation(Watched::Affinity, &subject, before, after, remedy));
        }
        if thread.policy != ORDINARY_POLICY {
            let (before, after) = (policy(ORDINARY_POLICY), policy(thread.policy));
            let remedy = Remedy::MakeOrdinary(thread.id);
            found.push(deviation(Watched::Policy, &subject, before, after, remedy));
        }
        if thread.nice != 0 {
            let remedy = Remedy::MakeNotNice(thread.id);
            found.push(deviation(Watched::Nice, &subject, "0", thread.nice.to_string(), remedy));
        }
        found
    }

    fn compare_memory(&self, process: &Process) -> Vec<Deviation> {
        let kib = |number: u64| format!("{number} KiB");
        let subject = "the process";
        let mut found = Vec::new();
        if process.locked_kib < self.baseline.locked_kib {
            let (before, after) = (kib(self.baseline.locked_kib), kib(process.locked_kib));
            found.push(deviation(Watched::LockedMemory, subject, before, after, Remedy::None));
        }
        if process.swapped_kib > 0 {
            let after = kib(process.swapped_kib);
            found.push(deviation(Watched::Swap, subject, kib(0), after, Remedy::None));
        }
        found
    }

    fn compare_disk(&self, seen: Option<DiskExtent>) -> Option<Deviation> {
        let disk = self.disk.as_ref()?;
        let (bytes, extent) =
            (disk::file_bytes(disk.mib), seen.unwrap_or(DiskExtent { bytes: 0, allocated_bytes: 0 }));
        let of = |what, found: u64| {
            deviation(what, "the disk", format!("{bytes} bytes"), format!("{found} bytes"), Remedy::ShapeDisk)
        };
        if extent.bytes != bytes {
            return Some(of(Watched::DiskSize, extent.bytes));
        }
        (extent.allocated_bytes < bytes).then(|| of(Watched::DiskBlocks, extent.allocated_bytes))
    }

    /// Does what puts it back. Whether that was enough, another look says.
    pub fn restore(&self, deviation: &Deviation, lookout: &Lookout) -> Result<(), RestoreError> {
        match &deviation.remedy {
            Remedy::None => Ok(()),
            Remedy::BringOnline(cpu) => Ok(lookout.cpus.bring_online(*cpu)?),
            Remedy::Adopt => {
                lookout.cgroups.adopt(self.partition, self.process.id)?;
                self.keep(lookout)
            }
            Remedy::Keep => self.keep(lookout),
            Remedy::Evict(process) => Ok(lookout.cgroups.evict(*process)?),
            Remedy::Set { name, value, found } => {
                Ok(lookout.cgroups.restore(self.partition, name, value, found)?)
            }
            Remedy::Place { thread, cpus } => {
                // Where the kernel lets the thread run at all is its group's business.
                self.keep(lookout)?;
                Ok(threads::place(*thread, cpus)?)
            }
            Remedy::MakeOrdinary(thread) => Ok(threads::make_ordinary(*thread)?),
            Remedy::MakeNotNice(thread) => Ok(threads::make_not_nice(*thread)?),
            Remedy::ShapeDisk => {
                let disk = self.disk.as_ref();
                Ok(disk.map_or(Ok(()), |disk| disk::shape(&disk.path, disk.mib))?)
            }
            Remedy::LetGoOn => Ok(threads::let_go_on(self.process.id)?),
        }
    }

    fn keep(&self, lookout: &Lookout) -> Result<(), RestoreError> {
        Ok(lookout.cgroups.keep(self.partition, &self.aside, self.process.id)?)
    }
}

/// Why something is not put back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("the host refused")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Thread(#[from] threads::RestoreError),
    #[error(transparent)]
    Disk(#[from] disk::DiskError),
}

impl Deviation {
    /// Whether something that was set aside is missing while it lasts. How a thread is scheduled beside others shows in the
    /// time that it waits, and a stop is counted by itself.
    pub fn is_lack(&self) -> bool {
        !matches!(self.what, Watched::Policy | Watched::Nice | Watched::Stopped)
    }

    /// Which of all that can be changed it is.
    pub fn place(&self) -> (Watched, String) {
        (self.what, self.subject.clone())
    }

    pub fn noticed(&self, at: jiff::Timestamp, restored: bool) -> Violation {
        let Self { what, subject, before, after, .. } = self.clone();
        Violation { at, what, subject, before, after, restored }
    }
}

fn deviation(
    what: Watched,
    subject: &str,
    before: impl Into<String>,
    after: impl Into<String>,
    remedy: Remedy,
) -> Deviation {
    let (subject, before, after) = (told(subject), told(&before.into()), told(&after.into()));
    Deviation { what, subject, before, after, remedy }
}

/// As much of a text as a receipt has room for.
fn told(text: &str) -> String {
    text.chars().take(TOLD_MAX).collect()
}

fn offline(cpu: u32) -> Deviation {
    let subject = format!("CPU {cpu}");
    deviation(Watched::CpuOnline, &subject, "online", "offline", Remedy::BringOnline(cpu))
}

fn stranger(Stranger { id, name }: &Stranger) -> Deviation {
    let subject = format!("process {id} ({name})");
    deviation(Watched::Stranger, &subject, "elsewhere", "in the machine's group", Remedy::Evict(*id))
}

fn stopped() -> Deviation {
    deviation(Watched::Stopped, "the process", "running", "stopped", Remedy::LetGoOn)
}

/// A vCPU runs on its CPU alone; other threads on any of theirs, and on none beside.
fn is_placed(thread: &Thread, cpus: &[u32]) -> bool {
    !thread.affinity.is_empty() && thread.affinity.iter().all(|cpu| cpus.contains(cpu))
}

fn list(cpus: &[u32]) -> String {
    let cpus: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    format!("CPU {}", cpus.join(","))
}

/// As sched(7) has it.
fn policy(number: u32) -> String {
    let known = ["other", "fifo", "rr", "batch", "iso", "idle", "deadline"];
    let name = usize::try_from(number).ok().and_then(|number| known.get(number));
    name.map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

/// What a setting is in a group that was just made: one that was not there at first has been brought in since.
fn at_first(name: &str) -> &'static str {
    match name.rsplit('/').next().unwrap_or(name) {
        "cpuset.cpus.partition" => "member",
        "cpu.idle" | "cgroup.freeze" | "memory.min" => "0",
        "cpu.max" => "max 100000",
        "cpu.weight" => "100",
        "io.weight" => "default 100",
        "memory.high" | "memory.max" | "memory.swap.max" | "pids.max" => "max",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
