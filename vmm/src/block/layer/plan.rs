//! What a piece of work on a layered disk comes to: steps, one after the other, decided from what is there.
//!
//! A chunk that is not there yet is written whole, with what was read of it until then, and counts as there only afterwards.
//! So no cut of the power can leave one of which only a part was written.

use std::ops::Range;

use sublet_vmm_protocol::config::CHUNK_BYTES;

use super::chunks::{ChunkMap, ChunkState};

/// Most bytes that a piece of work reads or writes for the guest; there may be one chunk's rest more at either end.
pub const PIECE_BYTES: u64 = 4 * CHUNK_BYTES;
/// Longest span of a plan.
pub const SPAN_BYTES: u64 = PIECE_BYTES + 2 * CHUNK_BYTES;

/// One step. Ranges are in bytes of the disk; in memory they lie in a buffer that holds the plan's span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    ReadOwn(Range<u64>),
    ReadBase(Range<u64>),
    WriteOwn(Range<u64>),
    Zero(Range<u64>),
    FromGuest(Range<u64>),
    ToGuest(Range<u64>),
    Encrypt(Range<u64>),
    Decrypt(Range<u64>),
    /// These chunks are in this state from now on.
    Mark(Range<u64>, ChunkState),
    /// What was written is on the disk.
    Sync,
    /// Block of the map, of those that the work took along.
    WriteMap(usize),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    pub span: Range<u64>,
    pub ops: Vec<Op>,
    /// Chunks that nobody else may use until it is done.
    pub claims: Range<u64>,
}

impl Plan {
    /// What it takes of the base, in bytes of the disk.
    pub fn reads_of_base(&self) -> impl Iterator<Item = &Range<u64>> {
        self.ops.iter().filter_map(|op| if let Op::ReadBase(range) = op { Some(range) } else { None })
    }
}

/// Where what is written comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Guest,
    Zeroes,
}

/// What there is.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub map: &'a ChunkMap,
    pub disk_bytes: u64,
    pub base_bytes: u64,
}

/// The chunks that a range touches.
pub fn chunks(range: &Range<u64>) -> Range<u64> {
    range.start / CHUNK_BYTES..range.end.div_ceil(CHUNK_BYTES)
}

