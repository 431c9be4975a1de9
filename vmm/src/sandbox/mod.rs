//! The jail: what is left of the host to the process that a guest may one day take over.
//!
//! ```text
//! launcher  no descriptor of the caller's, a process namespace ── fork ──┐
//! machine   opens what it needs of the host ([`crate::resources`])       │
//!             → namespaces → empty root → limits → user, capabilities ◀──┘
//!             → builds the machine; each thread gets its list as it starts
//!             → the list of the event loop; only now is anybody listened to
//! ```
//!
//! What cannot be done leaves no machine. From inside nothing can be opened, so all of this is one way.

pub mod lists;
pub mod seccomp;

mod ioctl;
mod limits;
mod namespaces;
mod privileges;
mod root;

use thiserror::Error;

pub use self::{
    limits::{LimitError, Limits},
    lists::{DiskFilters, Lists},
    namespaces::{NamespaceError, enter_process_namespace},
    privileges::PrivilegeError,
    root::RootError,
};

#[derive(Debug, Error)]
pub enum SandboxError {
    #[error(transparent)]
    Namespaces(NamespaceError),
    #[error(transparent)]
    Root(RootError),
    #[error(transparent)]
    Limits(LimitError),
    #[error(transparent)]
    Privileges(PrivilegeError),
}

/// Shuts this process in, for good. It must have one thread, for most of this is a thread's own; the threads that it
/// starts later are born inside.
pub fn enclose(user: u32, limits: &Limits) -> Result<(), SandboxError> {
    namespaces::enter().map_err(SandboxError::Namespaces)?;
    root::empty().map_err(SandboxError::Root)?;
    limits.set().map_err(SandboxError::Limits)?;
    privileges::give_up(user).map_err(SandboxError::Privileges)
}
