//! A lease: one lending contract, from the moment it was made to the row in the ledger.
//!
//! ```text
//!          Return, EndedAtHost, Expire                Settle
//! Active ──────────────────────────────▶ Ended{end} ──────────▶ Settled{end}
//! ```
//!
//! It runs over `[started_at, expires_at)`. Whatever arrives at or after `expires_at` finds it expired, at
//! `expires_at`: a late word never makes it longer, and never cheaper.

use std::{fmt, str::FromStr, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest lease: 365 days.
pub const DURATION_MAX_SECONDS: u64 = 365 * 24 * 3600;

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    Returned,
    Expired,
    Recalled,
    HostLost,
    BudgetSpent,
}

impl EndReason {
    pub const ALL: [Self; 5] =
        [Self::Returned, Self::Expired, Self::Recalled, Self::HostLost, Self::BudgetSpent];

    /// As it is written on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Returned => "returned",
            Self::Expired => "expired",
            Self::Recalled => "recalled",
            Self::HostLost => "host_lost",
            Self::BudgetSpent => "budget_spent",
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("no lease ends for the reason {0:?}")]
pub struct NotAnEndReason(String);

impl FromStr for EndReason {
    type Err = NotAnEndReason;

    fn from_str(text: &str) -> Result<Self, NotAnEndReason> {
        let reason = Self::ALL.into_iter().find(|reason| reason.as_str() == text);
        reason.ok_or_else(|| NotAnEndReason(text.to_owned()))
    }
}

/// When and why a lease ended; billing covers all before `at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub at: Timestamp,
    pub reason: EndReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    Active,
    Ended(End),
    Settled(End),
}

/// A lease's course in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseCourse {
    pub started_at: Timestamp,
    pub expires_at: Timestamp,
    pub state: LeaseState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEvent {
    /// The borrower gives the partition back (S58).
    Return,
    /// The host says that it has ended there.
    EndedAtHost(EndReason),
    /// Its time may have come.
    Expire,
    /// Its row goes into the ledger.
    Settle,
}

/// What a transition asks of the registry, in the transaction that stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEffect {
    /// The partition is lent no more and waits for its host to clean it.
    AwaitClean,
    Settle,
    WriteLedgerRow(End),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseTransition {
    pub course: LeaseCourse,
    pub effects: Vec<LeaseEffect>,
}

/// Why an event does not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LeaseNotAllowed {
    #[error("the lease runs until {until}")]
    NotExpired { until: Timestamp },
    #[error("the lease ended at {} ({})", .0.at, .0.reason)]
    HasEnded(End),
    #[error("the lease has not ended yet")]
    StillActive,
    #[error("the lease is settled already")]
    IsSettled,
}

impl LeaseCourse {
    /// The lease is made (S45).
    pub fn begin(now: Timestamp, duration: Duration) -> Result<Self, jiff::Error> {
        let expires_at = now.checked_add(duration)?;
        Ok(Self { started_at: now, expires_at, state: LeaseState::Active })
    }

    pub fn apply(self, event: LeaseEvent, now: Timestamp) -> Result<LeaseTransition, LeaseNotAllowed> {
        use LeaseEvent::{EndedAtHost, Expire, Return, Settle};
        use LeaseState::{Active, Ended, Settled};
        match (self.state, event) {
            (Active, Return) => Ok(self.ended(now, EndReason::Returned)),
            (Active, EndedAtHost(reason)) => Ok(self.ended(now, reason)),
            (Active, Expire) if now < self.expires_at => {
                Err(LeaseNotAllowed::NotExpired { until: self.expires_at })
            }
            (Active, Expire) => Ok(self.ended(now, EndReason::Expired)),
            (Active, Settle) => Err(LeaseNotAllowed::StillActive),
            (Ended(end), Settle) => Ok(self.to(Settled(end), vec![LeaseEffect::WriteLedgerRow(end)])),
            (Settled(_), Settle) => Err(LeaseNotAllowed::IsSettled),
            (Ended(end) | Settled(end), Return | EndedAtHost(_) | Expire) => {
                Err(LeaseNotAllowed::HasEnded(end))
            }
        }
    }

    fn ended(self, now: Timestamp, reason: EndReason) -> LeaseTransition {
        let end = if now >= self.expires_at {
            End { at: self.expires_at, reason: EndReason::Expired }
        } else {
            // A clock set back never bills less than nothing.
            End { at: now.max(self.started_at), reason }
        };
        self.to(LeaseState::Ended(end), vec![LeaseEffect::AwaitClean, LeaseEffect::Settle])
    }

    fn to(self, state: LeaseState, effects: Vec<LeaseEffect>) -> LeaseTransition {
        LeaseTransition { course: Self { state, ..self }, effects }
    }

    pub fn end(&self) -> Option<End> {
        match self.state {
            LeaseState::Active => None,
            LeaseState::Ended(end) | LeaseState::Settled(end) => Some(end),
        }
    }
}

#[cfg(test)]
mod tests;
