//! A partition's life at its host (patent fig. 5–7, the lending flag (43)).
//!
//! ```text
//!           offer                registered              open               end, lease over
//! Carved ──────────▶ Offering ──────────────▶ Offered ──────────▶ Lent ⟲ end moved ─────────▶ Scrubbing
//!   ▲  ▲                │                      ▲  ▲ │                                          │ wiped
//!   │  └ not registered ┘          still       │  │ │ withdraw                                 ▼
//!   │ offer                        registered  │  │ │               ready              Scrubbing (clean)
//!   │                                          │  └─┼────────────────────────────────────────┘ │
//! Withdrawn ◀────── unregistered ───── Withdrawing ◀┘◀─────────────── withdraw ─────────────────┘
//! ```
//!
//! `Carved` and `Withdrawn` partitions change freely and can be released; one on offer changes through its
//! registry; one that is lent does not change (law 3). A declared partition has no machine until it is borrowed, and goes
//! from scrubbing straight to `Offered`; the owner's own goes from `Carved` to `Lent` and back [0018]. What an event asks the host to do is named by
//! [`Effect`]s, in order; whoever owns the machine stores state and effects together and then performs them.

mod effect;
mod event;
mod kind;
pub mod pending;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::{
    effect::Effect,
    event::{Event, HostEnd},
    kind::Kind,
};
use super::{
    id::{BorrowerId, LeaseId},
    terms::{Epoch, Terms, TermsVersion},
};

/// One partition as its host keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub kind: Kind,
    pub state: State,
    pub terms: Terms,
    /// Host CPUs set aside, ascending.
    pub host_cpus: Vec<u32>,
    /// Version of the terms at the registry.
    pub version: Option<TermsVersion>,
    /// The first epoch whose key can still open the partition (law 4). Only grows.
    pub least_epoch: Epoch,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Set aside; never offered.
    Carved,
    /// The registry was asked to register it, and has not confirmed; `again`: it was withdrawn before.
    Offering {
        again: bool,
    },
    /// Registered and locked. `change`: the registry was asked for it, and has not answered.
    Offered {
        change: Option<Change>,
    },
    /// Opened by a borrower with its key.
    Lent {
        lease: OpenLease,
    },
    /// The lease has ended. `clean`: nothing of it is left, the next machine is being prepared.
    Scrubbing {
        lease: LeaseId,
        clean: bool,
    },
    /// The registry was asked to forget it, and has not confirmed.
    Withdrawing,
    Withdrawn,
    /// Given back to the owner: the row is to be deleted.
    Released,
}

/// A lease that a borrower has opened at this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenLease {
    pub lease: LeaseId,
    pub borrower: BorrowerId,
    pub epoch: Epoch,
    /// The first moment that is no longer the borrower's.
    pub expires_at: Timestamp,
}

/// New terms, and the host CPUs they would take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub terms: Terms,
    pub host_cpus: Vec<u32>,
    /// No key that was issued before opens the partition any more.
    #[serde(default)]
    pub new_key: bool,
}

/// A partition after an event, and what there is to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    pub partition: Partition,
    pub effects: Vec<Effect>,
}

/// Why an event is refused; nothing has changed.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
pub enum NotAllowed {
    #[error("a partition on offer does not change here: withdraw it first")]
    Frozen,
    #[error(
        "the partition is lent and does not change until lease {0} ends; its lender can recall it, where its terms know recalls"
    )]
    HeldBy(LeaseId),
    #[error("the partition is not on offer")]
    NotOffered,
    #[error("the partition is on offer already")]
    AlreadyOffered,
    #[error("the partition is lent, until its lease ends")]
    Lent,
    #[error("the partition is being prepared or cleaned: try again in a moment")]
    NotReady,
    #[error("the lending key belongs to an earlier lease of this partition")]
    EpochPassed,
    #[error("no lease is open at this partition")]
    NotLent,
    #[error("the partition is for its owner's own work, and is never offered")]
    Owners,
    #[error("that is not expected now")]
    Unexpected,
}

impl Partition {
    pub fn carved(terms: Terms, host_cpus: Vec<u32>) -> Self {
        Self {
            kind: Kind::default(),
            state: State::Carved,
            terms,
            host_cpus,
            version: None,
            least_epoch: Epoch(1),
        }
    }

