use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::{money::Price, resources::Allocation};

fn terms(memory_mib: u64) -> Terms {
    Terms {
        allocation: Allocation { cpus: 1, memory_mib, disk_mib: 64 },
        price: Price { per_hour_micros: 1000, currency: "EUR".parse().unwrap() },
        os_images: ["debian-micro".to_owned()].into(),
        cpu_model: "a CPU".to_owned(),
        network: Default::default(),
        qualities: Default::default(),
        lending: Default::default(),
    }
}

fn carved() -> Partition {
    Partition::carved(terms(256), vec![1])
}

fn lease(epoch: u64) -> OpenLease {
    OpenLease {
        lease: LeaseId(Uuid::from_u128(epoch.into())),
        borrower: BorrowerId(Uuid::from_u128(7)),
        epoch: Epoch(epoch),
        expires_at: Timestamp::UNIX_EPOCH,
    }
}

/// The partition after `events`, each of which must be allowed.
fn after_events(events: impl IntoIterator<Item = Event>) -> Partition {
    events.into_iter().fold(carved(), |partition, event| partition.apply(event).unwrap().partition)
}

fn offered() -> Partition {
    after_events([Event::Offer, Event::Registered(Some(TermsVersion(1)))])
}

fn lent() -> Partition {
    offered().apply(Event::Open(lease(1))).unwrap().partition
}

fn change() -> Change {
    Change { terms: terms(512), host_cpus: vec![1], new_key: false }
}

#[test]
fn a_partition_goes_round_from_carved_to_offered_again() {
    let round = [Event::Open(lease(1)), Event::End(HostEnd::Returned), Event::Wiped, Event::Ready];
    let partition = round.into_iter().fold(offered(), |p, event| p.apply(event).unwrap().partition);
    assert_eq!(partition.state, State::Offered { change: None });
    assert_eq!((partition.epoch(), partition.least_epoch), (Epoch(1), Epoch(2)));
}

#[test]
fn the_end_of_the_lease_that_is_open_moves_and_of_no_other() {
    let expires_at = Timestamp::from_second(60).unwrap();
    let moved = Event::EndMoved { lease: lease(1).lease, expires_at };
    let transition = lent().apply(moved.clone()).unwrap();
    assert_eq!(transition.partition.lease().map(|lease| lease.expires_at), Some(expires_at));
    assert_eq!(transition.effects, [Effect::MoveEnd]);
    assert_eq!(
        transition.partition.apply(moved.clone()).unwrap().effects,
        [],
        "said again it changes nothing"
    );
    let other = Event::EndMoved { lease: lease(2).lease, expires_at };
    assert_eq!(lent().apply(other), Err(NotAllowed::NotLent));
    assert_eq!(offered().apply(moved), Err(NotAllowed::NotLent));
}

#[test]
fn a_new_key_of_a_host_without_registry_voids_those_that_were_issued() {
    let direct = after_events([Event::Offer, Event::Registered(None), Event::KeyIssued(Epoch(2))]);
    let asked = direct.apply(Event::Change(Change { new_key: true, ..change() })).unwrap().partition;
    let changed = asked.apply(Event::ChangeTaken(None)).unwrap().partition;
    assert_eq!(changed.apply(Event::Open(lease(2))), Err(NotAllowed::EpochPassed));
}

fn of_kind(kind: Kind) -> Partition {
    Partition { kind, ..carved() }
}

/// What is to be done about each of `events`, one after another.
fn effects_of(
    partition: Partition,
    events: impl IntoIterator<Item = Event>,
) -> (Partition, Vec<Vec<Effect>>) {
    let mut all = Vec::new();
    let partition = events.into_iter().fold(partition, |partition, event| {
        let Transition { partition, effects } = partition.apply(event).unwrap();
        all.push(effects);
        partition
    });
    (partition, all)
}

#[test]
fn a_declared_partition_is_built_when_it_is_borrowed_and_is_a_promise_again_after_the_lease() {
    let offer = [Event::Offer, Event::Registered(Some(TermsVersion(1)))];
    let (offered, effects) = effects_of(of_kind(Kind::Declared), offer);
    assert_eq!(effects, [vec![Effect::Register], vec![]], "nothing is built");
    assert!(!offered.is_created() && !offered.has_disk() && offered.needs_machine().is_err());
    let (lent, effects) = effects_of(offered.clone(), [Event::Open(lease(1))]);
    let receipt = Effect::OpenReceipt { lease: lease(1).lease };
    assert_eq!(effects, [[Effect::ShapeDisk, Effect::PrepareMachine, Effect::GuardEnd, receipt]]);
    assert!(lent.is_created() && lent.has_disk() && lent.needs_machine().is_ok());
    let (again, effects) = effects_of(lent, [Event::End(HostEnd::Returned), Event::Wiped]);
    assert_eq!(effects[1], [Effect::ReportCleaned { lease: lease(1).lease }]);
    assert_eq!((&again.state, again.is_created()), (&offered.state, false));
    let changed = offered.apply(Event::Change(change())).unwrap().partition;
    assert_eq!(changed.apply(Event::ChangeTaken(None)).unwrap().effects, []);
}

