//! One piece of work on a disk: what it still takes, step by step, whoever carries the steps out.

mod layered;
mod plain;

use std::{io, ops::Range, sync::Arc};

use self::{
    layered::{Guest, LayeredIo},
    plain::PlainIo,
};
use super::{
    buffers::{Buffers, Direction, Segment},
    disk::Disk,
};
use crate::memory::GuestMemory;

/// A piece of work. It owns what it touches, disk and memory, until it is dropped.
pub enum Io {
    Plain(PlainIo),
    Layered(Box<LayeredIo>),
}

/// What is to be done next, in one system call. Memory is the guest's, a buffer of the [`Io`]'s own, or zeroes to write; all
/// outlive the [`Io`].
#[derive(Clone, Copy)]
pub enum Step<'a> {
    Read {
        parts: &'a [libc::iovec],
        offset: u64,
    },
    Write {
        parts: &'a [libc::iovec],
        offset: u64,
    },
    /// Zeroes blocks and keeps them allocated.
    Zero {
        offset: u64,
        bytes: u64,
    },
    Sync,
}

/// What is next.
pub enum Next<'a> {
    Step(Step<'a>),
    /// Other work on the disk is to get on first, or more of what lies under it to arrive.
    Wait,
    Done,
}

impl Io {
    /// Reads from byte `offset` on into the guest's memory.
    pub fn read(
        disk: &Arc<Disk>,
        memory: &Arc<GuestMemory>,
        into: &[Segment],
        offset: u64,
    ) -> io::Result<Self> {
        Self::transfer(disk, Direction::In, memory, into, offset)
    }

    /// Writes what is in the guest's memory from byte `offset` on.
    pub fn write(
        disk: &Arc<Disk>,
        memory: &Arc<GuestMemory>,
        from: &[Segment],
        offset: u64,
    ) -> io::Result<Self> {
        refuse_read_only(disk)?;
        Self::transfer(disk, Direction::Out, memory, from, offset)
    }

    /// What is no memory, or not the disk's, is refused before anything is done.
    fn transfer(
        disk: &Arc<Disk>,
        direction: Direction,
        memory: &Arc<GuestMemory>,
        segments: &[Segment],
        offset: u64,
    ) -> io::Result<Self> {
        let buffers = Buffers::new(memory, segments, direction)?;
        if !disk.has(offset, buffers.bytes()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if disk.layer().is_none() {
            return PlainIo::transfer(disk, direction, buffers, offset).map(Self::Plain);
        }
        let guest = Guest { memory: memory.clone(), segments: segments.to_vec(), offset };
        Ok(Self::layered(LayeredIo::transfer(disk, direction, guest, buffers.bytes())))
    }

    /// Makes these bytes read as zeroes, whatever stood there.
    pub fn zero(disk: &Arc<Disk>, ranges: Vec<Range<u64>>) -> io::Result<Self> {
        let is_there = |range: &Range<u64>| {
            range.end.checked_sub(range.start).is_some_and(|bytes| disk.has(range.start, bytes))
        };
        refuse_read_only(disk)?;
        if !ranges.iter().all(is_there) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(match disk.layer() {
            None => Self::Plain(PlainIo::zero(disk, ranges)),
            Some(_) => Self::layered(LayeredIo::zero(disk, ranges)),
        })
    }

    /// Done once everything written before is on the disk.
    pub fn flush(disk: &Arc<Disk>) -> Self {
        match disk.layer() {
            None => Self::Plain(PlainIo::flush(disk)),
            Some(_) => Self::layered(LayeredIo::flush(disk)),
        }
    }

    fn layered(io: LayeredIo) -> Self {
        Self::Layered(Box::new(io))
    }

    /// The same, and done only once it is on the disk.
    pub fn and_flush(self) -> Self {
        match self {
            Self::Plain(io) => Self::Plain(io.and_flush()),
            Self::Layered(io) => Self::layered((*io).and_flush()),
        }
    }

    pub fn disk(&self) -> &Arc<Disk> {
        match self {
            Self::Plain(io) => io.disk(),
            Self::Layered(io) => io.disk(),
        }
    }

    /// What is to be done next. What it points to stays as it is until [`Self::advance`].
    pub fn next_step(&mut self) -> io::Result<Next<'_>> {
        match self {
            Self::Plain(io) => Ok(io.step().map_or(Next::Done, Next::Step)),
            Self::Layered(io) => io.next_step(),
        }
    }

    /// Takes in what became of the step: how many bytes were moved, for those that move any.
    pub fn advance(&mut self, result: io::Result<u64>) -> io::Result<()> {
        match self {
            Self::Plain(io) => io.advance(result),
            Self::Layered(io) => io.advance(result),
        }
    }
}

fn refuse_read_only(disk: &Disk) -> io::Result<()> {
    match disk.is_read_only() {
        true => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        false => Ok(()),
    }
}
