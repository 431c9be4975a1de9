//! A disk in chunks: which of them are stored, where in the packed blob, and how each is known to be right by itself.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    digest::Digest,
    merkle::{self, Tree},
};

/// What is fetched, verified and kept at once, in bytes.
pub const CHUNK_BYTES: u32 = 64 * 1024;
/// What a disk is a whole number of, in bytes.
pub const SECTOR_BYTES: u64 = 512;
/// The largest disk, in bytes: that of a partition's layered disk.
pub const DISK_MAX_BYTES: u64 = 2 << 40;
/// Of a leaf hash in the blob of chunks, in bytes.
pub const LEAF_BYTES: u64 = 32;

#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "a disk of {0} bytes: it has to be a whole number of sectors of {SECTOR_BYTES}, and between one and {DISK_MAX_BYTES} bytes"
)]
pub struct BadDiskSize(u64);

/// How large a disk is; all else about its chunks follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct DiskSize(u64);

impl DiskSize {
    pub fn new(bytes: u64) -> Result<Self, BadDiskSize> {
        let is_disk = (SECTOR_BYTES..=DISK_MAX_BYTES).contains(&bytes) && bytes.is_multiple_of(SECTOR_BYTES);
        if is_disk { Ok(Self(bytes)) } else { Err(BadDiskSize(bytes)) }
    }

    pub fn bytes(self) -> u64 {
        self.0
    }

    /// How many chunks it has.
    pub fn chunks(self) -> u64 {
        self.0.div_ceil(CHUNK_BYTES.into())
    }

    /// How long the blob of its leaf hashes is.
    pub fn table_bytes(self) -> u64 {
        self.chunks() * LEAF_BYTES
    }

    /// How long a chunk is: the last may be shorter. None: there is no such chunk.
    pub fn chunk_bytes(self, chunk: u64) -> Option<u32> {
        let start = chunk.checked_mul(CHUNK_BYTES.into()).filter(|start| *start < self.0)?;
        u32::try_from((self.0 - start).min(CHUNK_BYTES.into())).ok()
    }
}

impl TryFrom<u64> for DiskSize {
    type Error = BadDiskSize;

    fn try_from(bytes: u64) -> Result<Self, BadDiskSize> {
        Self::new(bytes)
    }
}

impl From<DiskSize> for u64 {
    fn from(size: DiskSize) -> Self {
        size.0
    }
}

/// Where a chunk's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: all of it is zeroes.
    Zeroes,
    /// In the packed blob.
    Stored { offset: u64, bytes: u32 },
}

/// Which chunks of a disk are stored, so that each one's place is known at once: a bit a chunk, and how many are stored
/// before each 64 of them. For the largest disk that is 6 MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkMap {
    size: DiskSize,
    stored: Vec<u64>,
    before: Vec<u32>,
    stored_bytes: u64,
}

impl ChunkMap {
    pub fn size(&self) -> DiskSize {
        self.size
    }

