//! A raw file or block device as a disk.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
};

use rustix::fs::{FlockOperation, flock};
use sublet_vmm_protocol::DiskConfig;
use thiserror::Error;
use vm_memory::{GuestMemory as _, Permissions, VolatileSlice};

use super::{SECTOR_SIZE, request::Segment};
use crate::memory::GuestMemory;

#[derive(Debug, Error)]
pub enum OpenDiskError {
    #[error("cannot open disk {path:?}")]
    Open { path: std::path::PathBuf, source: io::Error },
    #[error("disk {path:?} is neither a file nor a block device")]
    NotADisk { path: std::path::PathBuf },
    #[error("disk {path:?} is in use by another process")]
    InUse { path: std::path::PathBuf, source: rustix::io::Errno },
    #[error("disk {path:?} is smaller than one sector of {SECTOR_SIZE} bytes")]
    Empty { path: std::path::PathBuf },
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// From the disk into the guest's memory.
    In,
    Out,
}

/// An open disk. Its size is what it was when it was opened.
#[derive(Debug)]
pub struct Disk {
    file: File,
    bytes: u64,
    read_only: bool,
}

impl Disk {
    /// Opens a disk and keeps other machines from writing to it.
    pub fn open(config: &DiskConfig) -> Result<Self, OpenDiskError> {
        let path = config.path.clone();
        let failed = |source| OpenDiskError::Open { path: path.clone(), source };
        let mut file = File::options()
            .read(true)
            .write(!config.read_only)
            // A pipe in the place of a disk must not keep this process waiting.
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenDiskError::NotADisk { path });
        }
        let lock = match config.read_only {
            true => FlockOperation::NonBlockingLockShared,
            false => FlockOperation::NonBlockingLockExclusive,
        };
        flock(&file, lock).map_err(|source| OpenDiskError::InUse { path: path.clone(), source })?;
        let end = file.seek(SeekFrom::End(0)).map_err(failed)?;
        match end - end % SECTOR_SIZE {
            0 => Err(OpenDiskError::Empty { path }),
            bytes => Ok(Self { file, bytes, read_only: config.read_only }),
        }
    }

    pub fn sectors(&self) -> u64 {
        self.bytes / SECTOR_SIZE
    }

    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Reads from byte `offset` on into the guest's memory.
    pub fn read(&self, memory: &GuestMemory, into: &[Segment], offset: u64) -> io::Result<()> {
        self.transfer(Direction::In, memory, into, offset)
    }

    /// Writes what is in the guest's memory from byte `offset` on.
    pub fn write(&self, memory: &GuestMemory, from: &[Segment], offset: u64) -> io::Result<()> {
        self.transfer(Direction::Out, memory, from, offset)
    }

    /// Returns once everything written is on the disk.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn transfer(
        &self,
        direction: Direction,
        memory: &GuestMemory,
        segments: &[Segment],
        offset: u64,
    ) -> io::Result<()> {
        let slices = slices(direction, memory, segments)?;
        let bytes: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut parts: Vec<libc::iovec> = slices.iter().map(iovec).collect();
        let (mut parts, mut at) = (parts.as_mut_slice(), offset);
        while !parts.is_empty() {
            match self.transfer_some(direction, parts, at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                done => {
                    parts = skip(parts, done);
                    at += done as u64;
                }
            }
        }
        Ok(())
    }

    /// One system call's worth; `parts` point into slices of the guest's memory that the caller holds.
    fn transfer_some(&self, direction: Direction, parts: &[libc::iovec], offset: u64) -> io::Result<usize> {
        let (file, count) =
            (self.file.as_raw_fd(), parts.len().min(libc::UIO_MAXIOV as usize) as libc::c_int);
        let offset = offset as libc::off_t;
        loop {
            // SAFETY: `parts` has at least `count` entries, and each describes memory of the guest's mapping, which
            // outlives the call and into which no Rust reference points; the kernel checks file and offset.
            let done = unsafe {
                match direction {
                    Direction::In => libc::preadv(file, parts.as_ptr(), count, offset),
                    Direction::Out => libc::pwritev(file, parts.as_ptr(), count, offset),
                }
            };
            match usize::try_from(done) {
                Ok(done) => return Ok(done),
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }
}

/// The pieces of the guest's memory that the segments name; an error if any of it is not memory.
fn slices<'a>(
    direction: Direction,
    memory: &'a GuestMemory,
    segments: &[Segment],
) -> io::Result<Vec<VolatileSlice<'a>>> {
    let access = match direction {
        Direction::In => Permissions::Write,
        Direction::Out => Permissions::Read,
    };
    let mut all = Vec::with_capacity(segments.len());
    for segment in segments {
        let pieces = memory.get_slices(segment.address, segment.length as usize, access);
        for piece in pieces.map_err(io::Error::other)? {
            all.push(piece.map_err(io::Error::other)?);
        }
    }
    Ok(all)
}

