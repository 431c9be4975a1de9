//! What the registry's view of a partition means for the host's: after a crash or a lost answer the two are brought
//! together again.

use jiff::Timestamp;

use crate::{
    api::registry::{LendingState, RegisteredPartition},
    domain::{
        id::LeaseId,
        partition::{Event, Partition, State},
        terms::Epoch,
    },
};

/// What is to be done about a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "few are made, and none is kept")]
pub enum Step {
    /// This has happened.
    Event(Event),
    /// The question that was asked of the registry is to be asked again.
    AskAgain,
    /// The registry does not have what is on offer here.
    Register,
    /// The registry has what is not on offer here.
    Unregister,
}

/// Compares `partition` with what the registry has of it; none: it has nothing.
pub fn reconcile(partition: &Partition, view: Option<&RegisteredPartition>) -> Vec<Step> {
    let Some(view) = view else { return unregistered(partition).into_iter().collect() };
    lease(partition, view).into_iter().map(Step::Event).chain(offer(partition, view)).collect()
}

fn unregistered(partition: &Partition) -> Option<Step> {
    match partition.state {
        State::Offering { .. } => Some(Step::AskAgain),
        State::Withdrawing => Some(Step::Event(Event::Unregistered)),
        State::Offered { change: None } => Some(Step::Register),
        State::Offered { change: Some(_) } => Some(Step::Event(Event::ChangeRefused)),
        // Whoever has opened a lease keeps it until its end (law 6).
        State::Lent { .. } | State::Scrubbing { .. } => None,
        State::Carved | State::Withdrawn | State::Released => None,
    }
}

/// What the registry says of leases.
fn lease(partition: &Partition, view: &RegisteredPartition) -> Option<Event> {
    let before = Epoch(view.epoch.0.checked_sub(1)?);
    match view.state {
        LendingState::Lent { lease, expires_at, .. } if is_open_until_else(partition, lease, expires_at) => {
            Some(Event::EndMoved { lease, expires_at })
        }
        LendingState::Lent { .. } if is_open_at_most(partition, before) => {
            Some(Event::LeaseOver { lease: None, epoch: before })
        }
        // The key of this lease voids those before it.
        LendingState::Lent { .. } if view.epoch > partition.least_epoch => {
            Some(Event::LeaseOver { lease: None, epoch: before })
        }
        LendingState::Lent { .. } => None,
        LendingState::AwaitingClean { lease } => {
            Some(Event::LeaseOver { lease: Some(lease), epoch: view.epoch })
        }
        LendingState::Free if view.epoch >= partition.least_epoch => {
            Some(Event::LeaseOver { lease: None, epoch: view.epoch })
        }
        LendingState::Free => None,
    }
}

/// Whether the lease is open here with another end.
fn is_open_until_else(partition: &Partition, lease: LeaseId, expires_at: Timestamp) -> bool {
    partition.lease().is_some_and(|open| open.lease == lease && open.expires_at != expires_at)
}

fn is_open_at_most(partition: &Partition, epoch: Epoch) -> bool {
    partition.lease().is_some_and(|open| open.epoch <= epoch)
}

/// What the registry says of the offer.
fn offer(partition: &Partition, view: &RegisteredPartition) -> Vec<Step> {
    let lent = matches!(view.state, LendingState::Lent { .. });
    let registered = Step::Event(Event::Registered(Some(view.version)));
    match &partition.state {
        State::Offering { .. } if view.terms == partition.terms => vec![registered],
        State::Offering { .. } => vec![Step::AskAgain],
        // Each change the registry takes is a later version, whether or not the terms say something else.
        State::Offered { change: Some(change) }
            if view.terms == change.terms && partition.version < Some(view.version) =>
        {
            vec![Step::Event(Event::ChangeTaken(Some(view.version)))]
        }
        // What was to be changed is of another version than the host knew.
        State::Offered { change: Some(_) } if partition.version != Some(view.version) => {
            vec![registered, Step::AskAgain]
        }
        State::Offered { change: Some(_) } => vec![Step::AskAgain],
        State::Offered { change: None } if view.terms != partition.terms => {
            if view.state == LendingState::Free { vec![Step::Register] } else { vec![] }
        }
        State::Offered { change: None } if partition.version != Some(view.version) => vec![registered],
        State::Withdrawing if lent => vec![Step::Event(Event::StillRegistered)],
        State::Withdrawing => vec![Step::AskAgain],
        State::Carved | State::Withdrawn if !lent => vec![Step::Unregister],
        _ => vec![],
    }
}

#[cfg(test)]
mod tests;
