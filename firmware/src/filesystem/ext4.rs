//! ext4, and ext2 and ext3 as far as they are the same. A journal that was not written back is taken into account:
//! what a clean unmount would have put in its place is read from the journal.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::error::Error;

use ext4_view::{Ext4, Ext4Error, Ext4Read};

use super::{ENTRIES_LIMIT, File, FileError, FileSystem};
use crate::disk::Volume;

const SUPERBLOCK: u64 = 1024;
/// Of the superblock: its length as far as it is looked at here, and what is where in it.
const SUPERBLOCK_BYTES: usize = 0x160;
const BLOCKS_LOW: usize = 0x4;
const BLOCK_SIZE: usize = 0x18;
const MAGIC: usize = 0x38;
const BLOCKS_HIGH: usize = 0x150;
/// A block is 1024 bytes, shifted by no more than this.
const BLOCK_SHIFT_LIMIT: u32 = 6;
/// Largest directory that is searched: one with more is damaged, or would take too long.
const DIRECTORY_LIMIT: u64 = 16 << 20;
/// Longest target of a symbolic link, and most of them on the way to a file.
const LINK_LIMIT: u64 = 4096;
const LINKS_LIMIT: u32 = 32;

pub(super) fn is_there(volume: &Volume) -> Result<bool, FileError> {
    if volume.bytes() < SUPERBLOCK + SUPERBLOCK_BYTES as u64 {
        return Ok(false);
    }
    let mut magic = [0; 2];
    volume.read(SUPERBLOCK + MAGIC as u64, &mut magic)?;
    Ok(magic == [0x53, 0xef])
}

pub(super) fn mount(volume: &Volume) -> Result<Box<dyn FileSystem>, FileError> {
    check_size(volume)?;
    let view = Ext4::load(Box::new(Reader(volume.clone()))).map_err(file_error)?;
    let (uuid, label) = (view.uuid().to_string(), view.label().display().to_string());
    Ok(Box::new(Mounted { view, uuid, label }))
}

/// A file system that claims more blocks than its volume has is not loaded: tables are made by that number.
fn check_size(volume: &Volume) -> Result<(), FileError> {
    let mut superblock = [0; SUPERBLOCK_BYTES];
    volume.read(SUPERBLOCK, &mut superblock)?;
    let number = |at: usize| superblock[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let blocks = u64::from(number(BLOCKS_HIGH)) << 32 | u64::from(number(BLOCKS_LOW));
    let shift = number(BLOCK_SIZE).min(BLOCK_SHIFT_LIMIT);
    let room = volume.bytes() / (1024 << shift);
    match blocks <= room {
        true => Ok(()),
        false => Err(FileError::Damaged(format!("it claims {blocks} blocks of {room} that there are"))),
    }
}

struct Reader(Volume);

impl Ext4Read for Reader {
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.read(start, into).map_err(|error| Box::new(error).into())
    }
}

struct Mounted {
    view: Ext4,
    uuid: String,
    label: String,
}

impl Mounted {
    /// The path without symbolic links. It is followed name by name, so that nothing of an absurd size is looked into.
    fn resolve(&self, path: &str) -> Result<String, FileError> {
        let (mut left, mut links, mut resolved) = (names(path), 0, String::new());
        while let Some(name) = left.pop() {
            if name == ".." {
                resolved.truncate(resolved.rfind('/').unwrap_or(0));
                continue;
            }
            self.check_directory(if resolved.is_empty() { "/" } else { &resolved })?;
            let next = format!("{resolved}/{name}");
            match self.link(&next)? {
                None => resolved = next,
                Some(_) if links == LINKS_LIMIT => {
                    return Err(FileError::Damaged("too many levels of symbolic links".to_string()));
                }
                Some(target) => {
                    links += 1;
                    left.extend(names(&target));
                    if target.starts_with('/') {
                        resolved.clear();
                    }
                }
            }
        }
        Ok(if resolved.is_empty() { "/".to_string() } else { resolved })
    }

    /// Where a symbolic link leads; none where it is something else.
    fn link(&self, path: &str) -> Result<Option<String>, FileError> {
        let metadata = self.view.symlink_metadata(path).map_err(file_error)?;
        if !metadata.is_symlink() {
            return Ok(None);
        }
        if metadata.len() > LINK_LIMIT {
            return Err(FileError::Damaged(format!("link {path} is {} bytes long", metadata.len())));
        }
        let target = self.view.read_link(path).map_err(file_error)?;
        target.to_str().map(|target| Some(target.to_string())).map_err(|_| FileError::NotFound)
    }

    fn check_directory(&self, path: &str) -> Result<(), FileError> {
        let metadata = self.view.metadata(path).map_err(file_error)?;
        match metadata.is_dir() && metadata.len() > DIRECTORY_LIMIT {
            true => Err(FileError::Damaged(format!("directory {path} is {} bytes long", metadata.len()))),
            false => Ok(()),
        }
    }
}

impl FileSystem for Mounted {
    fn kind(&self) -> &'static str {
        "ext4"
    }

    fn uuid(&self) -> &str {
        &self.uuid
    }

    fn label(&self) -> &str {
        &self.label
    }

    fn open(&self, path: &str) -> Result<Box<dyn File>, FileError> {
        let path = self.resolve(path)?;
        Ok(Box::new(Opened(self.view.open(path.as_str()).map_err(file_error)?)))
    }

    fn list(&self, path: &str) -> Result<Vec<String>, FileError> {
        let path = self.resolve(path)?;
        self.check_directory(&path)?;
        let entries = self.view.read_dir(path.as_str()).map_err(file_error)?;
        let name = |entry: Result<ext4_view::DirEntry, Ext4Error>| {
            entry.map(|entry| entry.file_name().display().to_string()).map_err(file_error)
        };
        entries.take(ENTRIES_LIMIT).map(name).collect()
    }
}

struct Opened(ext4_view::File);

impl File for Opened {
    fn bytes(&self) -> u64 {
        self.0.metadata().len()
    }

    fn read(&mut self, start: u64, mut into: &mut [u8]) -> Result<(), FileError> {
        if self.bytes() < start.saturating_add(into.len() as u64) {
            return Err(FileError::Ends(self.bytes()));
        }
        if self.0.position() != start {
            self.0.seek_to(start).map_err(file_error)?;
        }
        while !into.is_empty() {
            match self.0.read_bytes(into).map_err(file_error)? {
                0 => return Err(FileError::Ends(self.0.position())),
                bytes => into = &mut into[bytes..],
            }
        }
        Ok(())
    }
}

/// The names of a path, the first at the end.
fn names(path: &str) -> Vec<String> {
    let names = path.split('/').filter(|name| !matches!(*name, "" | "."));
    names.rev().map(ToString::to_string).collect()
}

fn file_error(error: Ext4Error) -> FileError {
    match error {
        Ext4Error::NotFound => FileError::NotFound,
        Ext4Error::IsADirectory | Ext4Error::IsASpecialFile => FileError::NotAFile,
        Ext4Error::NotADirectory => FileError::NotADirectory,
        other => FileError::Damaged(other.to_string()),
    }
}
