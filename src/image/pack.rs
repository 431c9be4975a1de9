//! A raw disk, read once: its chunks that are not all zeroes, one after another, and the hash of each of them all.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt as _,
};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

use crate::domain::image::{
    chunks::{CHUNK_BYTES, DiskSize},
    digest::Digest,
    merkle::{self, Tree},
};

const CHUNK: usize = CHUNK_BYTES as usize;
static ZEROES: [u8; CHUNK] = [0; CHUNK];

/// Writes the packed blob and the blob of leaf hashes, and returns the Merkle root. `progress` is told how much of the disk was
/// read.
pub(super) fn pack(
    disk: &File,
    size: DiskSize,
    packed: &mut impl Write,
    table: &mut impl Write,
    progress: &mut dyn FnMut(u64),
) -> io::Result<Digest> {
    let (mut tree, mut extents) = (Tree::default(), Extents::of(disk));
    let mut buffer = vec![0; CHUNK];
    let zero_leaf = merkle::leaf(&ZEROES);
    for chunk in 0..size.chunks() {
        let start = chunk * u64::from(CHUNK_BYTES);
        let bytes = &mut buffer[..size.chunk_bytes(chunk).unwrap_or(CHUNK_BYTES) as usize];
        let is_zero = extents.is_hole(start, bytes.len() as u64)? || {
            disk.read_exact_at(bytes, start)?;
            *bytes == ZEROES[..bytes.len()]
        };
        let leaf = match (is_zero, bytes.len()) {
            (true, CHUNK) => zero_leaf,
            (true, length) => merkle::leaf(&ZEROES[..length]),
            (false, _) => {
                packed.write_all(bytes)?;
                merkle::leaf(bytes)
            }
        };
        tree.push(leaf);
        table.write_all(leaf.bytes())?;
        progress(start + bytes.len() as u64);
    }
    Ok(tree.root())
}

/// Where a file has data, asked for as it is read from its start to its end. Where the file system does not know, all of it is
/// data.
struct Extents<'a> {
    file: &'a File,
    /// The next stretch of data.
    data: std::ops::Range<u64>,
}

impl<'a> Extents<'a> {
    fn of(file: &'a File) -> Self {
        Self { file, data: 0..0 }
    }

    /// Whether there is no data in so many bytes from here.
    fn is_hole(&mut self, start: u64, bytes: u64) -> io::Result<bool> {
        if self.data.end <= start {
            self.data = self.next(start)?;
        }
        Ok(start + bytes <= self.data.start)
    }

    fn next(&self, from: u64) -> io::Result<std::ops::Range<u64>> {
        let start = match seek(self.file, SeekFrom::Data(from)) {
            Ok(start) => start,
            // There is no data from here on.
            Err(Errno::NXIO) => return Ok(u64::MAX..u64::MAX),
            // Not of this file system.
            Err(Errno::INVAL) => return Ok(from..u64::MAX),
            Err(error) => return Err(error.into()),
        };
        Ok(start..seek(self.file, SeekFrom::Hole(start))?)
    }
}
