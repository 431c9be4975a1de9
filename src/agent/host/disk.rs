//! A partition's own disk: a raw file, allocated in full.

mod settings;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate};
use thiserror::Error;

pub use self::settings::{BadDisk, DiskSettings};

/// Why a disk could not be made.
#[derive(Debug, Error)]
#[error("cannot {act} the disk {path:?}")]
pub struct DiskError {
    act: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl DiskError {
    /// Whether the file system has no room for it.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

fn failed<E: Into<io::Error>>(act: &'static str, path: &Path) -> impl Fn(E) -> DiskError {
    move |error| DiskError { act, path: path.to_owned(), source: error.into() }
}

/// Makes the disk `mib` large, every block set aside; none at 0. What stood in it stays.
pub fn shape(path: &Path, mib: u64) -> Result<(), DiskError> {
    if mib == 0 {
        return remove(path);
    }
    let bytes = mib << 20;
    let file = open(path)?;
    // Truncating to its own size gives back what was set aside beyond the end.
    file.set_len(bytes.min(file.metadata().map_err(failed("read", path))?.len()))
        .map_err(failed("shrink", path))?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes).map_err(failed("allocate", path))?;
    file.sync_all().map_err(failed("store", path))
}

/// How large a disk's file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskExtent {
    pub bytes: u64,
    /// What of it the file system has allocated.
    pub allocated_bytes: u64,
}

/// How large the disk is now; none: it is not there.
pub fn extent(path: &Path) -> Option<DiskExtent> {
    let about = fs::metadata(path).ok()?;
    let blocks = std::os::unix::fs::MetadataExt::blocks(&about);
    Some(DiskExtent { bytes: about.len(), allocated_bytes: blocks.saturating_mul(512) })
}

/// Sets blocks aside for a size of `mib`, whatever size the disk has now.
pub fn reserve(path: &Path, mib: u64) -> Result<(), DiskError> {
    if mib == 0 {
        return Ok(());
    }
    let file = open(path)?;
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, mib << 20).map_err(failed("allocate", path))
}

/// Makes the disk anew: what stood in it is gone, and it reads as zeroes (law 8).
pub fn wipe(path: &Path, mib: u64) -> Result<(), DiskError> {
    remove(path)?;
    shape(path, mib)
}

pub fn remove(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("delete", path)(error)),
        _ => Ok(()),
    }
}

fn open(path: &Path) -> Result<File, DiskError> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(failed("open", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn a_path() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        (directory, path)
    }

    fn allocated_mib(path: &Path) -> u64 {
        fs::metadata(path).unwrap().blocks() >> 11
    }

    #[test]
    fn a_disk_is_allocated_in_full() {
        let (_directory, path) = a_path();
        shape(&path, 3).unwrap();
        assert_eq!((fs::metadata(&path).unwrap().len(), allocated_mib(&path)), (3 << 20, 3));
    }

    #[test]
    fn a_disk_that_grows_or_shrinks_keeps_what_it_can() {
        let (_directory, path) = a_path();
        shape(&path, 1).unwrap();
        fs::write(&path, b"owner").unwrap();
        shape(&path, 2).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 << 20);
        shape(&path, 1).unwrap();
        assert_eq!(allocated_mib(&path), 1);
        assert!(fs::read(&path).unwrap().starts_with(b"owner"));
    }

    #[test]
    fn a_reservation_can_be_given_back() {
        let (_directory, path) = a_path();
        shape(&path, 1).unwrap();
        reserve(&path, 4).unwrap();
        assert_eq!((fs::metadata(&path).unwrap().len(), allocated_mib(&path)), (1 << 20, 4));
        shape(&path, 1).unwrap();
        assert_eq!(allocated_mib(&path), 1);
    }

    #[test]
    fn a_wiped_disk_reads_as_zeroes() {
        let (_directory, path) = a_path();
        fs::write(&path, vec![7; 1 << 20]).unwrap();
        wipe(&path, 1).unwrap();
        assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_partition_without_a_disk_has_no_file() {
        let (_directory, path) = a_path();
        shape(&path, 1).unwrap();
        shape(&path, 0).unwrap();
        assert!(!path.exists());
    }
}