    /// How long the packed blob is.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Where a chunk is. None: the disk has no such chunk.
    pub fn place(&self, chunk: u64) -> Option<Place> {
        let bytes = self.size.chunk_bytes(chunk)?;
        let (word, bit) = (usize::try_from(chunk / 64).ok()?, chunk % 64);
        let stored = *self.stored.get(word)?;
        if stored & (1 << bit) == 0 {
            return Some(Place::Zeroes);
        }
        let earlier = (stored & ((1 << bit) - 1)).count_ones() + *self.before.get(word)?;
        Some(Place::Stored { offset: u64::from(earlier) * u64::from(CHUNK_BYTES), bytes })
    }
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadChunks {
    #[error("the list of chunks holds {found} bytes, and a disk of {disk} bytes has one of {expected}")]
    Length { disk: u64, expected: u64, found: u64 },
    #[error("the list of chunks has the Merkle root {found}, and the image says {expected}")]
    Root { expected: Digest, found: Digest },
}

/// Reads the blob of leaf hashes as it comes, in pieces of any length, and checks it against the root: it is wanted in full,
/// and never needed in memory.
#[derive(Debug, Clone)]
pub struct ChunkReader {
    map: ChunkMap,
    tree: Tree,
    zero_leaf: Digest,
    /// Of the last chunk, which may be shorter.
    last_zero_leaf: Digest,
    /// The begin of a leaf hash whose end has not come yet.
    partial: Vec<u8>,
    read: u64,
}

impl ChunkReader {
    pub fn new(size: DiskSize) -> Self {
        let last = size.chunk_bytes(size.chunks() - 1).unwrap_or(CHUNK_BYTES);
        Self {
            map: ChunkMap { size, stored: Vec::new(), before: Vec::new(), stored_bytes: 0 },
            tree: Tree::default(),
            zero_leaf: merkle::leaf(&zeroes(CHUNK_BYTES)),
            last_zero_leaf: merkle::leaf(&zeroes(last)),
            partial: Vec::new(),
            read: 0,
        }
    }

    /// The next bytes of the blob. What is beyond its end is counted, and not kept.
    pub fn push(&mut self, mut bytes: &[u8]) {
        self.read += bytes.len() as u64;
        if !self.partial.is_empty() {
            let missing = (LEAF_BYTES as usize - self.partial.len()).min(bytes.len());
            let (head, rest) = bytes.split_at(missing);
            self.partial.extend_from_slice(head);
            bytes = rest;
            if let Ok(leaf) = <[u8; 32]>::try_from(self.partial.as_slice()) {
                self.partial.clear();
                self.push_leaf(Digest::new(leaf));
            }
        }
        let (leaves, rest) = bytes.as_chunks::<32>();
        leaves.iter().for_each(|leaf| self.push_leaf(Digest::new(*leaf)));
        self.partial.extend_from_slice(rest);
    }

    fn push_leaf(&mut self, leaf: Digest) {
        let chunk = self.tree.leaves();
        let Some(bytes) = self.map.size.chunk_bytes(chunk) else { return };
        if chunk.is_multiple_of(64) {
            let before = self.map.stored_bytes.div_ceil(CHUNK_BYTES.into());
            self.map.before.push(before.try_into().unwrap_or(u32::MAX));
            self.map.stored.push(0);
        }
        let is_last = chunk + 1 == self.map.size.chunks();
        let is_zero = leaf == if is_last { self.last_zero_leaf } else { self.zero_leaf };
        if !is_zero && let Some(word) = self.map.stored.last_mut() {
            *word |= 1 << (chunk % 64);
            self.map.stored_bytes += u64::from(bytes);
        }
        self.tree.push(leaf);
    }

    /// The root over all leaf hashes so far.
    pub fn root(&self) -> Digest {
        self.tree.root()
    }

