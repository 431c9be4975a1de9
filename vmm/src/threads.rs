//! Where threads run and what happens when one breaks.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    thread::{Builder, JoinHandle},
};

use rustix::thread::{CpuSet, sched_setaffinity};
use thiserror::Error;

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

/// Starts a thread; if it panics, which would be our fault, `broken` runs on it instead of a silent end.
pub fn spawn(
    name: String,
    run: impl FnOnce() + Send + 'static,
    broken: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name).spawn(move || {
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            broken();
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_panic_is_told_instead_of_lost() {
        let (told, hears) = channel();
        let thread = spawn("t".into(), || panic!("a bug"), move || told.send(()).unwrap()).unwrap();
        thread.join().unwrap();
        assert!(hears.try_recv().is_ok());
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_named() {
        assert!(matches!(pin_current(&[u32::MAX]), Err(PinError::NoSuchCpu(u32::MAX))));
        let last = CpuSet::MAX_CPU as u32 - 1;
        assert!(matches!(pin_current(&[last]), Err(PinError::Refused { cpus, .. }) if cpus == [last]));
    }
}
