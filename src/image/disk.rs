//! A packed disk, read chunk by chunk: each is verified before anybody sees it.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
};

use thiserror::Error;

use super::layout::{Layout, LayoutError};
use crate::domain::image::{
    chunks::{BadChunks, ChunkMap, ChunkReader, LEAF_BYTES, Place},
    contents::Disk,
    digest::Digest,
    merkle,
};

#[derive(Debug, Error)]
pub enum DiskError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("the list of chunks cannot be read")]
    Chunks(#[source] io::Error),
    #[error("the disk's chunks do not fit the image")]
    BadChunks(#[from] BadChunks),
    #[error("the disk has {found} bytes packed, and its list of chunks says {expected}")]
    Packed { expected: u64, found: u64 },
    #[error("there is no chunk {0}")]
    NoChunk(u64),
    #[error("chunk {chunk} cannot be read")]
    Read { chunk: u64, source: io::Error },
    #[error("chunk {chunk} is damaged: its hash is {found}, and should be {expected}")]
    Damaged { chunk: u64, expected: Digest, found: Digest },
}

#[derive(Debug)]
pub struct PackedDisk {
    map: ChunkMap,
    packed: File,
    table: File,
}

impl PackedDisk {
    /// Opens a disk, and verifies the list of its chunks.
    pub fn open(layout: &Layout, disk: &Disk) -> Result<Self, DiskError> {
        let (packed, table) = (layout.open_blob(&disk.disk)?, layout.open_blob(&disk.chunks)?);
        let map = read_map(&table, disk)?;
        Ok(Self { map, packed, table })
    }

    pub fn map(&self) -> &ChunkMap {
        &self.map
    }

    /// The bytes of a chunk of the disk.
    pub fn chunk(&self, chunk: u64) -> Result<Vec<u8>, DiskError> {
        let bytes = self.map.size().chunk_bytes(chunk).ok_or(DiskError::NoChunk(chunk))?;
        let mut read = vec![0; bytes as usize];
        let failed = |source| DiskError::Read { chunk, source };
        if let Some(Place::Stored { offset, .. }) = self.map.place(chunk) {
            self.packed.read_exact_at(&mut read, offset).map_err(failed)?;
        }
        let mut expected = [0; LEAF_BYTES as usize];
        self.table.read_exact_at(&mut expected, chunk * LEAF_BYTES).map_err(failed)?;
        let (expected, found) = (Digest::new(expected), merkle::leaf(&read));
        if found == expected { Ok(read) } else { Err(DiskError::Damaged { chunk, expected, found }) }
    }
}

/// Reads the list of chunks, checks it against the image, and that the packed blob is as long as it has to be.
pub fn read_map(mut table: &File, disk: &Disk) -> Result<ChunkMap, DiskError> {
    let mut reader = ChunkReader::new(disk.size);
    let mut piece = vec![0; 64 * 1024];
    loop {
        match table.read(&mut piece).map_err(DiskError::Chunks)? {
            0 => break,
            read => reader.push(&piece[..read]),
        }
    }
    let map = reader.finish(&disk.merkle_root)?;
    let (expected, found) = (map.stored_bytes(), disk.disk.size);
    if expected == found { Ok(map) } else { Err(DiskError::Packed { expected, found }) }
}

#[cfg(test)]
mod tests;
