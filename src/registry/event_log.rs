//! What happened lately, for those who follow it: a bounded history in memory.
//!
//! An event's number is later than that of every event before it, of those before a restart too: it is the microsecond
//! at which it came, or the one after its forerunner's. What was before a restart is not known any more; whoever asks
//! to go on from there is told that it may have missed something, as is whoever stayed away for too long. A reader is
//! given what it has not read as fast as it reads, and is nobody's burden: one that falls out of the history is dropped.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::resource_db::{Change, Happened, Principal};
use crate::{
    api::registry::{Event, EventKind, LendingState},
    domain::id::{BorrowerId, HostId, LenderId},
};

/// Most events that are kept.
const KEPT_MAX: usize = 16_384;
/// Most events that a reader takes at once.
const TAKEN_MAX: usize = 64;

/// Number of an event.
pub(super) type EventId = u64;

/// An event, and who may see it.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) id: EventId,
    pub(super) event: Arc<Event>,
    lender: Option<LenderId>,
    borrower: Option<BorrowerId>,
}

pub(super) struct EventLog {
    history: Mutex<History>,
    latest: watch::Sender<EventId>,
}

struct History {
    /// Number of the event before the first that is kept.
    before: EventId,
    latest: EventId,
    kept: VecDeque<Kept>,
}

/// What a reader has still to read.
#[derive(Debug)]
pub(super) enum Unread {
    /// The next of all events, in order; none: it has read all there are.
    Events(Vec<Kept>),
    /// What follows its last is not kept any more.
    Lost,
}

impl EventLog {
    pub(super) fn new(now: Timestamp) -> Self {
        let begin = number_of(now);
        let history = History { before: begin, latest: begin, kept: VecDeque::new() };
        Self { history: Mutex::new(history), latest: watch::Sender::new(begin) }
    }

    /// Takes in what was committed.
    pub(super) fn changed(&self, changes: &[Change], now: Timestamp) {
        self.add(changes.iter().flat_map(|change| events_of(change, now)), now);
    }

    /// A host's own event; `borrower` is to see it too.
    pub(super) fn of_host(&self, event: Event, lender: Option<LenderId>, borrower: Option<BorrowerId>) {
        let now = event.at;
        self.add([(event, lender, borrower)], now);
    }

    fn add(
        &self,
        events: impl IntoIterator<Item = (Event, Option<LenderId>, Option<BorrowerId>)>,
        now: Timestamp,
    ) {
        let mut history = self.history();
        for (event, lender, borrower) in events {
            history.latest = number_of(now).max(history.latest + 1);
            let kept = Kept { id: history.latest, event: Arc::new(event), lender, borrower };
            history.kept.push_back(kept);
            if history.kept.len() > KEPT_MAX {
                history.before = history.kept.pop_front().map_or(history.before, |first| first.id);
            }
        }
        let latest = history.latest;
        drop(history);
        self.latest.send_if_modified(|known| std::mem::replace(known, latest) != latest);
    }

    pub(super) fn latest(&self) -> EventId {
        self.history().latest
    }

    /// Told whenever there is more.
    pub(super) fn listen(&self) -> watch::Receiver<EventId> {
        self.latest.subscribe()
    }

    /// Whether nothing was missed by whoever has read all up to the event `last`.
    pub(super) fn can_go_on_after(&self, last: EventId) -> bool {
        self.history().place_after(last).is_some()
    }

