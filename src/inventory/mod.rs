//! What a computer has, as its kernel tells it in /proc and /sys: read once, into one model, by whoever plans with it or
//! shows it.

mod files;
pub mod kernel;
mod processor;
pub mod rating;
mod sysfs;
#[cfg(test)]
mod tests;
pub mod topology;

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

pub use self::files::cpu_list;
use self::{files::Files, kernel::Kernel, topology::Topology};

/// Facts of the host that do not change while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    pub topology: Topology,
    pub kernel: Kernel,
    /// The model's name, and the level of x86-64 that it amounts to: software is built for these.
    pub cpu_model: String,
    /// Names the time since the host was started; another one says that every guest is gone.
    pub boot_id: String,
}

#[derive(Debug, Error)]
pub enum InventoryError {
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} does not say {what}")]
    Missing { path: PathBuf, what: &'static str },
    #[error("{path:?}: {text:?} is not a list of CPUs such as 0-3,5")]
    CpuList { path: PathBuf, text: String },
}

impl Inventory {
    /// Reads the host whose file systems are mounted under `root`.
    pub fn read(root: &Path) -> Result<Self, InventoryError> {
        let files = Files::under(root);
        Ok(Self {
            topology: sysfs::topology(&files)?,
            kernel: Kernel::read(&files),
            cpu_model: processor::model(&files.text("proc/cpuinfo")?),
            boot_id: files.text("proc/sys/kernel/random/boot_id")?.trim().to_owned(),
        })
    }
}
