use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

/// From second 0 to second 100.
fn lease() -> LeaseCourse {
    LeaseCourse::begin(at(0), Duration::from_secs(100)).unwrap()
}

fn ended(reason: EndReason, second: i64) -> LeaseCourse {
    LeaseCourse { state: LeaseState::Ended(End { at: at(second), reason }), ..lease() }
}

#[test]
fn a_return_ends_the_lease_at_its_receipt_and_has_it_cleaned_and_settled() {
    let transition = lease().apply(LeaseEvent::Return, at(40)).unwrap();
    assert_eq!(transition.course, ended(EndReason::Returned, 40));
    assert_eq!(transition.effects, [LeaseEffect::AwaitClean, LeaseEffect::Settle]);
}

#[test]
fn an_end_at_the_host_keeps_its_reason() {
    let event = LeaseEvent::EndedAtHost(EndReason::HostLost);
    assert_eq!(lease().apply(event, at(40)).unwrap().course, ended(EndReason::HostLost, 40));
}

#[test]
fn a_lease_expires_at_its_last_moment_and_not_before() {
    assert_eq!(
        lease().apply(LeaseEvent::Expire, at(99)),
        Err(LeaseNotAllowed::NotExpired { until: at(100) })
    );
    assert_eq!(lease().apply(LeaseEvent::Expire, at(100)).unwrap().course, ended(EndReason::Expired, 100));
}

#[test]
fn a_return_that_comes_late_finds_the_lease_expired_and_costs_no_more() {
    assert_eq!(lease().apply(LeaseEvent::Return, at(500)).unwrap().course, ended(EndReason::Expired, 100));
}

#[test]
fn a_clock_set_back_never_ends_a_lease_before_its_start() {
    assert_eq!(lease().apply(LeaseEvent::Return, at(-5)).unwrap().course, ended(EndReason::Returned, 0));
}

#[test]
fn a_lease_ends_once() {
    let end = End { at: at(40), reason: EndReason::Returned };
    for state in [LeaseState::Ended(end), LeaseState::Settled(end)] {
        for event in [LeaseEvent::Return, LeaseEvent::Expire, LeaseEvent::EndedAtHost(EndReason::Recalled)] {
            let again = LeaseCourse { state, ..lease() }.apply(event, at(50));
            assert_eq!(again, Err(LeaseNotAllowed::HasEnded(end)));
        }
    }
}

#[test]
fn a_lease_is_settled_once_and_only_after_its_end() {
    assert_eq!(lease().apply(LeaseEvent::Settle, at(50)), Err(LeaseNotAllowed::StillActive));
    let settled = ended(EndReason::Returned, 40).apply(LeaseEvent::Settle, at(50)).unwrap();
    let end = End { at: at(40), reason: EndReason::Returned };
    assert_eq!(settled.effects, [LeaseEffect::WriteLedgerRow(end)]);
    assert_eq!(settled.course.apply(LeaseEvent::Settle, at(51)), Err(LeaseNotAllowed::IsSettled));
}

#[test]
fn a_reason_is_read_as_it_is_written() {
    for reason in EndReason::ALL {
        assert_eq!(reason.as_str().parse(), Ok(reason));
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
    }
    assert!("tired".parse::<EndReason>().is_err());
}

fn any_event() -> impl Strategy<Value = LeaseEvent> {
    prop_oneof![
        Just(LeaseEvent::Return),
        Just(LeaseEvent::Expire),
        Just(LeaseEvent::Settle),
        prop::sample::select(&EndReason::ALL[..]).prop_map(LeaseEvent::EndedAtHost),
    ]
}

proptest! {
    /// Whatever comes, in whatever order: one end, within the lease's time, one row in the ledger.
    #[test]
    fn any_history_ends_and_settles_a_lease_at_most_once(
        history in prop::collection::vec((any_event(), -20..200i64), 0..30)
    ) {
        let (mut lease, mut ends, mut rows) = (lease(), Vec::new(), Vec::new());
        for (event, second) in history {
            let Ok(transition) = lease.apply(event, at(second)) else { continue };
            lease = transition.course;
            for effect in transition.effects {
                match effect {
                    LeaseEffect::AwaitClean => ends.push(lease.end()),
                    LeaseEffect::WriteLedgerRow(end) => rows.push(Some(end)),
                    LeaseEffect::Settle => {}
                }
            }
        }
        prop_assert!(ends.len() <= 1 && rows.len() <= ends.len());
        prop_assert!(rows.iter().all(|row| ends.contains(row)));
        if let Some(end) = lease.end() {
            prop_assert!(lease.started_at <= end.at && end.at <= lease.expires_at);
            prop_assert!(end.at < lease.expires_at || end.reason == EndReason::Expired);
        }
    }
}
