//! Namespaces: the host's mounts, network, users' messages, names, control groups and processes are not seen.

use rustix::{
    io::Errno,
    thread::{UnshareFlags, unshare_unsafe},
};
use thiserror::Error;

#[derive(Debug, Error)]
#[error("cannot make {what} of its own; the VMM must be started as root, by a kernel that has namespaces")]
pub struct NamespaceError {
    what: &'static str,
    source: Errno,
}

/// The next process that this one starts is the first of a process namespace: it sees no other process, and whatever
/// it might start ends with it.
pub fn enter_process_namespace() -> Result<(), NamespaceError> {
    unshare(UnshareFlags::NEWPID, "a process namespace")
}

/// All others. The network has no interface that is up, not even a loopback.
pub(super) fn enter() -> Result<(), NamespaceError> {
    unshare(UnshareFlags::NEWNS, "a mount namespace")?;
    unshare(UnshareFlags::NEWNET, "a network namespace")?;
    unshare(UnshareFlags::NEWIPC, "an IPC namespace")?;
    unshare(UnshareFlags::NEWUTS, "a host name namespace")?;
    unshare(UnshareFlags::NEWCGROUP, "a control group namespace")
}

fn unshare(namespace: UnshareFlags, what: &'static str) -> Result<(), NamespaceError> {
    // SAFETY: no caller names the flag that takes descriptors away from other threads (CLONE_FILES).
    unsafe { unshare_unsafe(namespace) }.map_err(|source| NamespaceError { what, source })
}
