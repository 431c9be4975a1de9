//! Work on a layered disk, piece by piece: each is planned when its turn comes, from what is there then, and carried out in a
//! buffer of the host's.

use std::{collections::VecDeque, io, ops::Range, sync::Arc};

use sublet_vmm_protocol::config::{CHUNK_BYTES, MAP_BLOCK_BYTES};
use vm_memory::{Bytes, GuestAddress};

use super::{Next, Step};
use crate::{
    block::{
        buffers::{Direction, Segment},
        disk::Disk,
        layer::{
            Begun, Changed, Layer,
            bounce::Bounce,
            plan::{Op, PIECE_BYTES, Plan, Source},
        },
    },
    memory::GuestMemory,
};

pub struct LayeredIo {
    disk: Arc<Disk>,
    work: Work,
    /// Everything written is to be on the disk before this counts as done.
    sync_after: bool,
    piece: Option<Piece>,
    /// The step that is next, where it moves bytes.
    parts: [libc::iovec; 1],
}

enum Work {
    Transfer {
        direction: Direction,
        guest: Guest,
        /// Still to move.
        range: Range<u64>,
    },
    /// The last range is the next.
    Zero(Vec<Range<u64>>),
    Sync,
    Done,
}

/// The guest's memory for a transfer.
pub struct Guest {
    pub memory: Arc<GuestMemory>,
    pub segments: Vec<Segment>,
    /// Where on the disk its first byte belongs.
    pub offset: u64,
}

/// What is carried out just now.
struct Piece {
    ops: VecDeque<Op>,
    span: Range<u64>,
    claims: Range<u64>,
    bounce: Bounce,
    /// Bytes that the first of `ops` has moved.
    moved: u64,
    /// Where the work goes on.
    end: u64,
    /// Blocks of the map, where this is a flush.
    changed: Option<Changed>,
}

/// What became of beginning a piece.
enum Beginning {
    Begun,
    Wait,
    Done,
}

impl LayeredIo {
    /// Moves so many bytes, which are the disk's, to or from memory that is the guest's.
    pub fn transfer(disk: &Arc<Disk>, direction: Direction, guest: Guest, bytes: u64) -> Self {
        let range = guest.offset..guest.offset + bytes;
        Self::new(disk, Work::Transfer { direction, guest, range })
    }

    /// Makes these bytes, which are the disk's, read as zeroes, whatever stood there.
    pub fn zero(disk: &Arc<Disk>, mut ranges: Vec<Range<u64>>) -> Self {
        ranges.reverse();
        Self::new(disk, Work::Zero(ranges))
    }

    pub fn flush(disk: &Arc<Disk>) -> Self {
        Self::new(disk, Work::Sync)
    }

    pub fn and_flush(mut self) -> Self {
        self.sync_after = true;
        self
    }

