//! Files in memory, with a path.

use std::{fs::File, os::fd::AsRawFd, path::PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

/// Gone when it is dropped.
pub struct MemoryFile(pub File);

impl MemoryFile {
    /// So many bytes, all zero.
    pub fn new(bytes: u64) -> Self {
        let file: File = memfd_create("fuzz", MemfdFlags::CLOEXEC).unwrap().into();
        file.set_len(bytes).unwrap();
        Self(file)
    }

    /// By which this process opens it once more.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}
