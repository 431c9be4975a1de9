//! What part of a blob is asked for (RFC 9110, 14).

use std::ops::Range;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    Whole,
    Part(Range<u64>),
    /// Nothing of it is there.
    Unsatisfiable,
}

impl Wanted {
    /// Reads a `Range` header, for a blob of so many bytes. What cannot be read, or asks for several parts, is passed over, as
    /// the standard allows.
    pub(super) fn read(header: Option<&str>, bytes: u64) -> Self {
        let Some(range) = header.and_then(|header| header.strip_prefix("bytes=")).map(str::trim) else {
            return Self::Whole;
        };
        let number = |digits: &str| {
            let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
            // A number that is too large to be one is beyond the end of any blob.
            is_number.then(|| digits.parse().unwrap_or(u64::MAX))
        };
        match range.split_once('-') {
            Some(("", last)) => match number(last) {
                Some(0) => Self::Unsatisfiable,
                Some(last) => Self::part(bytes.saturating_sub(last), bytes, bytes),
                None => Self::Whole,
            },
            Some((first, "")) => number(first).map_or(Self::Whole, |first| Self::part(first, bytes, bytes)),
            Some((first, last)) => match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => {
                    Self::part(first, last.saturating_add(1).min(bytes), bytes)
                }
                _ => Self::Whole,
            },
            None => Self::Whole,
        }
    }

    fn part(start: u64, end: u64, bytes: u64) -> Self {
        if start < bytes { Self::Part(start..end) } else { Self::Unsatisfiable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_with_their_ends_and_suffixes() {
        let read = |header| Wanted::read(Some(header), 100);
        assert_eq!(read("bytes=0-0"), Wanted::Part(0..1));
        assert_eq!(read("bytes=10-19"), Wanted::Part(10..20));
        assert_eq!(read("bytes=10-"), Wanted::Part(10..100));
        assert_eq!(read("bytes=90-1000"), Wanted::Part(90..100));
        assert_eq!(read("bytes=0-99999999999999999999999"), Wanted::Part(0..100));
        assert_eq!(read("bytes=-1"), Wanted::Part(99..100));
        assert_eq!(read("bytes=-1000"), Wanted::Part(0..100));
    }

    #[test]
    fn a_part_beyond_the_end_cannot_be_had() {
        for header in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(Wanted::read(Some(header), 100), Wanted::Unsatisfiable, "{header}");
        }
        assert_eq!(Wanted::read(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
        assert_eq!(Wanted::read(Some("bytes=-5"), 0), Wanted::Unsatisfiable);
    }

    #[test]
    fn what_cannot_be_read_or_asks_for_several_parts_is_passed_over() {
        assert_eq!(Wanted::read(None, 100), Wanted::Whole);
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=0-1,3-4",
            "bytes=+1-2",
            "bytes= 1 - 2",
            "chunks=0-1",
            "bytes=1--2",
        ] {
            assert_eq!(Wanted::read(Some(header), 100), Wanted::Whole, "{header}");
        }
    }
}
