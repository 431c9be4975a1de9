//! A disk, the bounded cache before it, and ranges of it.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use thiserror::Error;

/// What disks are read in.
pub const SECTOR_BYTES: u64 = 512;
/// What the cache keeps, and reads at once where no more is asked for.
const CHUNK_BYTES: usize = 128 << 10;
/// 2 MiB in all.
const CHUNKS: usize = 16;
/// What is read at once where chunk follows chunk, as in a file that is read from one end to the other.
const WINDOW_BYTES: usize = 2 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DiskError {
    #[error("bytes {start:#x} to {end:#x} lie beyond its end")]
    Beyond { start: u64, end: u64 },
    #[error("the disk failed to read {bytes} bytes from {start:#x} on")]
    Failed { start: u64, bytes: usize },
}

/// Reads whole sectors.
pub trait Disk {
    /// A multiple of [`SECTOR_BYTES`].
    fn bytes(&self) -> u64;
    /// Fills `into` from byte `start` on; both are multiples of [`SECTOR_BYTES`], and all of it is on the disk.
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), DiskError>;
}

/// Part of a disk, or all of it: any bytes of it can be read. Clones share the cache.
#[derive(Clone)]
pub struct Volume {
    cache: Rc<RefCell<Cache>>,
    start: u64,
    bytes: u64,
}

impl Volume {
    /// All of a disk.
    pub fn whole(disk: Box<dyn Disk>) -> Self {
        let bytes = disk.bytes() / SECTOR_BYTES * SECTOR_BYTES;
        Self { cache: Rc::new(RefCell::new(Cache::new(disk, bytes))), start: 0, bytes }
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A range of this one; none where it is not all within.
    #[must_use]
    pub fn part(&self, start: u64, bytes: u64) -> Option<Self> {
        let end = start.checked_add(bytes)?;
        (end <= self.bytes).then(|| Self { cache: Rc::clone(&self.cache), start: self.start + start, bytes })
    }

    /// Fills `into` from byte `start` on.
    pub fn read(&self, start: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let end = start.saturating_add(into.len() as u64);
        if end > self.bytes {
            return Err(DiskError::Beyond { start, end });
        }
        self.cache.borrow_mut().read(self.start + start, into)
    }
}

struct Chunk {
    /// Where it is on the disk, in chunks.
    number: u64,
    bytes: Vec<u8>,
    /// When it was last looked at.
    used: u64,
}

struct Cache {
    disk: Box<dyn Disk>,
    disk_bytes: u64,
    chunks: Vec<Chunk>,
    now: u64,
    window: Window,
}

/// A range of the disk that was read ahead.
struct Window {
    /// A chunk's start; none where nothing was read, or not all of it.
    start: Option<u64>,
    bytes: Vec<u8>,
    /// Where the range would go on that was read last, there or in a chunk.
    next: u64,
}

impl Cache {
    fn new(disk: Box<dyn Disk>, disk_bytes: u64) -> Self {
        let window = Window { start: None, bytes: Vec::new(), next: u64::MAX };
        Self { disk, disk_bytes, chunks: Vec::new(), now: 0, window }
    }

    fn read(&mut self, mut start: u64, mut into: &mut [u8]) -> Result<(), DiskError> {
        while !into.is_empty() {
            let length = match start.is_multiple_of(CHUNK_BYTES as u64) && into.len() >= CHUNK_BYTES {
                true => self.read_past(start, into)?,
                false => self.read_kept(start, into)?,
            };
            into = &mut into[length..];
            start += length as u64;
        }
        Ok(())
    }

    /// Reads whole chunks straight to where they are wanted. How many bytes that were.
    fn read_past(&mut self, start: u64, into: &mut [u8]) -> Result<usize, DiskError> {
        let length = into.len() / CHUNK_BYTES * CHUNK_BYTES;
        self.disk.read(start, &mut into[..length]).map(|()| length)
    }

    /// Reads from window or chunks what can be had there at once. How many bytes that were.
    fn read_kept(&mut self, start: u64, into: &mut [u8]) -> Result<usize, DiskError> {
        let number = start / CHUNK_BYTES as u64;
        let chunk_start = number * CHUNK_BYTES as u64;
        let is_kept = self.chunks.iter().any(|chunk| chunk.number == number);
        if !is_kept && chunk_start == self.window.next {
            self.slide(chunk_start);
        }
        let (from, kept) = match self.window.start.and_then(|window| start.checked_sub(window)) {
            Some(within) if within < self.window.bytes.len() as u64 => (within, &self.window.bytes),
            _ => (start - chunk_start, self.chunk(number)?),
        };
        let kept = kept.get(usize::try_from(from).unwrap_or(usize::MAX)..).unwrap_or_default();
        let length = into.len().min(kept.len());
        into[..length].copy_from_slice(&kept[..length]);
        Ok(length)
    }

    /// Reads ahead from here. Where that fails it may be for what nobody asks for.
    fn slide(&mut self, start: u64) {
        let length = self.length(start, WINDOW_BYTES);
        self.window.bytes.resize(length, 0);
        let read = self.disk.read(start, &mut self.window.bytes);
        self.window.start = read.is_ok().then_some(start);
        self.window.next = start + length as u64;
    }

