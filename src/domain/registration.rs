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
        /// The latest version of its terms that the host was told; none: it was told of none yet.
        known: Option<TermsVersion>,
    },
    /// The host changes the terms of this version, and the key where it says so (F7).
    Change {
        version: TermsVersion,
        new_key: bool,
    },
    /// The host takes back the terms of this version; none: whatever they are.
    Withdraw {
        version: Option<TermsVersion>,
    },
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
    #[error("the offer was made before the terms became those of version {}", .current.0)]
    Outdated { current: TermsVersion },
    #[error("the partition is not lent by lease {0}")]
    NotLentBy(LeaseId),
    #[error("lease {0} has not ended yet")]
    StillLent(LeaseId),
}

impl Registration {
    /// A partition that its registry has not seen before, or has forgotten since it told the host of a version.
    pub fn new(known: Option<TermsVersion>) -> Self {
        let told = known.unwrap_or(TermsVersion(0));
        Self { version: told, epoch: Epoch(0), state: RegistrationState::Free }.next_version()
    }

    pub fn apply(self, event: RegistrationEvent) -> Result<Self, RegistrationNotAllowed> {
        use RegistrationEvent::{Change, Cleaned, LeaseEnded, Lend, Register, Withdraw};
        match event {
            Register { other_terms, known } => self.register(other_terms, known),
            Change { version, new_key } => {
                // First the version: a change that is refused for another reason was never granted before.
                let changed = self.of_version(version)?.free()?.next_version();
                Ok(if new_key { changed.next_epoch() } else { changed })
            }
            Withdraw { version } => self.withdraw(version),
            Lend { lease, accepted } => self.free()?.of_version(accepted).map(|free| free.lent(lease)),
            LeaseEnded(lease) => self.lease_ended(lease),
            Cleaned(lease) => self.cleaned(lease),
        }
    }

    fn register(
        self,
        other_terms: bool,
        known: Option<TermsVersion>,
    ) -> Result<Self, RegistrationNotAllowed> {
        match self.state {
            RegistrationState::Withdrawn => {
                self.told(known).map(|told| told.next_version().to(RegistrationState::Free))
            }
            // Said again, it changes nothing; so it may be said at any time.
            _ if !other_terms => Ok(self),
            _ => self.free()?.told(known).map(Self::next_version),
        }
    }

    /// What the network has kept back since, or brings for the second time, undoes nothing. A host may have been told of
    /// more than this registry knows, where that was restored from a copy: then versions go on from there.
    fn told(self, known: Option<TermsVersion>) -> Result<Self, RegistrationNotAllowed> {
        match known {
            Some(known) if known >= self.version => Ok(Self { version: known, ..self }),
            _ => Err(RegistrationNotAllowed::Outdated { current: self.version }),
        }
    }

    fn withdraw(self, version: Option<TermsVersion>) -> Result<Self, RegistrationNotAllowed> {
        if self.state == RegistrationState::Withdrawn {
            return Ok(self);
        }
        let free = self.free()?;
        let free = version.map_or(Ok(free), |version| free.of_version(version))?;
        Ok(free.to(RegistrationState::Withdrawn))
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