    fn new(disk: &Arc<Disk>, work: Work) -> Self {
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self { disk: disk.clone(), work, sync_after: false, piece: None, parts: [nothing] }
    }

    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// What is to be done next; what the host's memory takes is done first.
    pub fn next_step(&mut self) -> io::Result<Next<'_>> {
        loop {
            let Some(piece) = &self.piece else {
                match self.begin()? {
                    Beginning::Begun => continue,
                    Beginning::Wait => return Ok(Next::Wait),
                    Beginning::Done => return Ok(Next::Done),
                }
            };
            match piece.ops.front().cloned() {
                None => self.end_piece(),
                Some(op) if self.done_in_memory(&op)? => self.pop(),
                Some(op) => return self.step(op),
            }
        }
    }

    /// Takes in what became of the step.
    pub fn advance(&mut self, result: io::Result<u64>) -> io::Result<()> {
        let done = match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        };
        let Some(piece) = &mut self.piece else { return Ok(()) };
        let bytes = piece.ops.front().map_or(0, bytes_moved);
        if bytes > 0 && done == 0 {
            // It would go on for ever: the file has been cut short.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        piece.moved += done;
        if piece.moved >= bytes {
            self.pop();
        }
        Ok(())
    }

    fn pop(&mut self) {
        if let Some(piece) = &mut self.piece {
            piece.ops.pop_front();
            piece.moved = 0;
        }
    }

    fn begin(&mut self) -> io::Result<Beginning> {
        let disk = self.disk.clone();
        let layer = layer(&disk)?;
        let begun = match &mut self.work {
            Work::Done => return Ok(Beginning::Done),
            Work::Sync => layer.begin_flush().map(Piece::flush),
            Work::Transfer { direction, range, .. } if !range.is_empty() => {
                let part = first_piece(range);
                let end = part.end;
                let begun = layer.begin(&part.clone(), |view| match direction {
                    Direction::In => view.read(part),
                    Direction::Out => view.write(part, Source::Guest),
                })?;
                begun.map(|begun| Piece::new(begun, end))
            }
            Work::Zero(ranges) if !ranges.is_empty() => {
                let range = ranges.last().cloned().unwrap_or_default();
                let mut end = range.end;
                let begun = layer.begin(&range.clone(), |view| match range.is_empty() {
                    true => Plan { span: range.clone(), ops: vec![], claims: 0..0 },
                    false => {
                        let plan;
                        (plan, end) = view.zero(range);
                        plan
                    }
                })?;
                begun.map(|begun| Piece::new(begun, end))
            }
            Work::Transfer { .. } | Work::Zero(_) => {
                self.work = if self.sync_after { Work::Sync } else { Work::Done };
                return self.begin();
            }
        };
        self.piece = begun;
        Ok(if self.piece.is_some() { Beginning::Begun } else { Beginning::Wait })
    }

    /// The piece is done.
    fn end_piece(&mut self) {
        let Some(piece) = self.piece.take() else { return };
        let end = piece.end;
        piece.give_back(&self.disk, &[]);
        match &mut self.work {
            Work::Transfer { range, .. } => range.start = end,
            Work::Zero(ranges) => {
                ranges.last_mut().into_iter().for_each(|range| range.start = end);
                ranges.pop_if(|range| range.is_empty());
            }
            Work::Sync => self.work = Work::Done,
            Work::Done => {}
        }
    }

    /// Whether the step is one that takes nothing but memory; then it is done.
    fn done_in_memory(&mut self, op: &Op) -> io::Result<bool> {
        let Some(piece) = &mut self.piece else { return Ok(false) };
        let layer = layer(&self.disk)?;
        let guest = match &self.work {
            Work::Transfer { guest, .. } => Some(guest),
            _ => None,
        };
        match op {
            Op::Zero(range) => piece.at(range)?.fill(0),
            Op::Encrypt(range) => layer.cipher().encrypt(piece.at(range)?, range.start),
            Op::Decrypt(range) => layer.cipher().decrypt(piece.at(range)?, range.start),
            Op::FromGuest(range) => {
                guest.ok_or(io::ErrorKind::InvalidInput)?.read(range, piece.at(range)?)?
            }
            Op::ToGuest(range) => guest.ok_or(io::ErrorKind::InvalidInput)?.write(range, piece.at(range)?)?,
            Op::Mark(chunks, state) => layer.mark(chunks.clone(), *state),
            // Of a file that many share, by way of the page cache.
            Op::ReadBase(range) => layer.read_base(piece.at(range)?, range.start)?,
            Op::ReadOwn(_) | Op::WriteOwn(_) | Op::WriteMap(_) | Op::Sync => return Ok(false),
        }
        Ok(true)
    }

    /// The step as the kernel carries it out.
    fn step(&mut self, op: Op) -> io::Result<Next<'_>> {
        let layer = layer(&self.disk)?;
        let piece = self.piece.as_mut().ok_or(io::ErrorKind::InvalidInput)?;
        let moved = piece.moved;
        let (range, memory) = match &op {
            Op::ReadOwn(range) | Op::WriteOwn(range) => (range.clone(), piece.at(range)?),
            Op::WriteMap(number) => (layer.map_block(*number), piece.map_block(*number)?),
            _ => return Ok(Next::Step(Step::Sync)),
        };
        let rest = memory.get_mut(moved as usize..).unwrap_or_default();
        self.parts = [libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() }];
        let (parts, offset) = (self.parts.as_slice(), range.start + moved);
        Ok(Next::Step(match op {
            Op::ReadOwn(_) => Step::Read { parts, offset },
            _ => Step::Write { parts, offset },
        }))
    }
}

