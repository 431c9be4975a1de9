//! Disk images for lab hosts.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

const MIB: u64 = 1024 * 1024;
/// ext4's, in bytes.
const BLOCK: u64 = 4096;

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

/// An ext4 disk that holds these files and directories, to be mounted read-only. Takes the place of an older
/// one at once; hosts that run keep the one they started with.
pub(crate) fn make_from(content: &[PathBuf], file: &Path) -> Result<(), DiskError> {
    let stage = file.with_extension("content");
    let cannot_stage = |error| DiskError::Write(stage.clone(), error);
    match fs::remove_dir_all(&stage) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot_stage(error)),
        _ => fs::create_dir(&stage).map_err(cannot_stage)?,
    }
    let mut bytes = 0;
    for path in content {
        let to = stage.join(path.file_name().unwrap_or_default());
        bytes += copy_all(path, &to).map_err(|error| DiskError::Read(path.clone(), error))?;
    }
    let mib = bytes.div_ceil(MIB);
    make(file, mib + mib / 16 + 4, &["-O", "^has_journal", "-m", "0"], Some(&stage))?;
    fs::remove_dir_all(&stage).map_err(cannot_stage)
}

/// Copies a file, or a directory with all that is below it; how many bytes that takes, at most, on a disk.
fn copy_all(from: &Path, to: &Path) -> io::Result<u64> {
    if !from.is_dir() {
        return Ok(fs::copy(from, to)? + BLOCK);
    }
    fs::create_dir(to)?;
    let mut bytes = BLOCK;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        bytes += copy_all(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(bytes)
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