    fn chunk(&mut self, number: u64) -> Result<&Vec<u8>, DiskError> {
        self.now += 1;
        let at = match self.chunks.iter().position(|chunk| chunk.number == number) {
            Some(at) => at,
            None => self.fetch(number)?,
        };
        self.chunks[at].used = self.now;
        Ok(&self.chunks[at].bytes)
    }

    /// Reads a chunk into the place of the one that was not looked at for longest. Its place.
    fn fetch(&mut self, number: u64) -> Result<usize, DiskError> {
        let start = number * CHUNK_BYTES as u64;
        let length = self.length(start, CHUNK_BYTES);
        let at = self.place();
        let chunk = &mut self.chunks[at];
        // Until all of it has been read it is nobody's.
        chunk.number = u64::MAX;
        chunk.bytes.resize(length, 0);
        self.disk.read(start, &mut chunk.bytes)?;
        chunk.number = number;
        self.window.next = start + length as u64;
        Ok(at)
    }

    /// How much there is of so many bytes from `start` on.
    fn length(&self, start: u64, bytes: usize) -> usize {
        let left = self.disk_bytes.saturating_sub(start);
        usize::try_from(left).map_or(bytes, |left| left.min(bytes))
    }

    fn place(&mut self) -> usize {
        if self.chunks.len() < CHUNKS {
            self.chunks.push(Chunk { number: u64::MAX, bytes: Vec::new(), used: 0 });
            return self.chunks.len() - 1;
        }
        let oldest = self.chunks.iter().enumerate().min_by_key(|(_, chunk)| chunk.used);
        oldest.map_or(0, |(at, _)| at)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    /// A disk in memory.
    pub(crate) struct Bytes(pub(crate) Vec<u8>);

    impl Disk for Bytes {
        fn bytes(&self) -> u64 {
            self.0.len() as u64
        }

        fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), DiskError> {
            assert!(start.is_multiple_of(SECTOR_BYTES) && (into.len() as u64).is_multiple_of(SECTOR_BYTES));
            let start = usize::try_from(start).unwrap();
            into.copy_from_slice(&self.0[start..start + into.len()]);
            Ok(())
        }
    }

    pub(crate) fn volume(mut bytes: Vec<u8>) -> Volume {
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        Volume::whole(Box::new(Bytes(bytes)))
    }

    /// Twice as long as what the cache keeps.
    static DISK: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..8u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect());

    /// Fails at its second chunk.
    struct Broken;

    impl Disk for Broken {
        fn bytes(&self) -> u64 {
            4 * CHUNK_BYTES as u64
        }

        fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), DiskError> {
            match start {
                0 => Ok(()),
                _ => Err(DiskError::Failed { start, bytes: into.len() }),
            }
        }
    }

    #[test]
    fn what_fails_is_told_each_time_and_nothing_stale_is_given() {
        let volume = Volume::whole(Box::new(Broken));
        volume.read(5, &mut [0; 9]).unwrap();
        for _ in 0..2 {
            let error = volume.read(CHUNK_BYTES as u64, &mut [0; 9]).unwrap_err();
            assert_eq!(error, DiskError::Failed { start: CHUNK_BYTES as u64, bytes: CHUNK_BYTES });
        }
    }

    /// Counts what it is asked.
    struct Counted(Bytes, Rc<RefCell<u32>>);

    impl Disk for Counted {
        fn bytes(&self) -> u64 {
            self.0.bytes()
        }

        fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), DiskError> {
            *self.1.borrow_mut() += 1;
            self.0.read(start, into)
        }
    }

    #[test]
    fn what_is_read_from_end_to_end_is_read_ahead() {
        let asked = Rc::new(RefCell::new(0));
        let volume = Volume::whole(Box::new(Counted(Bytes(DISK.clone()), Rc::clone(&asked))));
        for (start, expected) in (0..).step_by(4096).zip(DISK.chunks(4096)) {
            let mut into = [0; 4096];
            volume.read(start, &mut into).unwrap();
            assert!(into == expected, "at {start}");
        }
        assert!(*asked.borrow() <= 5, "{} requests for 8 MiB", asked.borrow());
    }

    #[test]
    fn a_part_ends_where_it_ends() {
        let part = volume(vec![7; 4096]).part(512, 1024).unwrap();
        assert_eq!(part.read(1020, &mut [0; 5]), Err(DiskError::Beyond { start: 1020, end: 1025 }));
        assert!(part.read(u64::MAX, &mut [0; 5]).is_err());
        assert!(part.part(512, 513).is_none() && part.part(u64::MAX, 2).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_as_they_are(
            reads in proptest::collection::vec((0..7u64 << 20, 0..600usize << 10), 1..10),
        ) {
            let disk = &*DISK;
            let volume = volume(disk.clone());
            for (start, length) in reads {
                let mut into = vec![0; length];
                volume.read(start, &mut into).unwrap();
                let start = usize::try_from(start).unwrap();
                prop_assert!(into == disk[start..start + length]);
            }
        }
    }
}