#[test]
fn the_owners_partition_is_never_offered_and_its_leases_are_nothing_to_the_registry() {
    let own = of_kind(Kind::Owners);
    assert_eq!(own.clone().apply(Event::Offer), Err(NotAllowed::Owners));
    let (used, effects) = effects_of(own.clone(), [Event::KeyIssued(Epoch(2)), Event::Open(lease(2))]);
    assert_eq!(effects[1], [Effect::ShapeDisk, Effect::PrepareMachine, Effect::GuardEnd]);
    assert_eq!(used.clone().apply(Event::Release), Err(NotAllowed::HeldBy(lease(2).lease)));
    let (back, effects) = effects_of(used, [Event::End(HostEnd::Returned), Event::Wiped]);
    assert_eq!(effects, [vec![Effect::EndJobs, Effect::DiscardMachine, Effect::Wipe], vec![]]);
    assert_eq!(back.state, State::Carved);
    assert_eq!(back.clone().apply(Event::Open(lease(2))), Err(NotAllowed::EpochPassed));
    assert_eq!(carved().apply(Event::Open(lease(1))), Err(NotAllowed::NotOffered));
    assert!(back.apply(Event::Release).is_ok());
}

#[test]
fn a_lent_partition_is_changed_offered_withdrawn_and_released_by_nobody() {
    for event in [Event::Change(change()), Event::Offer, Event::Withdraw, Event::Release] {
        let refusal = lent().apply(event).unwrap_err();
        assert_eq!(refusal, NotAllowed::HeldBy(lease(1).lease));
        assert!(refusal.to_string().contains(&lease(1).lease.to_string()), "it names the lease");
    }
}

#[test]
fn a_second_borrower_is_refused_and_the_first_is_let_in_again() {
    assert_eq!(lent().apply(Event::Open(lease(2))), Err(NotAllowed::Lent));
    assert_eq!(lent().apply(Event::Open(lease(1))).unwrap().partition, lent());
}

#[test]
fn the_key_of_a_lease_that_ended_opens_nothing() {
    let again = [Event::End(HostEnd::Expired), Event::Wiped, Event::Ready];
    let partition = again.into_iter().fold(lent(), |p, event| p.apply(event).unwrap().partition);
    assert_eq!(partition.apply(Event::Open(lease(1))), Err(NotAllowed::EpochPassed));
}

#[test]
fn the_key_of_a_lease_that_ended_unopened_opens_nothing() {
    let over = Event::LeaseOver { lease: Some(lease(4).lease), epoch: Epoch(4) };
    let Transition { partition, effects } = offered().apply(over).unwrap();
    assert_eq!(effects, [Effect::ReportCleaned { lease: lease(4).lease }]);
    assert_eq!(partition.apply(Event::Open(lease(4))), Err(NotAllowed::EpochPassed));
}

#[test]
fn a_lease_that_the_registry_ended_is_scrubbed_and_not_reported_as_ended() {
    let over = Event::LeaseOver { lease: Some(lease(1).lease), epoch: Epoch(1) };
    let effects = lent().apply(over).unwrap().effects;
    let receipt = Effect::CloseReceipt { lease: lease(1).lease, how: None };
    assert_eq!(effects, [receipt, Effect::EndJobs, Effect::DiscardMachine, Effect::Wipe]);
}

#[test]
fn news_of_an_earlier_lease_does_not_end_the_one_that_is_open() {
    let partition = offered().apply(Event::Open(lease(3))).unwrap().partition;
    let over = Event::LeaseOver { lease: Some(lease(2).lease), epoch: Epoch(2) };
    let after = partition.apply(over).unwrap();
    assert_eq!((after.partition.lease(), after.effects), (Some(&lease(3)), vec![]));
}