/// What was set aside for it is free again, and what it has not stored of the map is still to be.
impl Drop for LayeredIo {
    fn drop(&mut self) {
        if let Some(piece) = self.piece.take() {
            let missed: Vec<usize> = piece.changed.iter().flatten().map(|(number, _)| *number).collect();
            piece.give_back(&self.disk, &missed);
        }
    }
}

impl Piece {
    fn new(begun: Begun, end: u64) -> Self {
        let Begun { plan: Plan { span, ops, claims }, bounce } = begun;
        Self { ops: ops.into(), span, claims, bounce, moved: 0, end, changed: None }
    }

    fn flush((changed, bounce): (Changed, Bounce)) -> Self {
        let blocks = changed.iter().map(|(number, _)| Op::WriteMap(*number));
        let again = (!changed.is_empty()).then_some(Op::Sync);
        let ops = [Op::Sync].into_iter().chain(blocks).chain(again).collect();
        Self { ops, span: 0..0, claims: 0..0, bounce, moved: 0, end: 0, changed: Some(changed) }
    }

    fn give_back(self, disk: &Disk, missed: &[usize]) {
        let Some(layer) = disk.layer() else { return };
        match self.changed {
            Some(_) => layer.end_flush(missed.iter().copied(), self.bounce),
            None => layer.end(&self.claims, self.bounce),
        }
    }

    /// Where this part of the disk is in memory.
    fn at(&mut self, range: &Range<u64>) -> io::Result<&mut [u8]> {
        let from = range.start.saturating_sub(self.span.start) as usize;
        let to = range.end.saturating_sub(self.span.start) as usize;
        self.bounce.bytes().get_mut(from..to).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// A block of the map that is to be written.
    fn map_block(&mut self, number: usize) -> io::Result<&mut [u8]> {
        let mut blocks = self.changed.iter().flatten();
        let (_, block) = blocks.find(|(at, _)| *at == number).ok_or(io::ErrorKind::InvalidInput)?;
        let memory = self.bounce.bytes().get_mut(..MAP_BLOCK_BYTES as usize);
        let memory = memory.ok_or(io::ErrorKind::InvalidInput)?;
        memory.copy_from_slice(block);
        Ok(memory)
    }
}

impl Guest {
    /// Takes what belongs to this part of the disk.
    fn read(&self, range: &Range<u64>, into: &mut [u8]) -> io::Result<()> {
        let mut left = into;
        for (address, length) in self.parts(range) {
            let (part, rest) = left.split_at_mut(length.min(left.len()));
            self.memory.read_slice(part, address).map_err(io::Error::other)?;
            left = rest;
        }
        Ok(())
    }

    fn write(&self, range: &Range<u64>, from: &[u8]) -> io::Result<()> {
        let mut left = from;
        for (address, length) in self.parts(range) {
            let (part, rest) = left.split_at(length.min(left.len()));
            self.memory.write_slice(part, address).map_err(io::Error::other)?;
            left = rest;
        }
        Ok(())
    }

    /// The pieces of memory for this part of the disk.
    fn parts(&self, range: &Range<u64>) -> impl Iterator<Item = (GuestAddress, usize)> {
        let mut at = self.offset;
        let range = range.clone();
        self.segments.iter().filter_map(move |segment| {
            let here = at..at + u64::from(segment.length);
            at = here.end;
            let part = here.start.max(range.start)..here.end.min(range.end);
            let address = GuestAddress(segment.address.0 + part.start.saturating_sub(here.start));
            (part.start < part.end).then(|| (address, (part.end - part.start) as usize))
        })
    }
}

/// As much as is done at once, up to the end of a chunk where it does not end before.
fn first_piece(range: &Range<u64>) -> Range<u64> {
    let reach = (range.start + PIECE_BYTES) / CHUNK_BYTES * CHUNK_BYTES;
    range.start..range.end.min(reach)
}

fn bytes_moved(op: &Op) -> u64 {
    match op {
        Op::ReadOwn(range) | Op::WriteOwn(range) => range.end - range.start,
        Op::WriteMap(_) => MAP_BLOCK_BYTES,
        _ => 0,
    }
}

fn layer(disk: &Disk) -> io::Result<&Layer> {
    disk.layer().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
