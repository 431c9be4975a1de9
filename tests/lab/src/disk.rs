//! Disk images for lab hosts.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

const MIB: u64 = 1024 * 1024;

#[derive(Debug, Error)]
pub enum DiskError {
    #[error("cannot write the disk image {0}")]
    Write(PathBuf, #[source] io::Error),
    #[error("cannot read {0}, which is to be on a disk image")]
    Read(PathBuf, #[source] io::Error),
    #[error("cannot run mke2fs")]
    Run(#[source] io::Error),
    #[error("mke2fs cannot make {0}: {1}")]
    Refused(PathBuf, String),
}

/// A sparse, empty ext4 disk.
pub(crate) fn make_empty(file: &Path, size_mib: u64) -> Result<(), DiskError> {
    make(file, size_mib, &["-E", "lazy_itable_init=1,lazy_journal_init=1", "-m", "0"], None)
}

/// An ext4 disk that holds what `directory` holds, to be mounted read-only. Takes the place of an older one at
/// once; hosts that run keep the one they started with.
pub(crate) fn make_from(directory: &Path, file: &Path) -> Result<(), DiskError> {
    let content_mib =
        size_of(directory).map_err(|error| DiskError::Read(directory.into(), error))?.div_ceil(MIB);
    make(file, content_mib + content_mib / 16 + 4, &["-O", "^has_journal", "-m", "0"], Some(directory))
}

fn make(file: &Path, size_mib: u64, options: &[&str], content: Option<&Path>) -> Result<(), DiskError> {
    let new = file.with_extension("new");
    let cannot_write = |error| DiskError::Write(file.into(), error);
    File::create(&new).and_then(|file| file.set_len(size_mib * MIB)).map_err(cannot_write)?;
    let mut mke2fs = Command::new("/sbin/mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4"]).args(options);
    if let Some(directory) = content {
        mke2fs.arg("-d").arg(directory);
    }
    let output = mke2fs.arg(&new).output().map_err(DiskError::Run)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(DiskError::Refused(file.into(), said));
    }
    fs::rename(&new, file).map_err(cannot_write)
}

/// Bytes of all files below a directory, links followed as mke2fs does not: an upper bound.
fn size_of(directory: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() { size_of(&entry.path())? } else { metadata.len() + 4096 };
    }
    Ok(total)
}