#[test]
fn a_new_key_makes_void_the_ones_that_were_not_used() {
    let partition = offered().apply(Event::KeyIssued(Epoch(2))).unwrap().partition;
    assert_eq!(partition.clone().apply(Event::Open(lease(1))), Err(NotAllowed::EpochPassed));
    assert!(partition.apply(Event::Open(lease(2))).is_ok());
}

#[test]
fn a_change_of_an_offer_asks_the_registry_before_the_host_changes_anything() {
    let Transition { partition, effects } = offered().apply(Event::Change(change())).unwrap();
    assert_eq!((partition.terms.clone(), effects), (terms(256), vec![Effect::AskChange]));
    assert_eq!(partition.clone().apply(Event::Open(lease(1))), Err(NotAllowed::NotReady));
    let refused = partition.clone().apply(Event::ChangeRefused).unwrap();
    assert_eq!(refused.partition, offered());
    let taken = partition.apply(Event::ChangeTaken(Some(TermsVersion(2)))).unwrap();
    assert_eq!(taken.partition.terms, terms(512));
    assert_eq!(taken.effects, [Effect::DiscardMachine, Effect::ShapeDisk, Effect::PrepareMachine]);
}

#[test]
fn a_change_of_the_price_alone_leaves_the_machine_be() {
    let mut dearer = Change { terms: terms(256), host_cpus: vec![1], new_key: false };
    dearer.terms.price.per_hour_micros = 2000;
    let asked = offered().apply(Event::Change(dearer)).unwrap().partition;
    assert_eq!(asked.apply(Event::ChangeTaken(None)).unwrap().effects, []);
}

#[test]
fn an_offer_that_was_not_registered_is_as_it_was() {
    let refused = after_events([Event::Offer, Event::NotRegistered]);
    assert_eq!(refused, carved());
    let withdrawn = [Event::Offer, Event::Registered(None), Event::Withdraw, Event::Unregistered];
    let withdrawn = after_events(withdrawn);
    let again = withdrawn.clone().apply(Event::Offer).unwrap().partition;
    assert_eq!(again.apply(Event::NotRegistered).unwrap().partition, withdrawn);
}

#[test]
fn only_a_clean_partition_can_be_withdrawn_after_its_lease() {
    let scrubbing = lent().apply(Event::End(HostEnd::Returned)).unwrap().partition;
    assert_eq!(scrubbing.clone().apply(Event::Withdraw), Err(NotAllowed::NotReady));
    let clean = scrubbing.apply(Event::Wiped).unwrap().partition;
    let effects = clean.apply(Event::Withdraw).unwrap().effects;
    assert_eq!(effects, [Effect::ReportCleaned { lease: lease(1).lease }, Effect::Unregister]);
}

#[test]
fn a_withdrawal_the_registry_refuses_leaves_the_offer_standing() {
    let withdrawing = offered().apply(Event::Withdraw).unwrap().partition;
    assert_eq!(withdrawing.apply(Event::StillRegistered).unwrap().partition, offered());
}

#[test]
fn what_is_undone_again_need_not_be_done() {
    let mut pending = vec![Effect::PrepareMachine, Effect::Register, Effect::Wipe];
    let withdrawn = after_events([Event::Offer]).apply(Event::Withdraw).unwrap();
    pending::add(&mut pending, &withdrawn);
    assert_eq!(pending, [Effect::PrepareMachine, Effect::Wipe, Effect::Unregister]);
    pending::add(&mut pending, &withdrawn.partition.apply(Event::Unregistered).unwrap());
    assert_eq!(pending, [Effect::Wipe, Effect::DiscardMachine]);
}

#[test]
fn a_receipt_begins_when_the_partition_is_opened_and_is_closed_while_its_machine_is_still_there() {
    let opened = offered().apply(Event::Open(lease(1))).unwrap();
    assert_eq!(opened.effects, [Effect::GuardEnd, Effect::OpenReceipt { lease: lease(1).lease }]);
    let effects = opened.partition.apply(Event::End(HostEnd::Expired)).unwrap().effects;
    let place = |wanted: &Effect| effects.iter().position(|effect| effect == wanted);
    let closed = Effect::CloseReceipt { lease: lease(1).lease, how: Some(HostEnd::Expired) };
    assert!(place(&closed).is_some() && place(&closed) < place(&Effect::DiscardMachine));
}

/// Else its refusal would hold up for ever what comes after it.
#[test]
fn a_withdrawal_that_the_registry_does_not_follow_is_not_asked_for_again() {
    let withdrawing = offered().apply(Event::Withdraw).unwrap();
    let mut pending = Vec::new();
    pending::add(&mut pending, &withdrawing);
    pending::add(&mut pending, &withdrawing.partition.apply(Event::StillRegistered).unwrap());
    assert_eq!(pending, [Effect::PrepareMachine]);
}