fn iovec(slice: &VolatileSlice<'_>) -> libc::iovec {
    libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() }
}

/// What is left of `parts` after their first `done` bytes.
fn skip(parts: &mut [libc::iovec], mut done: usize) -> &mut [libc::iovec] {
    let whole = parts.iter().take_while(|part| {
        let is_done = part.iov_len <= done;
        done -= if is_done { part.iov_len } else { 0 };
        is_done
    });
    let whole = whole.count();
    let rest = &mut parts[whole..];
    if let Some(first) = rest.first_mut() {
        first.iov_base = first.iov_base.wrapping_byte_add(done);
        first.iov_len -= done;
    }
    rest
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        fs::write(&path, bytes).unwrap();
        (directory, path)
    }

    fn open(path: &std::path::Path, read_only: bool) -> Result<Disk, OpenDiskError> {
        Disk::open(&DiskConfig { path: path.to_owned(), read_only })
    }

    fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), 0x4000), (GuestAddress(0x4000), 0x4000)]).unwrap()
    }

    fn segment(address: u64, length: u32) -> Segment {
        Segment { address: GuestAddress(address), length }
    }

    #[test]
    fn bytes_go_both_ways_in_pieces_and_across_regions() {
        let (_directory, path) = file(&[0; 4096]);
        let (disk, memory) = (open(&path, false).unwrap(), memory());
        let data: Vec<u8> = (0..1024u32).map(|at| at as u8).collect();
        memory.write_slice(&data, GuestAddress(0x3e00)).unwrap();
        disk.write(&memory, &[segment(0x3e00, 100), segment(0x3e64, 924)], 512).unwrap();
        assert_eq!(fs::read(&path).unwrap()[512..1536], data);
        disk.read(&memory, &[segment(0x100, 512), segment(0x3f00, 512)], 512).unwrap();
        let mut back = vec![0; 512];
        memory.read_slice(&mut back, GuestAddress(0x3f00)).unwrap();
        assert_eq!(back, data[512..]);
    }

    #[test]
    fn nothing_beyond_the_end_is_touched() {
        let (_directory, path) = file(&[7; 1000]);
        let (disk, memory) = (open(&path, false).unwrap(), memory());
        assert_eq!(disk.sectors(), 1);
        for offset in [512, 1, u64::MAX - 10] {
            assert!(disk.write(&memory, &[segment(0, 512)], offset).is_err(), "{offset}");
        }
        assert_eq!(fs::read(&path).unwrap(), [7; 1000]);
    }

    #[test]
    fn what_is_not_memory_is_refused() {
        let (_directory, path) = file(&[0; 4096]);
        let (disk, memory) = (open(&path, false).unwrap(), memory());
        for bad in [segment(0x8000, 512), segment(0x7f00, 512), segment(u64::MAX - 4, 512)] {
            assert!(disk.read(&memory, &[bad], 0).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_disk_that_is_written_by_one_machine_is_not_given_to_another() {
        let (_directory, path) = file(&[0; 4096]);
        let _first = open(&path, false).unwrap();
        for read_only in [true, false] {
            assert!(matches!(open(&path, read_only), Err(OpenDiskError::InUse { .. })));
        }
    }

    #[test]
    fn a_disk_that_nobody_writes_can_be_shared() {
        let (_directory, path) = file(&[0; 4096]);
        let _first = open(&path, true).unwrap();
        assert!(open(&path, true).is_ok());
    }

    #[test]
    fn what_is_no_disk_is_named() {
        let (directory, path) = file(&[]);
        assert!(matches!(open(&path, true), Err(OpenDiskError::Empty { .. })));
        assert!(matches!(open(directory.path(), true), Err(OpenDiskError::NotADisk { .. })));
        assert!(matches!(open(&directory.path().join("x"), true), Err(OpenDiskError::Open { .. })));
    }

    #[test]
    fn a_part_of_a_transfer_is_skipped_wherever_it_ends() {
        for done in 0..=12 {
            let mut bytes = [0u8; 12];
            let base = bytes.as_mut_ptr();
            let mut parts =
                [3usize, 4, 5].map(|length| libc::iovec { iov_base: base.cast(), iov_len: length });
            let left: usize = skip(&mut parts, done).iter().map(|part| part.iov_len).sum();
            assert_eq!(left, 12 - done);
        }
    }
}
