//! Something that can be started: a kernel, initrds and options, and where they are.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// A file of a volume, or part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Number of the volume among a disk's.
    pub volume: usize,
    pub path: String,
    /// Bytes of the file; all where it says nothing.
    pub range: Option<Range<u64>>,
}

impl Piece {
    #[must_use]
    pub fn whole(volume: usize, path: String) -> Self {
        Self { volume, path, range: None }
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.path)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub title: String,
    pub kernel: Piece,
    pub initrds: Vec<Piece>,
    pub options: String,
}
