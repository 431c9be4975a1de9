//! A process's threads as the host's kernel shows them (proc(5)): where they may run, how they are scheduled, and what became
//! of their time; and how that is put back.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    process::{Pid, Signal, kill_process, setpriority_process},
    thread::{CpuSet, sched_setaffinity},
};
use thiserror::Error;

use crate::inventory::cpu_list;

/// What schedules a thread unless somebody says otherwise: SCHED_OTHER (sched(7)).
pub const ORDINARY_POLICY: u32 = 0;
/// Where the program that changes a policy is looked for.
const CHRT: [&str; 2] = ["/usr/bin/chrt", "/bin/chrt"];

/// A process's state beside its threads'.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Stopped by a signal or by a debugger.
    pub stopped: bool,
    pub locked_kib: u64,
    pub swapped_kib: u64,
    /// Its control group, as a path below the mount.
    pub cgroup: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    pub id: u32,
    pub name: String,
    /// SCHED_… (sched(7)).
    pub policy: u32,
    pub nice: i32,
    /// Host CPUs that it may run on, ascending.
    pub affinity: Vec<u32>,
    /// Its control group, as a path below the mount.
    pub cgroup: String,
    /// How long it ran, and how long it wanted to and did not.
    pub ran: Duration,
    pub waited: Duration,
}

/// Why a thread is not put back.
#[derive(Debug, Error)]
pub enum RestoreError {
    #[error("the kernel refused")]
    Refused(#[from] rustix::io::Errno),
    #[error("there is no process {0}")]
    NoProcess(u32),
    #[error("a CPU's number is beyond what the kernel's interface can name")]
    NoSuchCpu,
    #[error("this host has no program chrt: install the package util-linux")]
    NoChrt,
    #[error("cannot run {program:?}")]
    Run { program: PathBuf, source: io::Error },
    #[error("{program:?} failed: {said}")]
    Failed { program: PathBuf, said: String },
}

/// The process, as it is under `proc`; none: it has ended.
pub fn process(proc: &Path, id: u32) -> Option<Process> {
    let status = fs::read_to_string(proc.join(format!("{id}/status"))).ok()?;
    let kib = |key| field(&status, key).and_then(|value| value.strip_suffix(" kB")?.trim().parse().ok());
    let state = field(&status, "State").and_then(|state| state.chars().next())?;
    let cgroup = fs::read_to_string(proc.join(format!("{id}/cgroup"))).ok()?;
    Some(Process {
        stopped: matches!(state, 'T' | 't'),
        locked_kib: kib("VmLck").unwrap_or(0),
        swapped_kib: kib("VmSwap").unwrap_or(0),
        cgroup: unified(&cgroup).to_owned(),
    })
}

/// What a process that runs a program is called; none: it has ended, or is the kernel's.
pub fn program(proc: &Path, id: u32) -> Option<String> {
    let directory = proc.join(id.to_string());
    fs::read_link(directory.join("exe")).ok()?;
    Some(fs::read_to_string(directory.join("comm")).ok()?.trim_end().to_owned())
}

/// Its threads; those that end meanwhile are left out.
pub fn threads(proc: &Path, process: u32) -> Vec<Thread> {
    let directory = proc.join(format!("{process}/task"));
    let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(|id: u32| thread(&directory.join(id.to_string()), id)).collect()
}

fn thread(directory: &Path, id: u32) -> Option<Thread> {
    let read = |name| fs::read_to_string(directory.join(name)).ok();
    let (stat, status, times) = (read("stat")?, read("status")?, read("schedstat")?);
    let groups = read("cgroup")?;
    // The second field is in parentheses and may hold anything; the third follows the last of them.
    let (name, rest) = stat.rsplit_once(')')?;
    let name = name.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let mut times = times.split_whitespace().map(|number| number.parse().ok().map(Duration::from_nanos));
    Some(Thread {
        id,
        name,
        nice: fields.get(16)?.parse().ok()?,
        policy: fields.get(38)?.parse().ok()?,
        affinity: cpu_list(field(&status, "Cpus_allowed_list")?)?.into_iter().collect(),
        cgroup: unified(&groups).to_owned(),
        ran: times.next()??,
        waited: times.next()??,
    })
}

/// The group in cgroup2 (cgroups(7), "/proc/[pid]/cgroup").
fn unified(groups: &str) -> &str {
    groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default()
}

/// The value in the line `key: value`, its white space being tabs.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.filter(|(name, _)| *name == key).map(|(_, value)| value.trim()).next()
}

