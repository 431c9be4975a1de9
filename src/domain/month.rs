//! A month by UTC: what statements are made of.

use std::{fmt, str::FromStr};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use thiserror::Error;

/// From its first moment up to that of the next, which is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Month {
    year: i16,
    month: i8,
    pub start: Timestamp,
    pub end: Timestamp,
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("a month is written like 2026-11, not {0:?}")]
pub struct NotAMonth(String);

impl FromStr for Month {
    type Err = NotAMonth;

    fn from_str(text: &str) -> Result<Self, NotAMonth> {
        let (year, month) = text
            .split_once('-')
            .filter(|(year, month)| year.len() == 4 && month.len() == 2)
            .ok_or_else(|| NotAMonth(text.to_owned()))?;
        let digits = year.chars().chain(month.chars()).all(|letter| letter.is_ascii_digit());
        let numbers = year.parse().ok().zip(month.parse().ok()).filter(|_| digits);
        numbers.and_then(|(year, month)| Self::new(year, month)).ok_or_else(|| NotAMonth(text.to_owned()))
    }
}

impl Month {
    fn new(year: i16, month: i8) -> Option<Self> {
        let first = Date::new(year, month, 1).ok()?;
        let next = first.last_of_month().tomorrow().ok()?;
        let moment = |date: Date| TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok();
        Some(Self { year, month, start: moment(first)?, end: moment(next)? })
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_ends_where_the_next_begins() {
        let month: Month = "2026-12".parse().unwrap();
        assert_eq!(month.start.to_string(), "2026-12-01T00:00:00Z");
        assert_eq!(month.end.to_string(), "2027-01-01T00:00:00Z");
        assert_eq!(month.end, "2027-01".parse::<Month>().unwrap().start);
        assert_eq!(month.to_string(), "2026-12");
    }

    #[test]
    fn only_a_month_is_one() {
        for wrong in ["", "2026", "2026-13", "2026-00", "2026-1", "26-11", "2026-11-01", "+026-11", "9999-12"]
        {
            assert_eq!(wrong.parse::<Month>(), Err(NotAMonth(wrong.to_owned())));
        }
    }
}