impl View<'_> {
    fn start_of(&self, chunk: u64) -> u64 {
        chunk * CHUNK_BYTES
    }

    /// The disk's last chunk may be cut short.
    fn end_of(&self, chunk: u64) -> u64 {
        ((chunk + 1) * CHUNK_BYTES).min(self.disk_bytes)
    }

    /// What of this lies above the base.
    fn in_base(&self, range: &Range<u64>) -> Range<u64> {
        range.start..range.end.min(self.base_bytes).max(range.start)
    }

    /// Whether a chunk reads as zeroes without being there.
    fn is_empty(&self, chunk: u64) -> bool {
        match self.map.state(chunk) {
            ChunkState::Present => false,
            ChunkState::Absent => self.start_of(chunk) >= self.base_bytes,
            ChunkState::Discarded => true,
        }
    }

    /// Runs of chunks in the same state, as the parts of the range that they are.
    fn runs(&self, range: &Range<u64>) -> Vec<(Range<u64>, ChunkState)> {
        let mut runs: Vec<(Range<u64>, ChunkState)> = Vec::new();
        for chunk in chunks(range) {
            let part = range.start.max(self.start_of(chunk))..range.end.min(self.end_of(chunk));
            let state = self.map.state(chunk);
            match runs.last_mut() {
                Some((run, same)) if *same == state => run.end = part.end,
                _ => runs.push((part, state)),
            }
        }
        runs
    }

    /// Brings what stands in the range into memory, in the clear.
    fn fetch(&self, range: Range<u64>, state: ChunkState, ops: &mut Vec<Op>) {
        let based = match state {
            ChunkState::Present => return ops.extend([Op::ReadOwn(range.clone()), Op::Decrypt(range)]),
            ChunkState::Absent => self.in_base(&range),
            ChunkState::Discarded => range.start..range.start,
        };
        let rest = based.end..range.end;
        ops.extend((!based.is_empty()).then_some(Op::ReadBase(based)));
        ops.extend((!rest.is_empty()).then_some(Op::Zero(rest)));
    }

    /// Reads at most [`PIECE_BYTES`] for the guest.
    pub fn read(&self, range: Range<u64>) -> Plan {
        let mut ops = Vec::new();
        self.runs(&range).into_iter().for_each(|(run, state)| self.fetch(run, state, &mut ops));
        ops.push(Op::ToGuest(range.clone()));
        Plan { span: range, ops, claims: 0..0 }
    }

    /// Writes at most [`PIECE_BYTES`].
    pub fn write(&self, range: Range<u64>, from: Source) -> Plan {
        let touched = chunks(&range);
        let (first, last) = (touched.start, touched.end - 1);
        let [head, tail] = [first, last].map(|chunk| self.map.state(chunk));
        let is_new = |state| state != ChunkState::Present;
        let start = if is_new(head) { self.start_of(first) } else { range.start };
        let end = if is_new(tail) { self.end_of(last) } else { range.end };
        let mut ops = Vec::new();
        for (rest, state) in [(start..range.start, head), (range.end..end, tail)] {
            if !rest.is_empty() {
                self.fetch(rest, state, &mut ops);
            }
        }
        ops.push(match from {
            Source::Guest => Op::FromGuest(range.clone()),
            Source::Zeroes => Op::Zero(range.clone()),
        });
        ops.extend([Op::Encrypt(start..end), Op::WriteOwn(start..end)]);
        let new = self.runs(&range).into_iter().filter(|(_, state)| is_new(*state));
        let marks: Vec<Op> = new.map(|(run, _)| Op::Mark(chunks(&run), ChunkState::Present)).collect();
        let claims = if marks.is_empty() { 0..0 } else { touched };
        ops.extend(marks);
        Plan { span: start..end, ops, claims }
    }

    /// Makes the beginning of a range read as zeroes, and how far that goes: the rest of a chunk, or as many whole ones as
    /// there are.
    pub fn zero(&self, range: Range<u64>) -> (Plan, u64) {
        let first = range.start / CHUNK_BYTES;
        let within = range.start..range.end.min(self.end_of(first));
        let is_whole = within == (self.start_of(first)..self.end_of(first));
        let nothing = |span: Range<u64>, ops| Plan { span: span.start..span.start, ops, claims: 0..0 };
        if !is_whole {
            let end = within.end;
            let plan = match self.is_empty(first) {
                true => nothing(within, vec![]),
                false => self.write(within, Source::Zeroes),
            };
            return (plan, end);
        }
        let whole = if range.end == self.disk_bytes { chunks(&range).end } else { range.end / CHUNK_BYTES };
        let filled = (first..whole).filter(|chunk| !self.is_empty(*chunk));
        let marks = filled.map(|chunk| Op::Mark(chunk..chunk + 1, ChunkState::Discarded)).collect();
        (nothing(range, marks), self.end_of(whole - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: u64 = 6 * CHUNK_BYTES + 1024;

    fn map(states: &[ChunkState]) -> ChunkMap {
        let mut map = ChunkMap::new(vec![0; 4096], DISK).unwrap();
        for (chunk, state) in (0..).zip(states) {
            map.set(chunk..chunk + 1, *state);
        }
        map
    }

    fn view(map: &ChunkMap, base_bytes: u64) -> View<'_> {
        View { map, disk_bytes: DISK, base_bytes }
    }

    #[test]
    fn a_chunk_that_is_not_there_is_written_whole_and_counts_only_afterwards() {
        let map = map(&[]);
        let range = CHUNK_BYTES + 512..CHUNK_BYTES + 1024;
        let whole = CHUNK_BYTES..2 * CHUNK_BYTES;
        let plan = view(&map, CHUNK_BYTES + 512).write(range.clone(), Source::Guest);
        let wanted = [
            Op::ReadBase(CHUNK_BYTES..range.start),
            Op::Zero(range.end..whole.end),
            Op::FromGuest(range),
            Op::Encrypt(whole.clone()),
            Op::WriteOwn(whole.clone()),
            Op::Mark(1..2, ChunkState::Present),
        ];
        assert_eq!((plan.ops.as_slice(), plan.claims, plan.span), (wanted.as_slice(), 1..2, whole));
    }

    #[test]
    fn what_is_there_is_written_in_its_place_alone() {
        let map = map(&[ChunkState::Present; 3]);
        let range = 512..2 * CHUNK_BYTES + 512;
        let plan = view(&map, 0).write(range.clone(), Source::Guest);
        let wanted = [Op::FromGuest(range.clone()), Op::Encrypt(range.clone()), Op::WriteOwn(range)];
        assert_eq!((plan.ops.as_slice(), plan.claims), (wanted.as_slice(), 0..0));
    }

    #[test]
    fn what_was_discarded_reads_as_zeroes_and_never_as_the_base() {
        let map = map(&[ChunkState::Present, ChunkState::Discarded]);
        let plan = view(&map, DISK).read(CHUNK_BYTES - 512..2 * CHUNK_BYTES + 512);
        let [first, second] = [CHUNK_BYTES, 2 * CHUNK_BYTES];
        let wanted = [
            Op::ReadOwn(first - 512..first),
            Op::Decrypt(first - 512..first),
            Op::Zero(first..second),
            Op::ReadBase(second..second + 512),
            Op::ToGuest(first - 512..second + 512),
        ];
        assert_eq!(plan.ops, wanted);
    }

    #[test]
    fn whole_chunks_are_discarded_by_the_map_alone_and_parts_by_zeroes() {
        let map = map(&[ChunkState::Present, ChunkState::Absent, ChunkState::Present]);
        let view = view(&map, 2 * CHUNK_BYTES);
        let (plan, end) = view.zero(512..3 * CHUNK_BYTES);
        assert_eq!((plan.ops.first(), end), (Some(&Op::Zero(512..CHUNK_BYTES)), CHUNK_BYTES));
        let (plan, end) = view.zero(CHUNK_BYTES..3 * CHUNK_BYTES + 512);
        let marks = [1..2, 2..3].map(|chunk| Op::Mark(chunk, ChunkState::Discarded));
        assert_eq!((plan.ops.as_slice(), end), (marks.as_slice(), 3 * CHUNK_BYTES));
        // Above the base, and never written.
        let (plan, end) = view.zero(3 * CHUNK_BYTES..3 * CHUNK_BYTES + 512);
        assert_eq!((plan.ops.as_slice(), end), ([].as_slice(), 3 * CHUNK_BYTES + 512));
        // The last chunk is a short one.
        let (_, end) = view.zero(5 * CHUNK_BYTES..DISK);
        assert_eq!(end, DISK);
    }
}