    pub(super) fn after(&self, last: EventId) -> Unread {
        let history = self.history();
        match history.place_after(last) {
            Some(place) => Unread::Events(history.kept.iter().skip(place).take(TAKEN_MAX).cloned().collect()),
            None => Unread::Lost,
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    /// Place of the event after `last`; none: `last` is none of ours, or too old.
    fn place_after(&self, last: EventId) -> Option<usize> {
        if last == self.before {
            return Some(0);
        }
        self.kept.binary_search_by_key(&last, |kept| kept.id).ok().map(|place| place + 1)
    }
}

impl Kept {
    /// A lender sees what happens to its hosts, a borrower what is on offer and what happens to its leases.
    pub(super) fn is_for(&self, principal: Principal) -> bool {
        match principal {
            Principal::Administrator => true,
            Principal::Lender(lender) => self.lender == Some(lender),
            Principal::Host(host) => self.event.host == Some(host),
            Principal::Borrower(borrower) => self.borrower == Some(borrower) || is_public(self.event.kind),
        }
    }
}

fn is_public(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::OfferRegistered
            | EventKind::OfferChanged
            | EventKind::OfferWithdrawn
            | EventKind::OfferTaken
            | EventKind::OfferFree
    )
}

fn number_of(moment: Timestamp) -> EventId {
    moment.as_microsecond().unsigned_abs()
}

/// A host is heard, or is silent.
pub(super) fn of_liveness(host: HostId, heard: bool, now: Timestamp) -> Event {
    let kind = if heard { EventKind::HostUp } else { EventKind::HostDown };
    Event { host: Some(host), ..Event::new(kind, now) }
}

/// A change is news of the offer, of the lease, or of both.
fn events_of(
    change: &Change,
    now: Timestamp,
) -> impl Iterator<Item = (Event, Option<LenderId>, Option<BorrowerId>)> {
    let (offer, lease) = kinds(change.happened);
    let event =
        |kind| Event { host: Some(change.host), partition: Some(change.partition), ..Event::new(kind, now) };
    let offer = offer.map(|kind| {
        let shown = change.row.as_ref().filter(|row| row.state == LendingState::Free);
        let terms = shown.map(|row| row.terms.clone());
        let offer = Event { terms, terms_version: shown.map(|row| row.version), ..event(kind) };
        (offer, Some(change.lender), None)
    });
    let lease = lease.map(|kind| {
        let (lease, expires_at) = match change.row.as_ref().map(|row| &row.state) {
            Some(LendingState::Lent { lease, expires_at, .. }) => (Some(*lease), Some(*expires_at)),
            Some(LendingState::AwaitingClean { lease }) => (Some(*lease), None),
            Some(LendingState::Free) | None => (None, None),
        };
        let borrower = change.borrower;
        let event = Event { lease, borrower, expires_at, reason: change.end_reason, ..event(kind) };
        (event, Some(change.lender), borrower)
    });
    offer.into_iter().chain(lease)
}

fn kinds(happened: Happened) -> (Option<EventKind>, Option<EventKind>) {
    match happened {
        Happened::Registered => (Some(EventKind::OfferRegistered), None),
        Happened::Changed => (Some(EventKind::OfferChanged), None),
        Happened::Withdrawn => (Some(EventKind::OfferWithdrawn), None),
        Happened::Freed => (Some(EventKind::OfferFree), None),
        Happened::LeaseMade => (Some(EventKind::OfferTaken), Some(EventKind::LeaseMade)),
        Happened::LeaseRenewed => (None, Some(EventKind::LeaseRenewed)),
        Happened::LeaseRecalled => (None, Some(EventKind::LeaseRecalled)),
        Happened::KeyRevoked => (None, Some(EventKind::KeyRevoked)),
        Happened::LeaseEnded => (None, Some(EventKind::LeaseEnded)),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn at(us: i64) -> Timestamp {
        Timestamp::from_microsecond(us).unwrap()
    }

    fn host(number: u128) -> HostId {
        HostId(Uuid::from_u128(number))
    }

    fn log(events: u128) -> EventLog {
        let log = EventLog::new(at(1000));
        for number in 0..events {
            log.of_host(of_liveness(host(number), true, at(1000)), None, None);
        }
        log
    }

    fn ids(unread: Unread) -> Vec<EventId> {
        match unread {
            Unread::Events(events) => events.iter().map(|kept| kept.id).collect(),
            Unread::Lost => panic!("lost"),
        }
    }

    #[test]
    fn numbers_grow_even_within_one_moment_and_when_the_clock_is_set_back() {
        let log = log(2);
        log.of_host(of_liveness(host(9), false, at(5)), None, None);
        log.of_host(of_liveness(host(9), true, at(2000)), None, None);
        assert_eq!(ids(log.after(1000)), [1001, 1002, 1003, 2000]);
        assert_eq!(ids(log.after(1003)), [2000]);
        assert_eq!((ids(log.after(2000)), log.latest()), (vec![], 2000));
    }

    #[test]
    fn whoever_comes_from_before_the_history_or_from_elsewhere_cannot_go_on() {
        let log = log(2);
        assert!(log.can_go_on_after(1000) && log.can_go_on_after(1002));
        for elsewhere in [0, 999, 1003, u64::MAX] {
            assert!(!log.can_go_on_after(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_a_reader_that_stays_behind_is_lost() {
        let log = log(u128::try_from(KEPT_MAX).unwrap() + 3);
        assert!(matches!(log.after(1000), Unread::Lost));
        let first = 1000 + 3;
        assert_eq!(ids(log.after(first)).len(), TAKEN_MAX);
        assert_eq!(log.history().kept.len(), KEPT_MAX);
    }

    #[test]
    fn everybody_sees_offers_and_of_the_rest_what_is_its_own() {
        let (lender, borrower) = (LenderId(Uuid::from_u128(1)), BorrowerId(Uuid::from_u128(2)));
        let kept = |kind| Kept {
            id: 1,
            event: Arc::new(Event { host: Some(host(3)), ..Event::new(kind, at(1)) }),
            lender: Some(lender),
            borrower: Some(borrower),
        };
        let stranger = Principal::Borrower(BorrowerId(Uuid::from_u128(9)));
        assert!(kept(EventKind::OfferTaken).is_for(stranger));
        for kind in [EventKind::LeaseMade, EventKind::HostDown, EventKind::Violation] {
            assert!(!kept(kind).is_for(stranger), "{kind:?}");
            assert!(!kept(kind).is_for(Principal::Lender(LenderId(Uuid::from_u128(9)))));
            assert!(!kept(kind).is_for(Principal::Host(host(9))));
            assert!(
                kept(kind).is_for(Principal::Lender(lender)) && kept(kind).is_for(Principal::Host(host(3)))
            );
        }
        assert!(kept(EventKind::LeaseMade).is_for(Principal::Borrower(borrower)));
    }
}
