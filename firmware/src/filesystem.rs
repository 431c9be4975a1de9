//! Files on a volume, whatever file system keeps them.

mod ext4;
mod fat;

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use thiserror::Error;

use crate::disk::{DiskError, Volume};

/// Most entries of a directory that are looked at.
const ENTRIES_LIMIT: usize = 4096;

#[derive(Debug, PartialEq, Eq, Error)]
pub enum FileError {
    #[error("it is not there")]
    NotFound,
    #[error("it is no regular file")]
    NotAFile,
    #[error("it is no directory")]
    NotADirectory,
    #[error("it is {bytes} bytes long, more than the {limit} that are read")]
    TooLarge { bytes: u64, limit: usize },
    #[error("it ends before byte {0}")]
    Ends(u64),
    #[error("{0}")]
    Disk(#[from] DiskError),
    #[error("its file system is damaged: {0}")]
    Damaged(String),
}

/// A file that can be read from anywhere, best from its start to its end.
pub trait File {
    fn bytes(&self) -> u64;
    /// Fills `into` from byte `start` on.
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), FileError>;
}

/// Paths are absolute, with `/` between names.
pub trait FileSystem {
    fn kind(&self) -> &'static str;
    /// As `blkid` prints it.
    fn uuid(&self) -> &str;
    fn label(&self) -> &str;
    fn open(&self, path: &str) -> Result<Box<dyn File>, FileError>;
    /// Names of what is in a directory, in no order.
    fn list(&self, path: &str) -> Result<Vec<String>, FileError>;
}

/// The file system on a volume; none where there is none that is known.
pub fn mount(volume: &Volume) -> Result<Option<Box<dyn FileSystem>>, FileError> {
    if ext4::is_there(volume)? {
        return ext4::mount(volume).map(Some);
    }
    fat::mount(volume)
}

/// All of a file that is expected to be small.
pub fn read_all(files: &dyn FileSystem, path: &str, limit: usize) -> Result<Vec<u8>, FileError> {
    let mut file = files.open(path)?;
    let bytes = file.bytes();
    let length = usize::try_from(bytes).ok().filter(|length| *length <= limit);
    let mut content = vec![0; length.ok_or(FileError::TooLarge { bytes, limit })?];
    file.read(0, &mut content)?;
    Ok(content)
}

/// As [`read_all`]; bytes that are no UTF-8 are replaced.
pub fn read_text(files: &dyn FileSystem, path: &str, limit: usize) -> Result<String, FileError> {
    read_all(files, path, limit).map(|bytes| String::from_utf8_lossy(&bytes).to_string())
}