/// The registry refuses to forget what it believes to be unclean.
#[test]
fn a_report_does_not_wait_for_a_question() {
    let mut pending = Vec::new();
    let withdrawing = offered().apply(Event::Withdraw).unwrap();
    pending::add(&mut pending, &withdrawing);
    let over = Event::LeaseOver { lease: Some(lease(3).lease), epoch: Epoch(3) };
    pending::add(&mut pending, &withdrawing.partition.apply(over).unwrap());
    assert_eq!(pending, [Effect::ReportCleaned { lease: lease(3).lease }, Effect::Unregister]);
}

#[test]
fn a_report_that_is_still_to_be_made_is_made_once() {
    let mut pending = Vec::new();
    for _ in 0..3 {
        let over = Event::LeaseOver { lease: Some(lease(3).lease), epoch: Epoch(3) };
        pending::add(&mut pending, &offered().apply(over).unwrap());
    }
    assert_eq!(pending, [Effect::ReportCleaned { lease: lease(3).lease }]);
}

fn an_event() -> impl Strategy<Value = Event> {
    let epoch = || (0..6u64).prop_map(Epoch);
    prop_oneof![
        Just(Event::Offer),
        proptest::option::of((1..9u64).prop_map(TermsVersion)).prop_map(Event::Registered),
        Just(Event::NotRegistered),
        (64..70u64, any::<bool>()).prop_map(|(m, new_key)| {
            Event::Change(Change { terms: terms(m), host_cpus: vec![m as u32], new_key })
        }),
        (0..6u64, 0..100i64).prop_map(|(epoch, second)| Event::EndMoved {
            lease: lease(epoch).lease,
            expires_at: Timestamp::from_second(second).unwrap()
        }),
        Just(Event::ChangeTaken(None)),
        Just(Event::ChangeRefused),
        Just(Event::Withdraw),
        Just(Event::Unregistered),
        Just(Event::StillRegistered),
        epoch().prop_map(Event::KeyIssued),
        epoch().prop_map(|epoch| Event::Open(lease(epoch.0))),
        Just(Event::End(HostEnd::Returned)),
        epoch().prop_map(|epoch| Event::LeaseOver { lease: Some(lease(epoch.0).lease), epoch }),
        Just(Event::Wiped),
        Just(Event::Ready),
        Just(Event::Release),
    ]
}

proptest! {
    #[test]
    fn no_key_opens_a_later_lease_and_none_is_made_before_the_last_was_wiped(
        events in proptest::collection::vec(an_event(), 0..60),
    ) {
        let mut partition = carved();
        let mut last_epoch = None;
        let mut effects_since_lease: Option<Vec<Effect>> = None;
        for event in events {
            let Ok(next) = partition.clone().apply(event) else { continue };
            let open = |partition: &Partition| partition.lease().map(|lease| lease.lease);
            if let (Some(now), false) = (next.partition.lease(), open(&next.partition) == open(&partition)) {
                prop_assert!(partition.lease().is_none(), "law 1: two leases at once");
                prop_assert!(Some(now.epoch) > last_epoch, "law 4: epochs grow");
                if let Some(effects) = &effects_since_lease {
                    let done = |effect| effects.iter().position(|done| *done == effect);
                    let (discarded, wiped) = (done(Effect::DiscardMachine), done(Effect::Wipe));
                    prop_assert!(discarded.is_some() && discarded < wiped, "law 8: wiped in between");
                }
                last_epoch = Some(now.epoch);
                effects_since_lease = Some(vec![]);
            }
            effects_since_lease.iter_mut().for_each(|effects| effects.extend(next.effects.clone()));
            partition = next.partition;
        }
    }

    #[test]
    fn an_allocation_changes_only_unoffered_or_through_its_registry(
        events in proptest::collection::vec(an_event(), 0..60),
    ) {
        let mut partition = carved();
        for event in events {
            let Ok(next) = partition.clone().apply(event.clone()) else { continue };
            if next.partition.terms != partition.terms {
                let free = matches!(partition.state, State::Carved | State::Withdrawn);
                let through_registry = matches!(event, Event::ChangeTaken(_))
                    && matches!(partition.state, State::Offered { .. });
                prop_assert!(free || through_registry, "law 3: {event:?} in {:?}", partition.state);
            }
            prop_assert!(next.partition.least_epoch >= partition.least_epoch);
            partition = next.partition;
        }
    }
}