    /// The state's name, for people.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Carved => "carved",
            State::Offering { .. } => "being offered",
            State::Offered { change: None } => "offered",
            State::Offered { change: Some(_) } => "being changed",
            State::Lent { .. } => "lent",
            State::Scrubbing { clean: false, .. } => "being scrubbed",
            State::Scrubbing { clean: true, .. } => "clean",
            State::Withdrawing => "being withdrawn",
            State::Withdrawn => "withdrawn",
            State::Released => "released",
        }
    }

    /// The lease that is open now.
    pub fn lease(&self) -> Option<&OpenLease> {
        match &self.state {
            State::Lent { lease } => Some(lease),
            _ => None,
        }
    }

    /// Epoch of the latest lease that was opened or is known to be over; 0: none.
    pub fn epoch(&self) -> Epoch {
        self.lease().map_or(Epoch(self.least_epoch.0.saturating_sub(1)), |lease| lease.epoch)
    }

    /// The epoch of the next lease that the host itself makes: no key that was issued has it.
    pub fn next_epoch(&self) -> Epoch {
        after(self.least_epoch)
    }

    /// Host CPUs that nobody else may be given: those in use, and those a change would take.
    pub fn held_cpus(&self) -> impl Iterator<Item = u32> {
        let wanted = match &self.state {
            State::Offered { change: Some(change) } => change.host_cpus.as_slice(),
            _ => &[],
        };
        self.host_cpus.iter().chain(wanted).copied()
    }

    /// The state after `event`, and what is to be done; or why the event is refused.
    pub fn apply(self, event: Event) -> Result<Transition, NotAllowed> {
        match event {
            Event::Offer => self.offer(),
            Event::Registered(version) => self.registered(version),
            Event::NotRegistered => self.not_registered(),
            Event::Change(change) => self.change(change),
            Event::ChangeTaken(version) => self.change_taken(version),
            Event::ChangeRefused => self.change_refused(),
            Event::Withdraw => self.withdraw(),
            Event::Unregistered => self.unregistered(),
            Event::StillRegistered => self.still_registered(),
            Event::KeyIssued(epoch) => self.key_issued(epoch),
            Event::Open(lease) => self.open(lease),
            Event::End(how) => self.end(how),
            Event::EndMoved { lease, expires_at } => self.end_moved(lease, expires_at),
            Event::LeaseOver { lease, epoch } => Ok(self.lease_over(lease, epoch)),
            Event::Wiped => self.wiped(),
            Event::Ready => self.ready(),
            Event::Release => self.release(),
        }
    }

    fn offer(self) -> Result<Transition, NotAllowed> {
        let again = match self.state {
            _ if self.kind == Kind::Owners => return Err(NotAllowed::Owners),
            State::Carved => false,
            State::Withdrawn => true,
            State::Offered { .. } => return Err(NotAllowed::AlreadyOffered),
            _ => return Err(self.busy()),
        };
        let prepare = (self.kind == Kind::Standing).then_some(Effect::PrepareMachine);
        Ok(self.to(State::Offering { again }, prepare.into_iter().chain([Effect::Register])))
    }

    fn registered(mut self, version: Option<TermsVersion>) -> Result<Transition, NotAllowed> {
        match self.state {
            State::Offering { .. } => {
                self.version = version;
                Ok(self.to(State::Offered { change: None }, []))
            }
            State::Offered { .. } => {
                self.version = version;
                Ok(self.stays([]))
            }
            _ => Err(NotAllowed::Unexpected),
        }
    }

    fn not_registered(self) -> Result<Transition, NotAllowed> {
        match self.state {
            State::Offering { again: true } => Ok(self.to(State::Withdrawn, [Effect::DiscardMachine])),
            State::Offering { again: false } => Ok(self.to(State::Carved, [Effect::DiscardMachine])),
            _ => Err(NotAllowed::Unexpected),
        }
    }

    fn change(mut self, change: Change) -> Result<Transition, NotAllowed> {
        match self.state {
            State::Carved | State::Withdrawn => {
                self.terms = change.terms;
                self.host_cpus = change.host_cpus;
                let shape = self.has_disk().then_some(Effect::ShapeDisk);
                Ok(self.stays(shape))
            }
            State::Offered { change: None } => {
                Ok(self.to(State::Offered { change: Some(change) }, [Effect::AskChange]))
            }
            _ => Err(self.busy()),
        }
    }

    fn change_taken(mut self, version: Option<TermsVersion>) -> Result<Transition, NotAllowed> {
        let State::Offered { change: Some(change) } = self.state else { return Err(NotAllowed::Unexpected) };
        let rebuilt = self.kind == Kind::Standing
            && (change.host_cpus != self.host_cpus || change.terms.allocation != self.terms.allocation);
        self.state = State::Offered { change: None };
        // A registry says with its next word from which epoch on its keys are.
        if change.new_key && version.is_none() {
            self.least_epoch = after(self.least_epoch);
        }
        self.terms = change.terms;
        self.host_cpus = change.host_cpus;
        self.version = version;
        let rebuild = [Effect::DiscardMachine, Effect::ShapeDisk, Effect::PrepareMachine];
        Ok(self.stays(rebuild.into_iter().filter(|_| rebuilt)))
    }

    fn change_refused(self) -> Result<Transition, NotAllowed> {
        match self.state {
            State::Offered { change: Some(_) } => {
                let shape = self.has_disk().then_some(Effect::ShapeDisk);
                Ok(self.to(State::Offered { change: None }, shape))
            }
            _ => Err(NotAllowed::Unexpected),
        }
    }

    fn withdraw(self) -> Result<Transition, NotAllowed> {
        match self.state {
            State::Offering { .. }
            | State::Offered { change: None }
            | State::Scrubbing { clean: true, .. }
            | State::Withdrawing => {}
            State::Carved | State::Withdrawn => return Err(NotAllowed::NotOffered),
            _ => return Err(self.busy()),
        }
        let cleaned = match self.state {
            State::Scrubbing { lease, .. } => Some(Effect::ReportCleaned { lease }),
            _ => None,
        };
        Ok(self.to(State::Withdrawing, cleaned.into_iter().chain([Effect::Unregister])))
    }

    fn unregistered(mut self) -> Result<Transition, NotAllowed> {
        if self.state != State::Withdrawing {
            return Err(NotAllowed::Unexpected);
        }
        self.version = None;
        Ok(self.to(State::Withdrawn, [Effect::DiscardMachine]))
    }

    fn still_registered(self) -> Result<Transition, NotAllowed> {
        match self.state {
            // Its machine may not have been there yet when the withdrawal was asked for.
            State::Withdrawing => {
                let prepare = (self.kind == Kind::Standing).then_some(Effect::PrepareMachine);
                Ok(self.to(State::Offered { change: None }, prepare))
            }
            _ => Err(NotAllowed::Unexpected),
        }
    }

    fn key_issued(mut self, epoch: Epoch) -> Result<Transition, NotAllowed> {
        match self.state {
            _ if !self.waits() => Err(self.not_open()),
            _ if epoch < self.least_epoch => Err(NotAllowed::EpochPassed),
            _ => {
                self.least_epoch = epoch;
                Ok(self.stays([]))
            }
        }
    }

    fn open(mut self, lease: OpenLease) -> Result<Transition, NotAllowed> {
        match &self.state {
            State::Lent { lease: open } if open.lease == lease.lease => Ok(self.stays([])),
            _ if !self.waits() => Err(self.not_open()),
            _ if lease.epoch < self.least_epoch => Err(NotAllowed::EpochPassed),
            _ => {
                self.least_epoch = lease.epoch;
                let receipt = self.is_receipted().then_some(Effect::OpenReceipt { lease: lease.lease });
                let built_now = self.is_built_when_opened();
                let build = [Effect::ShapeDisk, Effect::PrepareMachine].into_iter().filter(|_| built_now);
                Ok(self.to(State::Lent { lease }, build.chain([Effect::GuardEnd]).chain(receipt)))
            }
        }
    }

    fn end(mut self, how: HostEnd) -> Result<Transition, NotAllowed> {
        let Some(lease) = self.close() else { return Err(NotAllowed::NotLent) };
        Ok(self.scrub(lease, Some(how)))
    }

    fn end_moved(mut self, moved: LeaseId, expires_at: Timestamp) -> Result<Transition, NotAllowed> {
        match &mut self.state {
            State::Lent { lease } if lease.lease == moved => {
                let other = lease.expires_at != expires_at;
                lease.expires_at = expires_at;
                Ok(self.stays(other.then_some(Effect::MoveEnd)))
            }
            _ => Err(NotAllowed::NotLent),
        }
    }

    fn lease_over(mut self, lease: Option<LeaseId>, epoch: Epoch) -> Transition {
        let ours = self.lease().is_some_and(|open| open.epoch <= epoch).then(|| self.close()).flatten();
        self.least_epoch = self.least_epoch.max(after(epoch));
        match (ours, &self.state) {
            (Some(open), _) => self.scrub(open, None),
            (None, State::Lent { .. } | State::Scrubbing { .. }) => self.stays([]),
            // Never opened here, or the host's word was lost: there is nothing to clean.
            _ => self.stays(lease.map(|lease| Effect::ReportCleaned { lease })),
        }
    }

    fn wiped(self) -> Result<Transition, NotAllowed> {
        match self.state {
            State::Scrubbing { lease, clean: false } => Ok(match self.kind {
                Kind::Standing => self.to(State::Scrubbing { lease, clean: true }, [Effect::PrepareMachine]),
                Kind::Declared => self.to(State::Offered { change: None }, [Effect::ReportCleaned { lease }]),
                Kind::Owners => self.to(State::Carved, []),
            }),
            _ => Err(NotAllowed::Unexpected),
        }
    }

    fn ready(self) -> Result<Transition, NotAllowed> {
        match self.state {
            State::Scrubbing { lease, clean: true } => {
                Ok(self.to(State::Offered { change: None }, [Effect::ReportCleaned { lease }]))
            }
            _ => Err(NotAllowed::Unexpected),
        }
    }

    fn release(self) -> Result<Transition, NotAllowed> {
        match self.state {
            State::Carved | State::Withdrawn => Ok(self.to(State::Released, [Effect::Remove])),
            _ => Err(self.busy()),
        }
    }

    /// Whether whoever has a key for it can open it now.
    fn waits(&self) -> bool {
        match self.state {
            State::Offered { change: None } => true,
            State::Carved => self.kind == Kind::Owners,
            _ => false,
        }
    }

    /// Forgets the open lease, and with it its key (law 4).
    fn close(&mut self) -> Option<LeaseId> {
        let State::Lent { lease } = &self.state else { return None };
        self.least_epoch = self.least_epoch.max(after(lease.epoch));
        Some(lease.lease)
    }

    /// `how`: it ended here, and the registry is to hear of it, unless the lease was the owner's own.
    fn scrub(self, lease: LeaseId, how: Option<HostEnd>) -> Transition {
        let (report, receipt) = if self.is_receipted() {
            (how.map(|how| Effect::ReportEnded { lease, how }), Some(Effect::CloseReceipt { lease, how }))
        } else {
            (None, None)
        };
        let clean = [Effect::EndJobs, Effect::DiscardMachine, Effect::Wipe];
        self.to(State::Scrubbing { lease, clean: false }, report.into_iter().chain(receipt).chain(clean))
    }

    /// Why the owner cannot change the partition now.
    fn busy(&self) -> NotAllowed {
        match &self.state {
            State::Lent { lease } => NotAllowed::HeldBy(lease.lease),
            State::Offered { change: None } => NotAllowed::Frozen,
            State::Released => NotAllowed::Unexpected,
            _ => NotAllowed::NotReady,
        }
    }

    /// Why a borrower cannot open the partition now.
    fn not_open(&self) -> NotAllowed {
        match self.state {
            State::Lent { .. } => NotAllowed::Lent,
            State::Carved | State::Withdrawn | State::Released => NotAllowed::NotOffered,
            _ => NotAllowed::NotReady,
        }
    }

    fn to(mut self, state: State, effects: impl IntoIterator<Item = Effect>) -> Transition {
        self.state = state;
        self.stays(effects)
    }

    fn stays(self, effects: impl IntoIterator<Item = Effect>) -> Transition {
        Transition { partition: self, effects: effects.into_iter().collect() }
    }
}

fn after(epoch: Epoch) -> Epoch {
    Epoch(epoch.0.saturating_add(1))
}

#[cfg(test)]
mod tests;
