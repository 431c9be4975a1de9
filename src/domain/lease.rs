//! A lease: one lending contract, from the moment it was made to the row in the ledger.
//!
//! ```text
//!   ┌─ Renew, Recall
//!   ▼ │       Return, EndedAtHost, Expire, Lost                Settle
//! Active ──────────────────────────────────────▶ Ended{end} ──────────▶ Settled{end}
//! ```
//!
//! It runs over `[started_at, planned_end)`. The planned end is the soonest of three moments, each of which is known
//! beforehand: the time that was asked for is over (`expired`), the budget is spent (`budget_spent`), the notice of a
//! recall is over (`recalled`). Whatever arrives at or after it finds the lease ended at it: a late word never makes a
//! lease longer, and never cheaper. A lost host's lease ends at the last moment that the host confirmed.

use std::{fmt, str::FromStr, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::partition::HostEnd;

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

/// When and why a lease ends; billing covers all before `at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub at: Timestamp,
    pub reason: EndReason,
}

/// The lender wants its partition back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Recall {
    /// When the lender said so.
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub asked_at: Timestamp,
    /// When the notice that the terms state is over.
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub until: Timestamp,
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
    /// When the time that was asked for is over.
    pub asked_until: Timestamp,
    /// The first moment that the budget does not pay; none: there is no budget, or it is never spent.
    pub paid_until: Option<Timestamp>,
    pub recall: Option<Recall>,
    pub state: LeaseState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEvent {
    /// The borrower gives the partition back (S58).
    Return,
    /// The host says that it has ended there; until `confirmed_at` it had said that it lived.
    EndedAtHost { how: HostEnd, confirmed_at: Timestamp },
    /// Its time may have come.
    Expire,
    /// The host was lost; until `confirmed_at` it said that it lived.
    Lost { confirmed_at: Timestamp },
    /// The borrower wants it longer: until when, and until when its budget pays then.
    Renew { asked_until: Timestamp, paid_until: Option<Timestamp> },
    /// The lender wants the partition back, after the notice that the terms state; none: they state none.
    Recall { notice: Option<Duration> },
    /// Its row goes into the ledger.
    Settle,
}

/// What a transition asks of the registry, in the transaction that stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEffect {
    /// It is otherwise than before: its host and its borrower are to learn it.
    Tell,
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
    #[error("the lender has recalled the partition: the lease ends at {until} and is not renewed")]
    IsRecalled { until: Timestamp },
    #[error("a renewal makes no lease shorter: it was asked for until {until} already")]
    Shorter { until: Timestamp },
    #[error("a renewal makes no budget smaller")]
    SmallerBudget,
    #[error("the terms that were accepted know no recall")]
    NoRecall,
}

impl LeaseCourse {
    /// The lease is made (S45); `paid` is how long its budget lasts.
    pub fn begin(now: Timestamp, duration: Duration, paid: Option<Duration>) -> Result<Self, jiff::Error> {
        Ok(Self {
            started_at: now,
            asked_until: now.checked_add(duration)?,
            paid_until: paid_until(now, paid),
            recall: None,
            state: LeaseState::Active,
        })
    }

    /// When the lease ends if nobody ends it sooner, and why then.
    pub fn planned_end(&self) -> End {
        let end = |at, reason| End { at, reason };
        let others = [
            self.paid_until.map(|at| end(at, EndReason::BudgetSpent)),
            self.recall.map(|recall| end(recall.until, EndReason::Recalled)),
        ];
        let asked = end(self.asked_until, EndReason::Expired);
        // Of those at one moment the first counts.
        others.into_iter().flatten().fold(
            asked,
            |soonest, other| {
                if other.at < soonest.at { other } else { soonest }
            },
        )
    }

    pub fn apply(self, event: LeaseEvent, now: Timestamp) -> Result<LeaseTransition, LeaseNotAllowed> {
        use LeaseEvent::{EndedAtHost, Expire, Lost, Recall, Renew, Return, Settle};
        use LeaseState::{Active, Ended, Settled};
        match (self.state, event) {
            (Active, Return) => Ok(self.ended(now, EndReason::Returned)),
            (Active, EndedAtHost { how: HostEnd::Returned, .. }) => Ok(self.ended(now, EndReason::Returned)),
            // The host's clock may be a little ahead; why it ends then the host does not know.
            (Active, EndedAtHost { how: HostEnd::Expired, .. }) => {
                Ok(self.ended(now, self.planned_end().reason))
            }
            (Active, EndedAtHost { how: HostEnd::Lost, confirmed_at } | Lost { confirmed_at }) => {
                Ok(self.ended(confirmed_at, EndReason::HostLost))
            }
            (Active, Expire) => self.expire(now),
            (Active, Renew { asked_until, paid_until }) => self.renew(asked_until, paid_until, now),
            (Active, Recall { notice }) => self.recall(notice, now),
            (Active, Settle) => Err(LeaseNotAllowed::StillActive),
            (Ended(end), Settle) => Ok(self.to(Settled(end), vec![LeaseEffect::WriteLedgerRow(end)])),
            (Settled(_), Settle) => Err(LeaseNotAllowed::IsSettled),
            (
                Ended(end) | Settled(end),
                Return | EndedAtHost { .. } | Expire | Lost { .. } | Renew { .. } | Recall { .. },
            ) => Err(LeaseNotAllowed::HasEnded(end)),
        }
    }

