//! A partition as its registry keeps it: lending state (105), version of its terms, epoch of its leases.
//!
//! ```text
//!             Lend               LeaseEnded                  Cleaned
//!   Free ───────────────▶ Lent ──────────────▶ AwaitingClean ────────▶ Free
//!   │  ▲ ◀─┐ Register,
//!   │  │ ──┘ Change
//!   │  └──────────────────────── Register ──────────────────────────┐
//!   └──────────────────────────── Withdraw ──────────────────────▶ Withdrawn
//! ```
//!
//! What is lent does not change (law 3). A withdrawn partition keeps its epoch, so that no key of before opens
//! it when it is offered again (law 4).

use thiserror::Error;

use super::{
    id::LeaseId,
    terms::{Epoch, TermsVersion},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationState {
    Free,
    Lent(LeaseId),
    AwaitingClean(LeaseId),
    Withdrawn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration {
    pub version: TermsVersion,
    pub epoch: Epoch,
    pub state: RegistrationState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationEvent {
    /// The host offers it, with the terms that are kept already or with others (F6).
    Register {
        other_terms: bool,
    },
    /// The host changes the terms of this version, and the key where it says so (F7).
    Change {
        version: TermsVersion,
        new_key: bool,
    },
    Withdraw,
    /// A borrower accepts the terms of this version (S45).
    Lend {
        lease: LeaseId,
        accepted: TermsVersion,
    },
    LeaseEnded(LeaseId),
    /// The host has cleaned it after this lease.
    Cleaned(LeaseId),
}

/// Why an event does not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RegistrationNotAllowed {
    #[error("the partition is lent")]
    Lent,
    #[error("the partition is being cleaned after its last lease")]
    AwaitingClean,
    #[error("the partition is not on offer")]
    Withdrawn,
    #[error("the terms are of version {}, not {}", .current.0, .expected.0)]
    OtherVersion { current: TermsVersion, expected: TermsVersion },
    #[error("the partition is not lent by lease {0}")]
    NotLentBy(LeaseId),
    #[error("lease {0} has not ended yet")]
    StillLent(LeaseId),
}

impl Registration {
    /// A partition that its registry has not seen before.
    pub const NEW: Self = Self { version: TermsVersion(1), epoch: Epoch(0), state: RegistrationState::Free };

    pub fn apply(self, event: RegistrationEvent) -> Result<Self, RegistrationNotAllowed> {
        use RegistrationEvent::{Change, Cleaned, LeaseEnded, Lend, Register, Withdraw};
        match event {
            Register { other_terms } => self.register(other_terms),
            Change { version, new_key } => {
                let changed = self.free()?.of_version(version)?.next_version();
                Ok(if new_key { changed.next_epoch() } else { changed })
            }
            Withdraw => self.withdraw(),
            Lend { lease, accepted } => self.free()?.of_version(accepted).map(|free| free.lent(lease)),
            LeaseEnded(lease) => self.lease_ended(lease),
            Cleaned(lease) => self.cleaned(lease),
        }
    }

    fn register(self, other_terms: bool) -> Result<Self, RegistrationNotAllowed> {
        match self.state {
            RegistrationState::Withdrawn => {
                Ok(Self { state: RegistrationState::Free, ..self.next_version() })
            }
            // Said again, it changes nothing; so it may be said at any time.
            _ if !other_terms => Ok(self),
            _ => self.free().map(Self::next_version),
        }
    }

    fn withdraw(self) -> Result<Self, RegistrationNotAllowed> {
        match self.state {
            RegistrationState::Withdrawn => Ok(self),
            _ => self.free().map(|free| free.to(RegistrationState::Withdrawn)),
        }
    }

    fn lease_ended(self, lease: LeaseId) -> Result<Self, RegistrationNotAllowed> {
        match self.state {
            RegistrationState::Lent(of) if of == lease => {
                Ok(self.to(RegistrationState::AwaitingClean(lease)))
            }
            RegistrationState::AwaitingClean(of) if of == lease => Ok(self),
            _ => Err(RegistrationNotAllowed::NotLentBy(lease)),
        }
    }

    fn cleaned(self, lease: LeaseId) -> Result<Self, RegistrationNotAllowed> {
        match self.state {
            RegistrationState::AwaitingClean(of) if of == lease => Ok(self.to(RegistrationState::Free)),
            RegistrationState::Lent(of) if of == lease => Err(RegistrationNotAllowed::StillLent(lease)),
            _ => Err(RegistrationNotAllowed::NotLentBy(lease)),
        }
    }

    fn free(self) -> Result<Self, RegistrationNotAllowed> {
        match self.state {
            RegistrationState::Free => Ok(self),
            RegistrationState::Lent(_) => Err(RegistrationNotAllowed::Lent),
            RegistrationState::AwaitingClean(_) => Err(RegistrationNotAllowed::AwaitingClean),
            RegistrationState::Withdrawn => Err(RegistrationNotAllowed::Withdrawn),
        }
    }

    fn of_version(self, expected: TermsVersion) -> Result<Self, RegistrationNotAllowed> {
        if self.version == expected {
            Ok(self)
        } else {
            Err(RegistrationNotAllowed::OtherVersion { current: self.version, expected })
        }
    }

    fn lent(self, lease: LeaseId) -> Self {
        self.next_epoch().to(RegistrationState::Lent(lease))
    }

    fn next_epoch(self) -> Self {
        Self { epoch: Epoch(self.epoch.0 + 1), ..self }
    }

    fn next_version(self) -> Self {
        Self { version: TermsVersion(self.version.0 + 1), ..self }
    }

    fn to(self, state: RegistrationState) -> Self {
        Self { state, ..self }
    }
}

#[cfg(test)]
mod tests;