/// Has the thread run on these CPUs only.
pub fn place(thread: u32, cpus: &[u32]) -> Result<(), RestoreError> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        let index = usize::try_from(*cpu).unwrap_or(usize::MAX);
        if index >= CpuSet::MAX_CPU {
            return Err(RestoreError::NoSuchCpu);
        }
        set.set(index);
    }
    Ok(sched_setaffinity(Some(pid(thread)?), &set)?)
}

/// Gives the thread the nice value that every thread begins with.
pub fn make_not_nice(thread: u32) -> Result<(), RestoreError> {
    Ok(setpriority_process(Some(pid(thread)?), 0)?)
}

/// Has the thread scheduled as every thread is at first. No safe interface of ours has the call, so a program does it.
pub fn make_ordinary(thread: u32) -> Result<(), RestoreError> {
    let program = CHRT.map(PathBuf::from).into_iter().find(|path| path.is_file());
    let program = program.ok_or(RestoreError::NoChrt)?;
    let arguments = ["--other", "--pid", "0", &thread.to_string()].map(str::to_owned);
    let output = Command::new(&program).args(arguments).stdin(Stdio::null()).env_clear().output();
    let output = output.map_err(|source| RestoreError::Run { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().chars().take(200).collect();
    Err(RestoreError::Failed { program, said })
}

/// Has a stopped process go on.
pub fn let_go_on(process: u32) -> Result<(), RestoreError> {
    Ok(kill_process(pid(process)?, Signal::CONT)?)
}

fn pid(id: u32) -> Result<Pid, RestoreError> {
    i32::try_from(id).ok().and_then(Pid::from_raw).ok_or(RestoreError::NoProcess(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_and_its_threads_can_be_read() {
        let id = std::process::id();
        let here = process(Path::new("/proc"), id).unwrap();
        assert!(!here.stopped && here.cgroup.starts_with('/'), "{here:?}");
        let threads = threads(Path::new("/proc"), id);
        let main = threads.iter().find(|thread| thread.id == id).unwrap();
        assert!(!main.affinity.is_empty());
        assert_eq!(main.policy, ORDINARY_POLICY);
        assert!(threads.iter().any(|thread| thread.ran > Duration::ZERO));
    }

    #[test]
    fn a_process_that_has_ended_is_none() {
        let mut child = Command::new("true").spawn().unwrap();
        let id = child.id();
        child.wait().unwrap();
        assert_eq!(process(Path::new("/proc"), id), None);
        assert_eq!(threads(Path::new("/proc"), id), []);
    }

    #[test]
    fn what_was_done_to_a_thread_is_seen_and_put_back() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let id = child.id();
        let thread = || threads(Path::new("/proc"), id).pop().unwrap();
        let before = thread();
        place(id, &before.affinity[..1]).unwrap();
        setpriority_process(Some(pid(id).unwrap()), 5).unwrap();
        kill_process(pid(id).unwrap(), Signal::STOP).unwrap();
        while !process(Path::new("/proc"), id).unwrap().stopped {
            std::thread::yield_now();
        }
        assert_eq!((thread().affinity, thread().nice), (before.affinity[..1].to_vec(), 5));
        let_go_on(id).unwrap();
        place(id, &before.affinity).unwrap();
        assert_eq!(thread().affinity, before.affinity);
        assert!(!process(Path::new("/proc"), id).unwrap().stopped);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
