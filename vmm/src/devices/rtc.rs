//! The clock that every PC has: an MC146818 that follows the host's clock, in UTC. Its time cannot be set, and it wakes
//! nobody. (Linux asks kvmclock for the time; others, and boot loaders, ask here.)

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{Timestamp, civil::DateTime, tz::Offset};

/// Registers (Motorola MC146818A, figure 5), and where PCs keep the century.
const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;

/// A time base of 32,768 Hz, and never in the middle of an update.
const A: u8 = 0x26;
/// 24 hours, in binary-coded decimals, no interrupts.
const B: u8 = 0x02;
/// The battery is fine.
const D: u8 = 0x80;
/// The bit above the index masks the non-maskable interrupt of PCs, which there is none of.
const INDEX: u8 = 0x7f;

/// The clock behind its two ports: one for the number of a register, one for its value.
#[derive(Debug, Default)]
pub struct Rtc(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    index: u8,
    /// What the registers show, all of one moment.
    shown: DateTime,
}

impl Rtc {
    pub fn write_index(&self, data: &[u8]) {
        if let [index] = data {
            self.lock().index = index & INDEX;
        }
    }

    pub fn read_value(&self, data: &mut [u8]) {
        if let [value] = data {
            *value = self.lock().read(|| Offset::UTC.to_datetime(Timestamp::now()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Time goes on for the reader when it looks at the seconds, or asks whether an update is under way; in between it
    /// reads one moment's registers.
    fn read(&mut self, now: impl FnOnce() -> DateTime) -> u8 {
        if matches!(self.index, SECONDS | STATUS_A) {
            self.shown = now();
        }
        match self.index {
            SECONDS => decimal(self.shown.second()),
            MINUTES => decimal(self.shown.minute()),
            HOURS => decimal(self.shown.hour()),
            WEEKDAY => decimal(self.shown.weekday().to_sunday_one_offset()),
            DAY => decimal(self.shown.day()),
            MONTH => decimal(self.shown.month()),
            YEAR => decimal((self.shown.year() % 100) as i8),
            CENTURY => decimal((self.shown.year() / 100) as i8),
            STATUS_A => A,
            STATUS_B => B,
            STATUS_D => D,
            _ => 0,
        }
    }
}

/// A number below 100, a digit in each half.
fn decimal(number: i8) -> u8 {
    let number = number.unsigned_abs();
    (number / 10) << 4 | (number % 10)
}

#[cfg(test)]
mod tests {
    use jiff::civil::datetime;

    use super::*;

    fn read(clock: &mut State, index: u8, now: DateTime) -> u8 {
        clock.index = index;
        clock.read(|| now)
    }

    #[test]
    fn registers_read_in_turn_are_of_one_moment() {
        let mut clock = State::default();
        let (old, new) = (datetime(1999, 12, 31, 23, 59, 59, 0), datetime(2000, 1, 1, 0, 0, 0, 0));
        assert_eq!(read(&mut clock, STATUS_A, old) & 0x80, 0);
        let rest = [MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY];
        let of = |clock: &mut State, now| rest.map(|index| read(clock, index, now));
        assert_eq!(of(&mut clock, new), [0x59, 0x23, 0x06, 0x31, 0x12, 0x99, 0x19]);
        assert_eq!(read(&mut clock, SECONDS, new), 0);
        assert_eq!(of(&mut clock, new), [0x00, 0x00, 0x07, 0x01, 0x01, 0x00, 0x20]);
    }

    #[test]
    fn an_access_of_another_width_says_nothing_and_changes_nothing() {
        let rtc = Rtc::default();
        rtc.write_index(&[STATUS_D | 0x80]);
        rtc.write_index(&[0, 0]);
        let (mut byte, mut word) = ([0xff], [0xff; 2]);
        rtc.read_value(&mut byte);
        rtc.read_value(&mut word);
        assert_eq!((byte, word), ([D], [0xff; 2]));
    }
}
