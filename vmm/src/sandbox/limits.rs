//! Resource limits: bounds for what the lists of system calls leave open.

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, setrlimit},
};
use thiserror::Error;

/// Open files: 8 disks of 32 queues with four events each, 32 vCPUs, 64 connections and what they send come to fewer
/// than 1400.
const FILES: u64 = 2048;
/// Threads of the kernel's that count as the user's, beside those for disks: vhost's two, since Linux 6.4, and one of
/// KVM's that splits pages (`kvm-nx-lpage-recovery`), since 6.12.
const KERNEL_THREADS: u64 = 4;

#[derive(Debug, Error)]
#[error("cannot set the limit {resource:?} to {value}")]
pub struct LimitError {
    resource: Resource,
    value: u64,
    source: Errno,
}

/// What a machine needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Threads that the VMM starts, and those that the kernel starts for its disks.
    pub threads: u64,
    /// Length of the largest file that it writes, in bytes. No file can be made to grow beyond it.
    pub largest_file_bytes: u64,
}

impl Limits {
    pub(super) fn set(&self) -> Result<(), LimitError> {
        let all = [
            (Resource::Nofile, FILES),
            (Resource::Nproc, self.threads + KERNEL_THREADS),
            (Resource::Fsize, self.largest_file_bytes),
            // A core file would hold the guest's memory.
            (Resource::Core, 0),
            // The guest's memory is locked already.
            (Resource::Memlock, 0),
            (Resource::Msgqueue, 0),
            (Resource::Nice, 0),
            (Resource::Rtprio, 0),
        ];
        all.into_iter().try_for_each(|(resource, value)| {
            let both = Rlimit { current: Some(value), maximum: Some(value) };
            setrlimit(resource, both).map_err(|source| LimitError { resource, value, source })
        })
    }
}
