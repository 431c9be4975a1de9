use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use RegistrationEvent::{Change, Cleaned, LeaseEnded, Lend, Register, Withdraw};
use RegistrationState::{AwaitingClean, Free, Lent, Withdrawn};

const VERSION: TermsVersion = TermsVersion(3);
const EPOCH: Epoch = Epoch(5);

fn lease(number: u128) -> LeaseId {
    LeaseId(Uuid::from_u128(number))
}

fn registration(state: RegistrationState) -> Registration {
    Registration { version: VERSION, epoch: EPOCH, state }
}

/// What each event does in each state: `Ok((state, versions later, epochs later))`.
#[test]
fn every_event_is_decided_in_every_state() {
    use RegistrationNotAllowed as Not;
    let register = |other_terms, known: u64| Register { other_terms, known: Some(TermsVersion(known)) };
    let (same, other) = (register(false, 3), register(true, 3));
    let (same_late, other_late) = (register(false, 2), Register { other_terms: true, known: None });
    let withdraw = Withdraw { version: Some(VERSION) };
    let withdraw_any = Withdraw { version: None };
    let withdraw_late = Withdraw { version: Some(TermsVersion(2)) };
    let change = Change { version: VERSION, new_key: false };
    let stale = Change { version: TermsVersion(2), new_key: true };
    let new_key = Change { version: VERSION, new_key: true };
    let lend = Lend { lease: lease(2), accepted: VERSION };
    let lend_stale = Lend { lease: lease(2), accepted: TermsVersion(2) };
    let old = |expected| Err(Not::OtherVersion { current: VERSION, expected });
    let outdated = Err(Not::Outdated { current: VERSION });
    let (lent, waiting) = (Lent(lease(1)), AwaitingClean(lease(1)));
    let table = [
        (Free, same, Ok((Free, 0, 0))),
        (Free, same_late, Ok((Free, 0, 0))),
        (Free, other, Ok((Free, 1, 0))),
        (Free, register(true, 7), Ok((Free, 5, 0))),
        (Free, other_late, outdated),
        (Free, change, Ok((Free, 1, 0))),
        (Free, new_key, Ok((Free, 1, 1))),
        (Free, stale, old(TermsVersion(2))),
        (Free, withdraw, Ok((Withdrawn, 0, 0))),
        (Free, withdraw_any, Ok((Withdrawn, 0, 0))),
        (Free, withdraw_late, old(TermsVersion(2))),
        (Free, lend, Ok((Lent(lease(2)), 0, 1))),
        (Free, lend_stale, old(TermsVersion(2))),
        (Free, LeaseEnded(lease(1)), Err(Not::NotLentBy(lease(1)))),
        (Free, Cleaned(lease(1)), Err(Not::NotLentBy(lease(1)))),
        (lent, same, Ok((lent, 0, 0))),
        (lent, other, Err(Not::Lent)),
        (lent, change, Err(Not::Lent)),
        (lent, new_key, Err(Not::Lent)),
        (lent, stale, old(TermsVersion(2))),
        (lent, same_late, Ok((lent, 0, 0))),
        (lent, withdraw, Err(Not::Lent)),
        (lent, lend, Err(Not::Lent)),
        (lent, LeaseEnded(lease(1)), Ok((waiting, 0, 0))),
        (lent, LeaseEnded(lease(2)), Err(Not::NotLentBy(lease(2)))),
        (lent, Cleaned(lease(1)), Err(Not::StillLent(lease(1)))),
        (lent, Cleaned(lease(2)), Err(Not::NotLentBy(lease(2)))),
        (waiting, same, Ok((waiting, 0, 0))),
        (waiting, other, Err(Not::AwaitingClean)),
        (waiting, change, Err(Not::AwaitingClean)),
        (waiting, new_key, Err(Not::AwaitingClean)),
        (waiting, stale, old(TermsVersion(2))),
        (waiting, withdraw, Err(Not::AwaitingClean)),
        (waiting, lend, Err(Not::AwaitingClean)),
        (waiting, LeaseEnded(lease(1)), Ok((waiting, 0, 0))),
        (waiting, LeaseEnded(lease(2)), Err(Not::NotLentBy(lease(2)))),
        (waiting, Cleaned(lease(1)), Ok((Free, 0, 0))),
        (waiting, Cleaned(lease(2)), Err(Not::NotLentBy(lease(2)))),
        (Withdrawn, same, Ok((Free, 1, 0))),
        (Withdrawn, other, Ok((Free, 1, 0))),
        (Withdrawn, same_late, outdated),
        (Withdrawn, other_late, outdated),
        (Withdrawn, change, Err(Not::Withdrawn)),
        (Withdrawn, new_key, Err(Not::Withdrawn)),
        (Withdrawn, stale, old(TermsVersion(2))),
        (Withdrawn, withdraw, Ok((Withdrawn, 0, 0))),
        (Withdrawn, withdraw_late, Ok((Withdrawn, 0, 0))),
        (Withdrawn, lend, Err(Not::Withdrawn)),
        (Withdrawn, LeaseEnded(lease(1)), Err(Not::NotLentBy(lease(1)))),
        (Withdrawn, Cleaned(lease(1)), Err(Not::NotLentBy(lease(1)))),
    ];
    for (state, event, expected) in table {
        let expected = expected.map(|(state, versions, epochs)| Registration {
            version: TermsVersion(VERSION.0 + versions),
            epoch: Epoch(EPOCH.0 + epochs),
            state,
        });
        assert_eq!(registration(state).apply(event), expected, "{state:?} {event:?}");
    }
}

fn any_version() -> impl Strategy<Value = Option<TermsVersion>> {
    prop::option::of((1..6u64).prop_map(TermsVersion))
}

fn any_event() -> impl Strategy<Value = RegistrationEvent> {
    let some_lease = (0..4u128).prop_map(lease);
    prop_oneof![
        (any::<bool>(), any_version()).prop_map(|(other_terms, known)| Register { other_terms, known }),
        (1..6u64, any::<bool>())
            .prop_map(|(version, new_key)| Change { version: TermsVersion(version), new_key }),
        any_version().prop_map(|version| Withdraw { version }),
        (some_lease.clone(), 1..6u64)
            .prop_map(|(lease, version)| Lend { lease, accepted: TermsVersion(version) }),
        some_lease.clone().prop_map(LeaseEnded),
        some_lease.prop_map(Cleaned),
    ]
}

proptest! {
    /// Laws 1, 3 and 4, over any history.
    #[test]
    fn versions_and_epochs_only_grow_and_nothing_changes_while_it_is_lent(
        history in prop::collection::vec(any_event(), 0..60)
    ) {
        let mut now = Registration::new(None);
        for event in history {
            let Ok(next) = now.apply(event) else { continue };
            prop_assert!(next.version >= now.version && next.epoch >= now.epoch);
            if let Lent(lease) = now.state {
                prop_assert_eq!(next.version, now.version);
                prop_assert!(next.state == now.state || next.state == AwaitingClean(lease));
            }
            if let Lent(_) = next.state {
                prop_assert!(next.state == now.state || (now.state == Free && next.epoch > now.epoch));
            }
            now = next;
        }
    }
}
