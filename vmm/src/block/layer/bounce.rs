//! Buffers in which bytes are on their way between the guest's memory, in the clear, and the disk, encrypted. There are few,
//! made beforehand: a guest cannot have the host hold more memory than that.

use std::fmt;

use sublet_vmm_protocol::config::MAP_BLOCK_BYTES;

use super::plan::SPAN_BYTES;

/// How many pieces of work can be on their way at once.
pub const BOUNCES: usize = 16;

/// As long as a plan's span can be, and aligned as disks past the page cache take it.
pub struct Bounce {
    /// Longer than the buffer, which begins at `from`.
    room: Vec<u8>,
    from: usize,
}

impl fmt::Debug for Bounce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bounce(…)")
    }
}

impl Default for Bounce {
    fn default() -> Self {
        let alignment = MAP_BLOCK_BYTES as usize;
        let room = vec![0; SPAN_BYTES as usize + alignment];
        let from = room.as_ptr().align_offset(alignment);
        Self { room, from }
    }
}

impl Bounce {
    pub fn bytes(&mut self) -> &mut [u8] {
        self.room.get_mut(self.from..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_holds_any_span() {
        let mut bounce = Bounce::default();
        assert!(bounce.bytes().as_ptr().addr().is_multiple_of(4096));
        assert!(bounce.bytes().len() as u64 >= SPAN_BYTES);
    }
}
