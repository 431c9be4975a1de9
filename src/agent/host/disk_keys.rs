//! Keys of partitions' disks. They are in memory alone, which is never swapped: on a file system of its own, where they
//! outlive the agent, but neither the host's power nor their lease. Whoever ends a lease destroys its disk by destroying the
//! key.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::statfs,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use sublet_vmm_protocol::{DiskKey, config::KEY_BYTES};
use thiserror::Error;

use crate::domain::id::PartitionId;

/// Where keys are unless the owner names another place.
pub const DEFAULT_PLACE: &str = "/run/sublet/keys";
/// What statfs(2) says of a ramfs, whose pages have nowhere else to go.
const RAMFS_MAGIC: u64 = 0x8584_58f6;

#[derive(Debug, Error)]
#[error("cannot {act} {path:?}, where keys of disks are kept")]
pub struct DiskKeyError {
    act: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(act: &'static str, path: &Path) -> impl Fn(E) -> DiskKeyError {
    move |error| DiskKeyError { act, path: path.to_owned(), source: error.into() }
}

#[derive(Debug, Clone)]
pub struct DiskKeys {
    place: PathBuf,
}

impl DiskKeys {
    pub fn at(place: &Path) -> Self {
        Self { place: place.to_owned() }
    }

    fn file(&self, partition: PartitionId) -> PathBuf {
        self.place.join(partition.to_string())
    }

    /// The key of the partition's disk; none: what stands on the disk, if anything, is lost.
    pub fn find(&self, partition: PartitionId) -> Result<Option<DiskKey>, DiskKeyError> {
        let path = self.file(partition);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // Of another length: whoever wrote it did not finish.
            read => Ok(read.map_err(failed("read", &path))?.try_into().ok().map(DiskKey::new)),
        }
    }

    /// Makes a key for a disk on which nothing stands.
    pub fn make(&self, partition: PartitionId) -> Result<DiskKey, DiskKeyError> {
        self.mount()?;
        let path = self.file(partition);
        let key: [u8; KEY_BYTES] = rand::random();
        let mut options = fs::File::options();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| io::Write::write_all(&mut file, &key)).map_err(failed("write", &path))?;
        Ok(DiskKey::new(key))
    }

    /// From now on nobody can read what stands on the partition's disk.
    pub fn destroy(&self, partition: PartitionId) -> Result<(), DiskKeyError> {
        let path = self.file(partition);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("delete", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Gives the place back, with whatever is left in it.
    pub fn close(&self) -> Result<(), DiskKeyError> {
        if !self.is_in_memory() {
            return Ok(());
        }
        unmount(&self.place, UnmountFlags::empty()).map_err(failed("unmount", &self.place))?;
        fs::remove_dir(&self.place).map_err(failed("delete", &self.place))
    }

    fn mount(&self) -> Result<(), DiskKeyError> {
        if self.is_in_memory() {
            return Ok(());
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.place).map_err(failed("make", &self.place))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("sublet-keys", &self.place, "ramfs", flags, c"mode=0700").map_err(failed("mount", &self.place))
    }

    fn is_in_memory(&self) -> bool {
        statfs(&self.place).is_ok_and(|about| about.f_type as u64 == RAMFS_MAGIC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: PartitionId = PartitionId(uuid::Uuid::from_u128(7));

    /// A place in memory; none where this process may mount nothing.
    fn place() -> Option<(tempfile::TempDir, DiskKeys)> {
        let directory = tempfile::tempdir().unwrap();
        let keys = DiskKeys::at(&directory.path().join("keys"));
        match keys.mount() {
            Ok(()) => Some((directory, keys)),
            Err(error) => {
                assert_eq!(error.source.kind(), io::ErrorKind::PermissionDenied);
                None
            }
        }
    }

    #[test]
    fn a_key_is_found_until_it_is_destroyed_and_the_next_is_another() {
        let Some((_directory, keys)) = place() else { return };
        assert_eq!(keys.find(PARTITION).unwrap(), None);
        let first = keys.make(PARTITION).unwrap();
        assert_eq!(keys.find(PARTITION).unwrap(), Some(first.clone()));
        keys.destroy(PARTITION).unwrap();
        keys.destroy(PARTITION).unwrap();
        assert_eq!(keys.find(PARTITION).unwrap(), None);
        assert_ne!(keys.make(PARTITION).unwrap(), first);
        keys.close().unwrap();
        assert!(!keys.place.exists());
    }

    #[test]
    fn a_key_that_was_not_written_whole_is_none() {
        let Some((_directory, keys)) = place() else { return };
        fs::write(keys.file(PARTITION), [7; 63]).unwrap();
        assert_eq!(keys.find(PARTITION).unwrap(), None);
        keys.close().unwrap();
    }
}
