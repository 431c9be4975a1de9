//! Pieces of the guest's memory that the kernel is to fill or to take from.

use std::{io, sync::Arc};

use vm_memory::{GuestAddress, GuestMemory as _, Permissions};

use crate::memory::GuestMemory;

/// A piece of the guest's memory, as a descriptor names it: not checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub address: GuestAddress,
    pub length: u32,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the disk into the guest's memory.
    In,
    Out,
}

/// Checked pieces of the guest's memory, less what has been moved already. They keep the whole memory mapped.
pub struct Buffers {
    parts: Vec<libc::iovec>,
    /// Parts before this one have been moved.
    next: usize,
    bytes: u64,
    _memory: Arc<GuestMemory>,
}

impl Buffers {
    /// The pieces that the segments name; an error if any of it is not memory.
    pub fn new(memory: &Arc<GuestMemory>, segments: &[Segment], direction: Direction) -> io::Result<Self> {
        let access = match direction {
            Direction::In => Permissions::Write,
            Direction::Out => Permissions::Read,
        };
        let mut parts = Vec::with_capacity(segments.len());
        for segment in segments.iter().filter(|segment| segment.length > 0) {
            let pieces = memory.get_slices(segment.address, segment.length as usize, access);
            for piece in pieces.map_err(io::Error::other)? {
                let piece = piece.map_err(io::Error::other)?;
                let base = piece.ptr_guard_mut().as_ptr().cast();
                parts.push(libc::iovec { iov_base: base, iov_len: piece.len() });
            }
        }
        let bytes = parts.iter().map(|part| part.iov_len as u64).sum();
        Ok(Self { parts, next: 0, bytes, _memory: memory.clone() })
    }

    /// Bytes still to move.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is still to move. It lies in the guest's memory, which is mapped for as long as `self` lives.
    pub fn parts(&self) -> &[libc::iovec] {
        self.parts.get(self.next..).unwrap_or_default()
    }

    /// Whether address and length of every piece are multiples of `alignment`.
    pub fn are_aligned(&self, alignment: usize) -> bool {
        let is_aligned = |number: usize| number.is_multiple_of(alignment);
        self.parts().iter().all(|part| is_aligned(part.iov_base.addr()) && is_aligned(part.iov_len))
    }

    /// The first `done` bytes have been moved.
    pub fn advance(&mut self, mut done: u64) {
        self.bytes = self.bytes.saturating_sub(done);
        while let Some(part) = self.parts.get_mut(self.next) {
            let step = done.min(part.iov_len as u64) as usize;
            part.iov_base = part.iov_base.wrapping_byte_add(step);
            part.iov_len -= step;
            done -= step as u64;
            if part.iov_len > 0 {
                return;
            }
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn memory() -> Arc<GuestMemory> {
        let ranges = [(GuestAddress(0), 0x4000), (GuestAddress(0x4000), 0x4000)];
        Arc::new(GuestMemory::from_ranges(&ranges).unwrap())
    }

    fn segment(address: u64, length: u32) -> Segment {
        Segment { address: GuestAddress(address), length }
    }

    fn lengths(buffers: &Buffers) -> Vec<usize> {
        buffers.parts().iter().map(|part| part.iov_len).collect()
    }

    #[test]
    fn a_piece_across_two_regions_is_two_parts() {
        let segments = [segment(0x3f00, 0x200), segment(0, 0), segment(0x7000, 1)];
        let buffers = Buffers::new(&memory(), &segments, Direction::In).unwrap();
        assert_eq!((lengths(&buffers), buffers.bytes()), (vec![0x100, 0x100, 1], 0x201));
    }

    #[test]
    fn what_is_not_memory_is_refused() {
        for bad in [segment(0x8000, 512), segment(0x7f00, 512), segment(u64::MAX - 4, 512)] {
            assert!(Buffers::new(&memory(), &[segment(0, 8), bad], Direction::Out).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pieces_that_the_device_cannot_take_whole_are_found() {
        let aligned = [segment(0x200, 0x400)];
        assert!(Buffers::new(&memory(), &aligned, Direction::In).unwrap().are_aligned(512));
        for segments in [[segment(0x201, 0x400)], [segment(0x200, 0x401)]] {
            assert!(!Buffers::new(&memory(), &segments, Direction::In).unwrap().are_aligned(512));
        }
    }

    proptest! {
        #[test]
        fn whatever_was_moved_the_rest_is_left(lengths_in in prop::collection::vec(0u32..9, 0..6), done in 0u64..60) {
            let segments: Vec<_> = lengths_in.iter().map(|length| segment(0x100, *length)).collect();
            let mut buffers = Buffers::new(&memory(), &segments, Direction::Out).unwrap();
            let whole = buffers.bytes();
            buffers.advance(done);
            prop_assert_eq!(buffers.bytes(), whole.saturating_sub(done));
            prop_assert_eq!(lengths(&buffers).iter().sum::<usize>() as u64, buffers.bytes());
            prop_assert!(lengths(&buffers).iter().all(|length| *length > 0));
        }
    }
}
