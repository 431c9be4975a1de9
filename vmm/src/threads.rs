//! Where threads run, what they may do, and what happens when one breaks.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::sync_channel,
    thread::{Builder, JoinHandle},
};

use rustix::thread::{CpuSet, sched_setaffinity};
use thiserror::Error;

use crate::sandbox::seccomp::{Filter, FilterError};

#[derive(Debug, Error)]
pub enum PinError {
    #[error("host CPU {0} is beyond what the kernel's interface can name ({limit})", limit = CpuSet::MAX_CPU)]
    NoSuchCpu(u32),
    #[error("cannot run on host CPUs {cpus:?}; they must be online and in this process's cpuset")]
    Refused { cpus: Vec<u32>, source: rustix::io::Errno },
}

/// Lets the calling thread, and the threads that it starts from now on, run on these host CPUs only.
pub fn pin_current(cpus: &[u32]) -> Result<(), PinError> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        let index = *cpu as usize;
        if index >= CpuSet::MAX_CPU {
            return Err(PinError::NoSuchCpu(*cpu));
        }
        set.set(index);
    }
    sched_setaffinity(None, &set).map_err(|source| PinError::Refused { cpus: cpus.to_owned(), source })
}

#[derive(Debug, Error)]
pub enum SpawnError {
    #[error("cannot start a thread")]
    Start(#[source] io::Error),
    #[error(transparent)]
    Pin(PinError),
    #[error("cannot make what the thread works with")]
    Make(#[source] io::Error),
    #[error(transparent)]
    Filter(FilterError),
    #[error("the thread ended before it was ready")]
    Lost,
}

/// A thread that is to be started.
#[derive(Debug)]
pub struct Plan {
    pub name: String,
    /// Host CPUs that it keeps to; none: those of the thread that starts it.
    pub cpus: Option<Vec<u32>>,
}

/// What a thread has made for itself, which its list of system calls would not let it make.
pub struct Made<S, T> {
    /// What the thread works with.
    pub own: S,
    /// The list that it keeps to from now on.
    pub filter: Filter,
    /// What the starting side is told of it.
    pub told: T,
}

impl Plan {
    /// Starts the thread; when this returns it is where it belongs and keeps to its list of system calls. If it
    /// panics, which would be our fault, `broken` runs on it instead of a silent end.
    pub fn spawn(
        self,
        filter: Filter,
        run: impl FnOnce() + Send + 'static,
        broken: impl FnOnce() + Send + 'static,
    ) -> Result<JoinHandle<()>, SpawnError> {
        let make = || Ok(Made { own: (), filter, told: () });
        self.spawn_after(make, |()| run(), broken).map(|(thread, ())| thread)
    }

    /// The same for a thread that first has to make something itself, where it belongs: `make` is not bound by the list
    /// yet, `run` is.
    pub fn spawn_after<S, T: Send + 'static>(
        self,
        make: impl FnOnce() -> io::Result<Made<S, T>> + Send + 'static,
        run: impl FnOnce(S) + Send + 'static,
        broken: impl FnOnce() + Send + 'static,
    ) -> Result<(JoinHandle<()>, T), SpawnError> {
        let Self { name, cpus } = self;
        let (tell, hear) = sync_channel(1);
        let body = move || {
            // The starting side waits for exactly this; it is gone only if the process is ending.
            let own = match settle(cpus.as_deref(), make) {
                Ok((own, told)) => {
                    let _ = tell.send(Ok(told));
                    own
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            if catch_unwind(AssertUnwindSafe(|| run(own))).is_err() {
                broken();
            }
        };
        let thread = Builder::new().name(name).spawn(body).map_err(SpawnError::Start)?;
        hear.recv().map_err(|_| SpawnError::Lost)?.map(|told| (thread, told))
    }
}

fn settle<S, T>(
    cpus: Option<&[u32]>,
    make: impl FnOnce() -> io::Result<Made<S, T>>,
) -> Result<(S, T), SpawnError> {
    cpus.map_or(Ok(()), pin_current).map_err(SpawnError::Pin)?;
    let Made { own, filter, told } = make().map_err(SpawnError::Make)?;
    filter.install().map_err(SpawnError::Filter)?;
    Ok((own, told))
}

/// Has all threads allocate from one heap. With more heaps than some, the C library would ask how many CPUs there are
/// by opening a file, which in the jail is the end; and one heap takes less memory.
pub fn share_one_heap() {
    // SAFETY: sets a number of the allocator's, under its own lock; 1 is one that it takes.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

#[cfg(test)]
mod tests {
    use std::{panic::resume_unwind, sync::mpsc::channel};

    use super::*;
    use crate::sandbox::Lists;

    #[test]
    fn a_thread_that_cannot_be_where_it_belongs_is_not_started() {
        let plan = Plan { name: "t".into(), cpus: Some(vec![u32::MAX]) };
        let started = plan.spawn(Lists::for_tests().vcpu, || panic!("it runs"), || {});
        assert!(matches!(started, Err(SpawnError::Pin(PinError::NoSuchCpu(u32::MAX)))));
    }

    #[test]
    fn a_panic_is_told_instead_of_lost() {
        let (told, hears) = channel();
        let (plan, filter) = (Plan { name: "t".into(), cpus: None }, Lists::for_tests().vcpu);
        let run = || resume_unwind(Box::new("a bug"));
        let thread = plan.spawn(filter, run, move || told.send(()).unwrap()).unwrap();
        thread.join().unwrap();
        assert!(hears.try_recv().is_ok());
    }

    /// The calling thread's list, as its number in `/proc`.
    fn seccomp() -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        status.lines().find_map(|line| line.strip_prefix("Seccomp:")).unwrap().trim().to_owned()
    }

    #[test]
    fn what_a_thread_makes_it_makes_before_it_keeps_to_its_list_and_tells() {
        let (told, hears) = channel();
        let filter = Filter::with_other_calls_allowed();
        let make = || Ok(Made { own: seccomp(), filter, told: "made" });
        let run = move |before: String| told.send([before, seccomp()]).unwrap();
        let plan = Plan { name: "t".into(), cpus: None };
        let (thread, what) = plan.spawn_after(make, run, || {}).unwrap();
        thread.join().unwrap();
        assert_eq!((what, hears.recv().unwrap()), ("made", ["0".to_owned(), "2".to_owned()]));
    }

    #[test]
    fn a_thread_that_lacks_what_it_works_with_is_not_started() {
        let plan = Plan { name: "t".into(), cpus: None };
        let make = || Err::<Made<(), ()>, _>(io::ErrorKind::OutOfMemory.into());
        let started = plan.spawn_after(make, |()| panic!("it runs"), || {});
        assert!(
            matches!(started, Err(SpawnError::Make(error)) if error.kind() == io::ErrorKind::OutOfMemory)
        );
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_named() {
        assert!(matches!(pin_current(&[u32::MAX]), Err(PinError::NoSuchCpu(u32::MAX))));
        let last = CpuSet::MAX_CPU as u32 - 1;
        assert!(matches!(pin_current(&[last]), Err(PinError::Refused { cpus, .. }) if cpus == [last]));
    }
}
