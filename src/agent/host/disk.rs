//! A partition's own disk: a file, allocated in full. What stands in it is its VMM's to read, with the disk's key.

mod settings;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate, major, minor, statvfs};
use sublet_vmm_protocol::config::layered_file_bytes;
use thiserror::Error;

pub use self::settings::{BadDisk, DiskSettings};

/// Why a disk could not be made.
#[derive(Debug, Error)]
#[error("cannot {act} {path:?}")]
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

/// What the file system of `directory` has left, in MiB.
pub fn available_mib(directory: &Path) -> Result<u64, DiskError> {
    let space = statvfs(directory).map_err(failed("find room for a disk in", directory))?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize) >> 20)
}

/// The host's disk that a file of `directory` lies on, as `major:minor`, of which its partitions are parts; none where the
/// file system is not on one.
pub fn device_of(root: &Path, directory: &Path) -> Option<String> {
    let device = directory.metadata().ok()?.dev();
    let known = root.join(format!("sys/dev/block/{}:{}", major(device), minor(device)));
    let whole = if known.join("partition").exists() { known.join("..") } else { known };
    fs::read_to_string(whole.join("dev")).ok().map(|text| text.trim().to_owned())
}

/// How large the file of a disk is that a guest sees as this large: it has a map as well.
pub fn file_bytes(mib: u64) -> u64 {
    layered_file_bytes(mib << 20)
}

/// Makes the disk `mib` large, every block set aside; none at 0. What stood in it stays.
pub fn shape(path: &Path, mib: u64) -> Result<(), DiskError> {
    if mib == 0 {
        return remove(path);
    }
    let bytes = file_bytes(mib);
    let file = open(path)?;
    // Truncating to its own size gives back what was set aside beyond the end.
    file.set_len(bytes.min(file.metadata().map_err(failed("read the disk", path))?.len()))
        .map_err(failed("shrink the disk", path))?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes).map_err(failed("allocate the disk", path))?;
    file.sync_all().map_err(failed("store the disk", path))
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
    let blocks = about.blocks();
    Some(DiskExtent { bytes: about.len(), allocated_bytes: blocks.saturating_mul(512) })
}

/// Sets blocks aside for a size of `mib`, whatever size the disk has now.
pub fn reserve(path: &Path, mib: u64) -> Result<(), DiskError> {
    if mib == 0 {
        return Ok(());
    }
    let file = open(path)?;
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, file_bytes(mib)).map_err(failed("allocate the disk", path))
}

/// Makes the disk anew: what stood in it is gone, and it reads as zeroes (law 8).
pub fn wipe(path: &Path, mib: u64) -> Result<(), DiskError> {
    remove(path)?;
    shape(path, mib)
}

pub fn remove(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("delete the disk", path)(error)),
        _ => Ok(()),
    }
}

fn open(path: &Path) -> Result<File, DiskError> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(failed("open the disk", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_path() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        (directory, path)
    }

    /// How large the file is, and how much of it is allocated.
    fn sizes(path: &Path) -> (u64, u64) {
        let DiskExtent { bytes, allocated_bytes } = extent(path).unwrap();
        (bytes, allocated_bytes)
    }

    fn full(mib: u64) -> (u64, u64) {
        (file_bytes(mib), file_bytes(mib))
    }

    #[test]
    fn a_disk_is_allocated_in_full() {
        let (_directory, path) = a_path();
        shape(&path, 3).unwrap();
        assert_eq!(sizes(&path), full(3));
        assert_eq!(file_bytes(3), (3 << 20) + 4096, "its map takes two bits for 64 KiB");
    }

    #[test]
    fn a_disk_that_grows_or_shrinks_keeps_what_it_can() {
        let (_directory, path) = a_path();
        shape(&path, 1).unwrap();
        fs::write(&path, b"owner").unwrap();
        shape(&path, 2).unwrap();
        assert_eq!(sizes(&path), full(2));
        shape(&path, 1).unwrap();
        assert_eq!(sizes(&path), full(1));
        assert!(fs::read(&path).unwrap().starts_with(b"owner"));
    }

    #[test]
    fn a_reservation_can_be_given_back() {
        let (_directory, path) = a_path();
        shape(&path, 1).unwrap();
        reserve(&path, 4).unwrap();
        assert_eq!(sizes(&path), (file_bytes(1), file_bytes(4)));
        shape(&path, 1).unwrap();
        assert_eq!(sizes(&path), full(1));
    }

    #[test]
    fn a_wiped_disk_reads_as_zeroes() {
        let (_directory, path) = a_path();
        fs::write(&path, vec![7; 1 << 20]).unwrap();
        wipe(&path, 1).unwrap();
        assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_disk_is_bounded_at_the_device_that_its_part_belongs_to() {
        let root = tempfile::tempdir().unwrap();
        let here = root.path().metadata().unwrap().dev();
        let numbers = format!("{}:{}", major(here), minor(here));
        assert_eq!(device_of(root.path(), root.path()), None);
        let part = root.path().join("sys/dev/block").join(&numbers);
        fs::create_dir_all(&part).unwrap();
        fs::write(part.join("dev"), format!("{numbers}\n")).unwrap();
        assert_eq!(device_of(root.path(), root.path()), Some(numbers));
        fs::write(part.join("partition"), "1\n").unwrap();
        fs::write(part.join("../dev"), "8:0\n").unwrap();
        assert_eq!(device_of(root.path(), root.path()), Some("8:0".to_owned()));
    }

    #[test]
    fn a_partition_without_a_disk_has_no_file() {
        let (_directory, path) = a_path();
        shape(&path, 1).unwrap();
        shape(&path, 0).unwrap();
        assert!(!path.exists());
    }
}
