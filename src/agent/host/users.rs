//! User ids for VMMs: the machine of each partition is a user of its own, so that the kernel keeps them apart.

use std::ops::RangeInclusive;

use serde::Deserialize;
use thiserror::Error;

/// Below are the users that hosts make by themselves; above, ids that some programs take for negative numbers.
const ALLOWED: RangeInclusive<u32> = 1000..=i32::MAX as u32;
/// `nobody` stands for every id that cannot be named; 65535 is 16-bit programs' "none".
const NOBODY: RangeInclusive<u32> = 65_534..=65_535;

/// The ids that the owner leaves to VMMs, as user ids and as group ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    pub first: u32,
    pub count: u32,
}

/// Where hosts and their containers take no ids from (systemd, UIDS-GIDS.md: unused).
impl Default for Users {
    fn default() -> Self {
        Self { first: 0x7000_0000, count: 4096 }
    }
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadUsers {
    #[error("users: must be within {start} to {end} and without 65534 and 65535, is {first} and {count} in all", start = ALLOWED.start(), end = ALLOWED.end())]
    Range { first: u32, count: u32 },
    #[error("users: {id} is an account of this host, {name:?}; VMMs need ids that are nobody else's")]
    Account { id: u32, name: String },
}

/// Every id is some partition's.
#[derive(Debug, Error)]
#[error("each of the {0} user ids for VMMs is a partition's: give users.count more")]
pub struct NoUserLeft(u32);

impl Users {
    pub fn validate(&self) -> Result<(), BadUsers> {
        let Self { first, count } = *self;
        let last = first.checked_add(count).filter(|_| count > 0).map(|end| end - 1);
        let is_good = last.is_some_and(|last| {
            ALLOWED.contains(&first)
                && ALLOWED.contains(&last)
                && (last < *NOBODY.start() || first > *NOBODY.end())
        });
        if is_good { Ok(()) } else { Err(BadUsers::Range { first, count }) }
    }

    /// Compares with the host's accounts: `/etc/passwd` or `/etc/group`, which have the id in their third field.
    pub fn validate_against(&self, accounts: &str) -> Result<(), BadUsers> {
        let account = accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, id) = (fields.next()?, fields.nth(1)?.parse().ok()?);
            self.contains(id).then(|| BadUsers::Account { id, name: name.to_owned() })
        });
        account.map_or(Ok(()), Err)
    }

    /// One that no partition has.
    pub fn free(&self, taken: &[u32]) -> Result<u32, NoUserLeft> {
        let mut all = (0..self.count).map(|number| self.first + number);
        all.find(|user| !taken.contains(user)).ok_or(NoUserLeft(self.count))
    }

    pub fn contains(&self, id: u32) -> bool {
        self.number(id).is_some()
    }

    /// Which of them this is, from 0 on.
    pub fn number(&self, id: u32) -> Option<u32> {
        id.checked_sub(self.first).filter(|number| *number < self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_partitions_are_the_same_user() {
        let users = Users { first: 5000, count: 3 };
        assert_eq!(users.free(&[]).unwrap(), 5000);
        assert_eq!(users.free(&[5001, 5000]).unwrap(), 5002);
        assert_eq!(users.free(&[5000, 5002, 9]).unwrap(), 5001);
        assert!(users.free(&[5000, 5001, 5002]).unwrap_err().to_string().contains("each of the 3"));
    }

    #[test]
    fn ids_that_are_somebody_elses_are_refused() {
        assert_eq!(Users::default().validate(), Ok(()));
        for (first, count) in
            [(0, 10), (999, 2), (65_000, 1000), (65_535, 1), (i32::MAX as u32, 2), (u32::MAX, 2), (5000, 0)]
        {
            assert_eq!(Users { first, count }.validate(), Err(BadUsers::Range { first, count }));
        }
    }

    #[test]
    fn an_account_within_the_range_is_named() {
        let users = Users { first: 5000, count: 10 };
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\nalice:x:5010:1::/:/bin/sh\n";
        assert_eq!(users.validate_against(passwd), Ok(()));
        let found = users.validate_against(&format!("{passwd}bob:x:5009:1::/:/bin/sh\n"));
        assert_eq!(found, Err(BadUsers::Account { id: 5009, name: "bob".to_owned() }));
    }
}
