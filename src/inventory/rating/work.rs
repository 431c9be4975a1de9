//! The work itself.

use std::hint::black_box;

/// Steps of a round.
pub const STEPS: u32 = 1 << 16;
/// 256 KiB: more than a first cache holds, and less than a second.
const TABLE: usize = 1 << 15;
/// An odd number whose bits are evenly spread (2^64 divided by the golden ratio).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

pub(super) struct Work {
    table: Vec<u64>,
    state: u64,
    sum: f64,
}

impl Default for Work {
    fn default() -> Self {
        let table = (1..=TABLE as u64).map(|number| number.wrapping_mul(MULTIPLIER)).collect();
        Self { table, state: 1, sum: 0.0 }
    }
}

impl Work {
    pub(super) fn round(&mut self) {
        for _ in 0..STEPS {
            self.step();
        }
        // Nothing of it may be left out.
        black_box((self.state, self.sum));
    }

    fn step(&mut self) {
        let mixed = self.state.wrapping_mul(MULTIPLIER);
        let at = (mixed >> 49) as usize % TABLE;
        let found = self.table[at];
        self.state = (mixed ^ (mixed >> 29)).wrapping_add(found);
        if self.state & 1 == 0 {
            self.table[at] = found.rotate_left(7) ^ self.state;
        } else {
            self.sum = self.sum * 0.5 + (self.state >> 40) as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_is_the_same_every_time() {
        let after = || {
            let mut work = Work::default();
            work.round();
            (work.state, work.sum.to_bits())
        };
        assert_eq!(after(), after());
        assert!(f64::from_bits(after().1).is_finite());
    }
}
