//! One stream's output, kept until the host acknowledges it.

use std::collections::VecDeque;

use sublet_guest_protocol::{OUTPUT_CHUNK_LIMIT, UNACKNOWLEDGED_LIMIT};
use thiserror::Error;

/// Offsets count the stream's bytes from its beginning: `first <= sent <= end`.
#[derive(Debug, Default)]
pub struct Output {
    /// Offset of the first byte still held.
    first: u64,
    /// Offset of the next byte to send on this connection.
    sent: u64,
    held: VecDeque<u8>,
}

/// The host names an offset beyond what the job has written.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("it names byte {offset} of a stream that has {end}")]
pub struct BeyondEnd {
    pub offset: u64,
    pub end: u64,
}

impl Output {
    /// Offset of the first byte that can still be sent.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Bytes the job has written so far.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + self.held.len() as u64
    }

    /// Bytes that may be added before the host has to acknowledge some.
    #[must_use]
    pub fn room(&self) -> usize {
        UNACKNOWLEDGED_LIMIT.saturating_sub(self.held.len())
    }

    pub fn push(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.room());
        self.held.extend(bytes);
    }

    /// The host holds everything before `offset`; an offset acknowledged before changes nothing.
    pub fn acknowledge(&mut self, offset: u64) -> Result<(), BeyondEnd> {
        if offset > self.end() {
            return Err(BeyondEnd { offset, end: self.end() });
        }
        let done = offset.saturating_sub(self.first);
        self.held.drain(..usize::try_from(done).unwrap_or(usize::MAX).min(self.held.len()));
        self.first += done;
        self.sent = self.sent.max(self.first);
        Ok(())
    }

    /// On a new connection, sending begins anew with the first byte the host has not acknowledged.
    pub fn rewind(&mut self) {
        self.sent = self.first;
    }

    /// The next bytes to send and the offset of the first, counted as sent from now on.
    pub fn next_chunk(&mut self) -> Option<(u64, Vec<u8>)> {
        let skipped = usize::try_from(self.sent - self.first).ok()?;
        let bytes: Vec<u8> = self.held.iter().skip(skipped).take(OUTPUT_CHUNK_LIMIT).copied().collect();
        if bytes.is_empty() {
            return None;
        }
        let offset = self.sent;
        self.sent += bytes.len() as u64;
        Some((offset, bytes))
    }
}

#[cfg(test)]
mod tests;