    /// What there is to know of the chunks, once all leaf hashes were read and are those of `root`.
    pub fn finish(self, root: &Digest) -> Result<ChunkMap, BadChunks> {
        let (size, found) = (self.map.size, self.root());
        let (disk, expected) = (size.bytes(), size.table_bytes());
        if self.read != expected {
            return Err(BadChunks::Length { disk, expected, found: self.read });
        }
        if found != *root {
            return Err(BadChunks::Root { expected: *root, found });
        }
        Ok(self.map)
    }
}

fn zeroes(bytes: u32) -> Vec<u8> {
    vec![0; bytes as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHUNK: u64 = CHUNK_BYTES as u64;

    /// The leaf hashes of a disk whose chunks are zeroes or something else.
    fn leaves(size: DiskSize, stored: &[bool]) -> Vec<Digest> {
        let zeroes = |chunk| merkle::leaf(&zeroes(size.chunk_bytes(chunk).unwrap()));
        let (first, last) = (zeroes(0), zeroes(size.chunks() - 1));
        let chunk = |(number, stored): (usize, &bool)| match stored {
            true => Digest::of(&number.to_be_bytes()),
            false if number as u64 + 1 == size.chunks() => last,
            false => first,
        };
        stored.iter().enumerate().map(chunk).collect()
    }

    fn read(size: DiskSize, leaves: &[Digest]) -> ChunkReader {
        let mut reader = ChunkReader::new(size);
        leaves.iter().for_each(|leaf| reader.push(leaf.bytes()));
        reader
    }

    #[test]
    fn a_disk_is_whole_sectors_and_no_larger_than_can_be_lent() {
        for wrong in [0, 1, 511, 513, DISK_MAX_BYTES + 512, u64::MAX] {
            assert_eq!(DiskSize::new(wrong), Err(BadDiskSize(wrong)));
        }
        let size = DiskSize::new(CHUNK + 512).unwrap();
        assert_eq!((size.chunks(), size.table_bytes()), (2, 64));
        assert_eq!(
            [0, 1, 2, u64::MAX].map(|chunk| size.chunk_bytes(chunk)),
            [Some(65536), Some(512), None, None]
        );
        assert_eq!(DiskSize::new(DISK_MAX_BYTES).unwrap().chunks(), 1 << 25);
    }

    #[test]
    fn too_few_or_too_many_leaf_hashes_are_refused() {
        let size = DiskSize::new(3 * CHUNK).unwrap();
        let all = leaves(size, &[true, false, true]);
        let root = read(size, &all).root();
        assert!(read(size, &all).finish(&root).is_ok());
        assert!(matches!(read(size, &all[..2]).finish(&root), Err(BadChunks::Length { found: 64, .. })));
        let mut more = read(size, &all);
        more.push(&[0]);
        assert!(matches!(more.finish(&root), Err(BadChunks::Length { found: 97, .. })));
    }

    proptest! {
        #[test]
        fn a_chunks_place_is_after_all_that_are_stored_before_it(
            stored in proptest::collection::vec(any::<bool>(), 1..200),
            last in 1u64..=128,
            piece in 1usize..100,
        ) {
            let size = DiskSize::new((stored.len() as u64 - 1) * CHUNK + last * 512).unwrap();
            let leaves = leaves(size, &stored);
            let blob: Vec<u8> = leaves.iter().flat_map(|leaf| *leaf.bytes()).collect();
            let mut reader = ChunkReader::new(size);
            blob.chunks(piece).for_each(|piece| reader.push(piece));
            let root = reader.root();
            let map = reader.finish(&root).unwrap();
            let mut offset = 0;
            for (chunk, stored) in stored.iter().enumerate() {
                let bytes = size.chunk_bytes(chunk as u64).unwrap();
                let place = if *stored { Place::Stored { offset, bytes } } else { Place::Zeroes };
                prop_assert_eq!(map.place(chunk as u64), Some(place));
                offset += if *stored { u64::from(bytes) } else { 0 };
            }
            prop_assert_eq!(map.stored_bytes(), offset);
            prop_assert_eq!(map.place(stored.len() as u64), None);
        }

        #[test]
        fn any_changed_bit_of_the_list_is_found(
            stored in proptest::collection::vec(any::<bool>(), 1..20),
            at in any::<prop::sample::Index>(),
            bit in 0u32..8,
        ) {
            let size = DiskSize::new(stored.len() as u64 * CHUNK).unwrap();
            let leaves = leaves(size, &stored);
            let root = read(size, &leaves).root();
            let mut blob: Vec<u8> = leaves.iter().flat_map(|leaf| *leaf.bytes()).collect();
            let at = at.index(blob.len());
            blob[at] ^= 1 << bit;
            let mut reader = ChunkReader::new(size);
            reader.push(&blob);
            prop_assert!(matches!(reader.finish(&root), Err(BadChunks::Root { .. })), "a flipped bit");
        }
    }
}