    fn expire(self, now: Timestamp) -> Result<LeaseTransition, LeaseNotAllowed> {
        let planned = self.planned_end();
        if now < planned.at {
            return Err(LeaseNotAllowed::NotExpired { until: planned.at });
        }
        Ok(self.ended(now, planned.reason))
    }

    fn renew(
        self,
        asked_until: Timestamp,
        paid_until: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<LeaseTransition, LeaseNotAllowed> {
        self.runs_at(now)?;
        if let Some(Recall { until, .. }) = self.recall {
            return Err(LeaseNotAllowed::IsRecalled { until });
        }
        if asked_until < self.asked_until {
            return Err(LeaseNotAllowed::Shorter { until: self.asked_until });
        }
        // Without a budget there is no end to what is paid.
        let last = |moment: Option<Timestamp>| moment.unwrap_or(Timestamp::MAX);
        if last(paid_until) < last(self.paid_until) {
            return Err(LeaseNotAllowed::SmallerBudget);
        }
        Ok(self.replanned(Self { asked_until, paid_until, ..self }))
    }

    fn recall(self, notice: Option<Duration>, now: Timestamp) -> Result<LeaseTransition, LeaseNotAllowed> {
        self.runs_at(now)?;
        let notice = notice.ok_or(LeaseNotAllowed::NoRecall)?;
        // Said again, it changes nothing: the notice that was given counts.
        let until = now.max(self.started_at).saturating_add(notice).unwrap_or(Timestamp::MAX);
        let recall = self.recall.unwrap_or(Recall { asked_at: now, until });
        Ok(self.replanned(Self { recall: Some(recall), ..self }))
    }

    fn runs_at(&self, now: Timestamp) -> Result<(), LeaseNotAllowed> {
        let planned = self.planned_end();
        if now < planned.at { Ok(()) } else { Err(LeaseNotAllowed::HasEnded(planned)) }
    }

    fn replanned(self, course: Self) -> LeaseTransition {
        let changed = (course != self).then_some(LeaseEffect::Tell);
        LeaseTransition { course, effects: changed.into_iter().collect() }
    }

    fn ended(self, at: Timestamp, reason: EndReason) -> LeaseTransition {
        let planned = self.planned_end();
        // A clock set back never bills less than nothing.
        let end = if at >= planned.at { planned } else { End { at: at.max(self.started_at), reason } };
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

    /// How long it would run by its plan, or has run.
    pub fn length(&self) -> Duration {
        let end = self.end().unwrap_or_else(|| self.planned_end());
        Duration::try_from(end.at.duration_since(self.started_at)).unwrap_or_default()
    }
}

/// The moment at which a budget that lasts for `paid` is spent.
pub fn paid_until(started_at: Timestamp, paid: Option<Duration>) -> Option<Timestamp> {
    paid.and_then(|paid| started_at.checked_add(paid).ok())
}

/// What is known of the host of a lease whose planned end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostWord {
    /// It was heard of lately.
    Heard,
    /// Nothing was heard of it since.
    SilentSince(Timestamp),
    /// The registry was started a moment ago: it may be heard any moment.
    NotYetHeard,
}

/// What is to happen to a lease at its planned end: with a host that is heard it has run its time; a silent one has
/// `grace` to come back and tell, then it counts as lost.
pub fn overdue(course: &LeaseCourse, host: HostWord, grace: Duration, now: Timestamp) -> Option<LeaseEvent> {
    let planned = course.planned_end().at;
    if course.state != LeaseState::Active || now < planned {
        return None;
    }
    match host {
        HostWord::Heard => Some(LeaseEvent::Expire),
        HostWord::NotYetHeard => None,
        HostWord::SilentSince(confirmed_at) => {
            let lost = now >= planned.saturating_add(grace).unwrap_or(Timestamp::MAX);
            lost.then_some(LeaseEvent::Lost { confirmed_at })
        }
    }
}

#[cfg(test)]
mod tests;
