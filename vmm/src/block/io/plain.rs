//! Work on a disk whose blocks are its file's: bytes go straight between the file and the guest's memory.

use std::{io, ops::Range, sync::Arc};

use super::Step;
use crate::block::{
    buffers::{Buffers, Direction},
    disk::Disk,
};

/// Bytes of zeroes that there are to write from.
const ZEROES_BYTES: usize = 64 << 10;
/// Parts of one write of zeroes.
const ZEROES_PARTS: usize = 64;

/// Page-aligned, so that it can be written past the page cache.
#[repr(C, align(4096))]
struct Zeroes([u8; ZEROES_BYTES]);

static ZEROES: Zeroes = Zeroes([0; ZEROES_BYTES]);

/// A piece of work. It owns what it touches, disk and memory, until it is dropped.
pub struct PlainIo {
    disk: Arc<Disk>,
    work: Work,
    /// Everything written is to be on the disk before this counts as done.
    sync_after: bool,
}

enum Work {
    Transfer {
        direction: Direction,
        buffers: Buffers,
        offset: u64,
    },
    /// The last range is the next.
    Zero {
        ranges: Vec<Range<u64>>,
        zeroes: Vec<libc::iovec>,
    },
    Sync,
    Done,
}

impl PlainIo {
    /// Moves bytes, which are the disk's from byte `offset` on, to or from the guest's memory.
    pub fn transfer(
        disk: &Arc<Disk>,
        direction: Direction,
        buffers: Buffers,
        offset: u64,
    ) -> io::Result<Self> {
        if !buffers.are_aligned(disk.shape().memory_alignment as usize) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self::new(disk, Work::Transfer { direction, buffers, offset }))
    }

    /// Makes these bytes, which are the disk's, read as zeroes, whatever stood there.
    pub fn zero(disk: &Arc<Disk>, mut ranges: Vec<Range<u64>>) -> Self {
        ranges.retain(|range| !range.is_empty());
        ranges.reverse();
        Self::new(disk, Work::Zero { ranges, zeroes: vec![] })
    }

    /// Done once everything written before is on the disk.
    pub fn flush(disk: &Arc<Disk>) -> Self {
        Self::new(disk, Work::Sync)
    }

    /// The same, and done only once it is on the disk.
    pub fn and_flush(self) -> Self {
        Self { sync_after: true, ..self }
    }

    fn new(disk: &Arc<Disk>, work: Work) -> Self {
        Self { disk: disk.clone(), work, sync_after: false }.settled()
    }

    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// What is to be done next; nothing if all is done.
    pub fn step(&self) -> Option<Step<'_>> {
        match &self.work {
            Work::Transfer { direction: Direction::In, buffers, offset } => {
                Some(Step::Read { parts: buffers.parts(), offset: *offset })
            }
            Work::Transfer { direction: Direction::Out, buffers, offset } => {
                Some(Step::Write { parts: buffers.parts(), offset: *offset })
            }
            Work::Zero { ranges, zeroes } => ranges.last().map(|range| match zeroes.as_slice() {
                [] => Step::Zero { offset: range.start, bytes: range.end - range.start },
                parts => Step::Write { parts, offset: range.start },
            }),
            Work::Sync => Some(Step::Sync),
            Work::Done => None,
        }
    }

    /// Takes in what became of the step: how many bytes were moved, for those that move any.
    pub fn advance(&mut self, result: io::Result<u64>) -> io::Result<()> {
        let done = match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) if self.can_write_zeroes_instead(&error) => {
                self.disk.learn_that_it_lacks_zeroing();
                0
            }
            result => result?,
        };
        self.take(done)?;
        self.settle();
        Ok(())
    }

    fn take(&mut self, done: u64) -> io::Result<()> {
        match &mut self.work {
            Work::Transfer { buffers, offset, .. } => {
                buffers.advance(some(done)?);
                *offset += done;
            }
            Work::Zero { ranges, zeroes } if zeroes.is_empty() => {
                // If it was refused, it is still to be done, by writing.
                ranges.pop_if(|_| !self.disk.lacks_zeroing());
            }
            Work::Zero { ranges, .. } => {
                let done = some(done)?;
                ranges.last_mut().into_iter().for_each(|range| range.start += done);
            }
            Work::Sync => self.work = Work::Done,
            Work::Done => {}
        }
        Ok(())
    }

    fn settled(mut self) -> Self {
        self.settle();
        self
    }

    /// Goes on to what comes after work that has nothing left to do.
    fn settle(&mut self) {
        let is_done = match &mut self.work {
            Work::Transfer { buffers, .. } => buffers.bytes() == 0,
            Work::Zero { ranges, zeroes } => {
                while ranges.pop_if(|range| range.is_empty()).is_some() {}
                match ranges.last() {
                    Some(range) if self.disk.lacks_zeroing() => fill(zeroes, range.end - range.start),
                    _ => {}
                }
                ranges.is_empty()
            }
            Work::Sync | Work::Done => false,
        };
        if is_done {
            self.work = if self.sync_after { Work::Sync } else { Work::Done };
        }
    }

    fn can_write_zeroes_instead(&self, error: &io::Error) -> bool {
        let is_unsupported = matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS));
        is_unsupported && matches!(&self.work, Work::Zero { zeroes, .. } if zeroes.is_empty())
    }
}

