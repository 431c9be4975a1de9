use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::{
    agent::partition::table::tests::row,
    domain::{
        id::{BorrowerId, HostId, LeaseId},
        partition::{Change, OpenLease},
        terms::{Terms, TermsVersion},
    },
};

const LEASE: LeaseId = LeaseId(Uuid::from_u128(7));

fn partition(state: State) -> Partition {
    Partition { state, version: Some(TermsVersion(1)), ..row(1).partition }
}

fn offered() -> Partition {
    partition(State::Offered { change: None })
}

fn lent(epoch: u64) -> Partition {
    let lease = OpenLease {
        lease: LEASE,
        borrower: BorrowerId(Uuid::nil()),
        epoch: Epoch(epoch),
        expires_at: Timestamp::UNIX_EPOCH,
    };
    Partition { least_epoch: Epoch(epoch), ..partition(State::Lent { lease }) }
}

fn view(state: LendingState, epoch: u64) -> RegisteredPartition {
    RegisteredPartition {
        host: HostId(Uuid::nil()),
        partition: row(1).id,
        terms: row(1).partition.terms,
        version: TermsVersion(1),
        epoch: Epoch(epoch),
        state,
    }
}

fn lent_to_another() -> LendingState {
    LendingState::Lent { lease: LEASE, borrower: BorrowerId(Uuid::nil()), expires_at: Timestamp::UNIX_EPOCH }
}

fn other_terms() -> Terms {
    let mut terms = row(1).partition.terms;
    terms.price.per_hour_micros += 1;
    terms
}

fn over(lease: Option<LeaseId>, epoch: u64) -> Step {
    Step::Event(Event::LeaseOver { lease, epoch: Epoch(epoch) })
}

#[test]
fn what_agrees_is_left_alone() {
    assert_eq!(reconcile(&offered(), Some(&view(LendingState::Free, 0))), []);
    assert_eq!(reconcile(&lent(3), Some(&view(lent_to_another(), 3))), []);
    assert_eq!(reconcile(&partition(State::Carved), None), []);
}

#[test]
fn a_lease_that_ended_at_the_registry_ends_at_the_host() {
    let ended = LendingState::AwaitingClean { lease: LEASE };
    assert_eq!(reconcile(&lent(3), Some(&view(ended, 3))), [over(Some(LEASE), 3)]);
    assert_eq!(reconcile(&lent(3), Some(&view(LendingState::Free, 3))), [over(None, 3)]);
    assert_eq!(reconcile(&lent(3), Some(&view(lent_to_another(), 4))), [over(None, 3)]);
}

#[test]
fn an_end_that_moved_at_the_registry_moves_at_the_host() {
    let later = Timestamp::from_second(60).unwrap();
    let renewed = LendingState::Lent { lease: LEASE, borrower: BorrowerId(Uuid::nil()), expires_at: later };
    let moved = Event::EndMoved { lease: LEASE, expires_at: later };
    assert_eq!(reconcile(&lent(3), Some(&view(renewed, 3))), [Step::Event(moved)]);
}

#[test]
fn a_key_that_was_changed_at_the_registry_voids_those_before_it_at_the_host() {
    assert_eq!(reconcile(&offered(), Some(&view(LendingState::Free, 4))), [over(None, 4)]);
}

#[test]
fn a_change_of_the_key_alone_is_taken_once_the_registry_has_another_version() {
    let terms = row(1).partition.terms;
    let change = Change { terms: terms.clone(), host_cpus: vec![1], new_key: true };
    let changing = partition(State::Offered { change: Some(change) });
    assert_eq!(reconcile(&changing, Some(&view(LendingState::Free, 0))), [Step::AskAgain]);
    let taken = RegisteredPartition { version: TermsVersion(2), ..view(LendingState::Free, 0) };
    let event = Event::ChangeTaken(Some(TermsVersion(2)));
    assert_eq!(reconcile(&changing, Some(&taken)), [Step::Event(event)]);
}

#[test]
fn an_answer_older_than_the_lease_does_not_end_it() {
    assert_eq!(reconcile(&lent(3), Some(&view(LendingState::Free, 2))), []);
    assert_eq!(reconcile(&lent(3), None), []);
}

#[test]
fn a_new_lease_voids_the_keys_before_it() {
    assert_eq!(reconcile(&offered(), Some(&view(lent_to_another(), 4))), [over(None, 3)]);
}

#[test]
fn an_offer_whose_confirmation_was_lost_counts_once_the_registry_has_it() {
    let offering = partition(State::Offering { again: false });
    let registered = Step::Event(Event::Registered(Some(TermsVersion(1))));
    assert_eq!(reconcile(&offering, Some(&view(LendingState::Free, 0))), [registered]);
    assert_eq!(reconcile(&offering, None), [Step::AskAgain]);
}

#[test]
fn a_change_whose_answer_was_lost_is_taken_if_the_registry_has_it() {
    let change = Change { terms: other_terms(), host_cpus: vec![1], new_key: false };
    let changing = partition(State::Offered { change: Some(change) });
    assert_eq!(reconcile(&changing, Some(&view(LendingState::Free, 0))), [Step::AskAgain]);
    let taken =
        RegisteredPartition { terms: other_terms(), version: TermsVersion(2), ..view(LendingState::Free, 0) };
    let event = Event::ChangeTaken(Some(TermsVersion(2)));
    assert_eq!(reconcile(&changing, Some(&taken)), [Step::Event(event)]);
}

#[test]
fn a_change_of_what_has_another_version_than_was_known_is_asked_for_again_with_that() {
    let change = Change { terms: other_terms(), host_cpus: vec![1], new_key: false };
    let changing = partition(State::Offered { change: Some(change) });
    let later = RegisteredPartition { version: TermsVersion(3), ..view(LendingState::Free, 0) };
    let registered = Step::Event(Event::Registered(Some(TermsVersion(3))));
    assert_eq!(reconcile(&changing, Some(&later)), [registered, Step::AskAgain]);
}

#[test]
fn an_answer_older_than_the_change_does_not_count_as_it() {
    let change = Change { terms: other_terms(), host_cpus: vec![1], new_key: false };
    let changing =
        Partition { version: Some(TermsVersion(4)), ..partition(State::Offered { change: Some(change) }) };
    let before =
        RegisteredPartition { terms: other_terms(), version: TermsVersion(2), ..view(LendingState::Free, 0) };
    let taken = |step: &Step| matches!(step, Step::Event(Event::ChangeTaken(_)));
    assert!(!reconcile(&changing, Some(&before)).iter().any(taken));
}

#[test]
fn a_withdrawal_ends_as_the_registry_has_it() {
    let withdrawing = partition(State::Withdrawing);
    assert_eq!(reconcile(&withdrawing, None), [Step::Event(Event::Unregistered)]);
    assert_eq!(reconcile(&withdrawing, Some(&view(LendingState::Free, 0))), [Step::AskAgain]);
    let lent = view(lent_to_another(), 1);
    assert_eq!(reconcile(&withdrawing, Some(&lent)), [Step::Event(Event::StillRegistered)]);
}

#[test]
fn the_registry_is_told_of_what_it_lost_and_of_what_it_should_not_have() {
    assert_eq!(reconcile(&offered(), None), [Step::Register]);
    let stale = view(LendingState::Free, 0);
    assert_eq!(reconcile(&partition(State::Withdrawn), Some(&stale)), [Step::Unregister]);
    let other = RegisteredPartition { terms: other_terms(), ..stale };
    assert_eq!(reconcile(&offered(), Some(&other)), [Step::Register]);
}
