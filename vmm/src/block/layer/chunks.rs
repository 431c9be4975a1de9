//! Which chunks of a disk are in its own space: two bits each, kept in blocks that are written whole.

use std::{collections::BTreeSet, ops::Range};

use sublet_vmm_protocol::config::{CHUNK_BYTES, MAP_BLOCK_BYTES};
use thiserror::Error;

const PER_BYTE: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkState {
    /// Never written: what lies under it is read. What a file reads that was never written, zeroes, says this of all.
    Absent = 0,
    Present = 1,
    /// Reads as zeroes, whatever lies under it.
    Discarded = 2,
}

/// A map that no disk of ours has left.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
#[error(
    "the map says something unknown of chunk {0}; the file is no layered disk, or was made for another size"
)]
pub struct BadMap(pub u64);

/// A block of the map, as it is to stand on the disk.
pub type MapBlock = [u8; MAP_BLOCK_BYTES as usize];

#[derive(Debug)]
pub struct ChunkMap {
    states: Vec<u8>,
    chunks: u64,
    /// Blocks that stand otherwise on the disk.
    changed: BTreeSet<usize>,
}

impl ChunkMap {
    /// As it stands on the disk. `states` is as long as the map of a disk of that size.
    pub fn new(states: Vec<u8>, disk_bytes: u64) -> Result<Self, BadMap> {
        let map = Self { states, chunks: disk_bytes.div_ceil(CHUNK_BYTES), changed: BTreeSet::new() };
        match (0..map.chunks).find(|chunk| map.bits(*chunk) == 3) {
            Some(chunk) => Err(BadMap(chunk)),
            None => Ok(map),
        }
    }

    pub fn state(&self, chunk: u64) -> ChunkState {
        match self.bits(chunk) {
            1 => ChunkState::Present,
            2 => ChunkState::Discarded,
            _ => ChunkState::Absent,
        }
    }

    fn bits(&self, chunk: u64) -> u8 {
        let byte = self.states.get((chunk / PER_BYTE) as usize).copied().unwrap_or_default();
        byte >> Self::shift(chunk) & 3
    }

    fn shift(chunk: u64) -> u64 {
        chunk % PER_BYTE * 2
    }

    pub fn set(&mut self, chunks: Range<u64>, state: ChunkState) {
        for chunk in chunks {
            let at = (chunk / PER_BYTE) as usize;
            if let Some(byte) = self.states.get_mut(at) {
                *byte = *byte & !(3 << Self::shift(chunk)) | (state as u8) << Self::shift(chunk);
                self.changed.insert(at / MAP_BLOCK_BYTES as usize);
            }
        }
    }

    pub fn is_stored(&self) -> bool {
        self.changed.is_empty()
    }

    /// The blocks that changed since this was asked last, with their numbers.
    pub fn take_changed(&mut self) -> Vec<(usize, MapBlock)> {
        let numbers = std::mem::take(&mut self.changed);
        numbers.into_iter().map(|number| (number, self.block(number))).collect()
    }

    fn block(&self, number: usize) -> MapBlock {
        let from = number * MAP_BLOCK_BYTES as usize;
        let mut block = [0; MAP_BLOCK_BYTES as usize];
        block.iter_mut().zip(self.states.iter().skip(from)).for_each(|(to, from)| *to = *from);
        block
    }

    /// These were taken, and have not come to stand on the disk.
    pub fn still_changed(&mut self, numbers: impl IntoIterator<Item = usize>) {
        self.changed.extend(numbers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: ChunkState = ChunkState::Absent;
    const PRESENT: ChunkState = ChunkState::Present;
    const DISCARDED: ChunkState = ChunkState::Discarded;
    const BYTES: u64 = 20_000 * CHUNK_BYTES;

    fn empty() -> ChunkMap {
        ChunkMap::new(vec![0; 8192], BYTES).unwrap()
    }

    #[test]
    fn a_fresh_files_chunks_are_absent_and_each_state_is_kept_for_itself() {
        let mut map = empty();
        assert!((0..20_000).all(|chunk| map.state(chunk) == ABSENT));
        map.set(3..6, PRESENT);
        map.set(4..5, DISCARDED);
        let states: Vec<_> = (2..7).map(|chunk| map.state(chunk)).collect();
        assert_eq!(states, [ABSENT, PRESENT, DISCARDED, PRESENT, ABSENT]);
        map.set(4..5, ABSENT);
        assert_eq!(map.state(4), ABSENT);
    }

    #[test]
    fn only_blocks_that_changed_are_to_be_written_and_what_is_read_back_is_the_same() {
        let mut map = empty();
        map.set(0..1, ChunkState::Present);
        map.set(19_999..20_000, ChunkState::Discarded);
        let changed = map.take_changed();
        assert_eq!(changed.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1]);
        assert!(map.take_changed().is_empty());
        map.still_changed([1]);
        assert_eq!(map.take_changed(), changed[1..]);
        let stored = changed.iter().flat_map(|(_, block)| *block).collect();
        let again = ChunkMap::new(stored, BYTES).unwrap();
        assert_eq!(again.state(0), ChunkState::Present);
        assert_eq!(again.state(19_999), ChunkState::Discarded);
    }

    #[test]
    fn a_map_that_no_disk_of_ours_has_left_is_refused() {
        let mut states = vec![0; 8192];
        states[2] = 0b1100_0000;
        assert_eq!(ChunkMap::new(states, BYTES).unwrap_err(), BadMap(11));
    }
}