/// A transfer that moves nothing would go on for ever: the file has been cut short.
fn some(done: u64) -> io::Result<u64> {
    if done == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(done) }
}

/// Makes parts of that many bytes of zeroes, or of as many as one write takes.
fn fill(parts: &mut Vec<libc::iovec>, mut bytes: u64) {
    parts.clear();
    while bytes > 0 && parts.len() < ZEROES_PARTS {
        let length = bytes.min(ZEROES_BYTES as u64);
        let base = (&raw const ZEROES).cast_mut().cast();
        parts.push(libc::iovec { iov_base: base, iov_len: length as usize });
        bytes -= length;
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use sublet_vmm_protocol::DiskConfig;
    use vm_memory::GuestAddress;

    use super::*;
    use crate::{block::buffers::Segment, memory::GuestMemory};

    const DISK_BYTES: u64 = 64 << 20;

    fn disk() -> Arc<Disk> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(DISK_BYTES).unwrap();
        Arc::new(Disk::open(&DiskConfig::new(file.path()), &[]).unwrap())
    }

    fn memory() -> Arc<GuestMemory> {
        Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap())
    }

    fn moving(direction: Direction, disk: &Arc<Disk>, segments: &[Segment], offset: u64) -> PlainIo {
        let buffers = Buffers::new(&memory(), segments, direction).unwrap();
        PlainIo::transfer(disk, direction, buffers, offset).unwrap()
    }

    fn unsupported() -> io::Result<u64> {
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }

    /// Where the next step begins and how many bytes it is for.
    fn next(io: &PlainIo) -> Option<(u64, u64)> {
        let bytes = |parts: &[libc::iovec]| parts.iter().map(|part| part.iov_len as u64).sum();
        match io.step()? {
            Step::Read { parts, offset, .. } | Step::Write { parts, offset } => Some((offset, bytes(parts))),
            Step::Zero { offset, bytes } => Some((offset, bytes)),
            Step::Sync => Some((0, 0)),
        }
    }

    #[test]
    fn what_was_interrupted_is_done_again() {
        let mut io = PlainIo::flush(&disk());
        io.advance(Err(io::ErrorKind::Interrupted.into())).unwrap();
        assert!(matches!(io.step(), Some(Step::Sync)));
        io.advance(Ok(0)).unwrap();
        assert!(io.step().is_none());
    }

    #[test]
    fn nothing_to_move_is_done_at_once() {
        let disk = disk();
        assert!(moving(Direction::In, &disk, &[], DISK_BYTES).step().is_none());
        assert!(moving(Direction::Out, &disk, &[], 0).and_flush().step().is_none());
        assert!(PlainIo::zero(&disk, vec![]).step().is_none());
    }

    #[test]
    fn what_is_to_be_kept_is_done_only_when_it_has_been_flushed() {
        let segment = Segment { address: GuestAddress(0), length: 512 };
        let mut io = moving(Direction::Out, &disk(), &[segment], 0).and_flush();
        io.advance(Ok(512)).unwrap();
        assert!(matches!(io.step(), Some(Step::Sync)));
        io.advance(Ok(0)).unwrap();
        assert!(io.step().is_none());
    }

    #[test]
    fn where_a_range_cannot_be_zeroed_zeroes_are_written_and_that_is_remembered() {
        let disk = disk();
        let ranges = || vec![0..512, 4096..DISK_BYTES];
        let mut io = PlainIo::zero(&disk, ranges());
        assert!(matches!(io.step(), Some(Step::Zero { offset: 0, bytes: 512 })));
        io.advance(Ok(0)).unwrap();
        io.advance(unsupported()).unwrap();
        assert!(disk.lacks_zeroing() && disk.is_zeroed_by_writing());
        let mut written = 0;
        while let Some(Step::Write { parts, offset }) = io.step() {
            assert_eq!(offset, 4096 + written);
            let bytes: usize = parts.iter().map(|part| part.iov_len).sum();
            written += bytes as u64;
            io.advance(Ok(bytes as u64)).unwrap();
        }
        assert_eq!(written, DISK_BYTES - 4096);
        assert!(matches!(PlainIo::zero(&disk, ranges()).step(), Some(Step::Write { .. })));
        assert!(PlainIo::zero(&disk, ranges()).advance(unsupported()).is_err());
    }

    proptest! {
        #[test]
        fn however_short_the_transfers_every_byte_is_moved_once_and_in_order(
            lengths in vec(0u32..2048, 1..6),
            cuts in vec(1u64..1500, 30),
        ) {
            let segments: Vec<_> =
                lengths.iter().map(|length| Segment { address: GuestAddress(0), length: length * 512 }).collect();
            let whole: u64 = segments.iter().map(|segment| u64::from(segment.length)).sum();
            let mut io = moving(Direction::In, &disk(), &segments, 1024);
            let mut moved = 0;
            let mut cuts = cuts.into_iter();
            while let Some((offset, bytes)) = next(&io) {
                prop_assert_eq!((offset, bytes), (1024 + moved, whole - moved));
                let done = cuts.next().unwrap_or(u64::MAX).min(bytes);
                io.advance(Ok(done)).unwrap();
                moved += done;
            }
            prop_assert_eq!(moved, whole);
        }
    }
}
