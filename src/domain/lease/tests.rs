use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// From second 0 to second 100.
fn lease() -> LeaseCourse {
    LeaseCourse::begin(at(0), seconds(100), None).unwrap()
}

fn ended(reason: EndReason, second: i64) -> LeaseCourse {
    LeaseCourse { state: LeaseState::Ended(End { at: at(second), reason }), ..lease() }
}

/// Recalled at second 10, until second 60.
fn recalled() -> LeaseCourse {
    lease().apply(LeaseEvent::Recall { notice: Some(seconds(50)) }, at(10)).unwrap().course
}

fn at_host(how: HostEnd, confirmed: i64) -> LeaseEvent {
    LeaseEvent::EndedAtHost { how, confirmed_at: at(confirmed) }
}

#[test]
fn a_return_ends_the_lease_at_its_receipt_and_has_it_cleaned_and_settled() {
    let transition = lease().apply(LeaseEvent::Return, at(40)).unwrap();
    assert_eq!(transition.course, ended(EndReason::Returned, 40));
    assert_eq!(transition.effects, [LeaseEffect::AwaitClean, LeaseEffect::Settle]);
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
fn a_budget_that_is_spent_sooner_ends_the_lease_then() {
    let lease = LeaseCourse::begin(at(0), seconds(100), Some(seconds(30))).unwrap();
    assert_eq!(lease.planned_end(), End { at: at(30), reason: EndReason::BudgetSpent });
    let end = lease.apply(LeaseEvent::Expire, at(31)).unwrap().course.end();
    assert_eq!(end, Some(End { at: at(30), reason: EndReason::BudgetSpent }));
    let ample = LeaseCourse::begin(at(0), seconds(100), Some(seconds(100))).unwrap();
    assert_eq!(ample.planned_end().reason, EndReason::Expired);
}

#[test]
fn a_budget_that_lasts_beyond_all_time_is_never_spent() {
    let lease = LeaseCourse::begin(at(0), seconds(100), Some(seconds(u64::MAX))).unwrap();
    assert_eq!(lease.paid_until, None);
}

#[test]
fn a_recall_ends_the_lease_after_its_notice_and_is_told_to_the_host() {
    let notice = LeaseEvent::Recall { notice: Some(seconds(50)) };
    let transition = lease().apply(notice, at(10)).unwrap();
    assert_eq!(transition.effects, [LeaseEffect::Tell]);
    assert_eq!(transition.course.planned_end(), End { at: at(60), reason: EndReason::Recalled });
    let end = transition.course.apply(LeaseEvent::Expire, at(60)).unwrap().course.end();
    assert_eq!(end, Some(End { at: at(60), reason: EndReason::Recalled }));
}

#[test]
fn a_second_recall_shortens_no_notice() {
    let again = recalled().apply(LeaseEvent::Recall { notice: Some(seconds(0)) }, at(20)).unwrap();
    assert_eq!((again.course, again.effects), (recalled(), vec![]));
}

#[test]
fn a_recall_whose_notice_is_longer_than_the_lease_moves_no_end() {
    let transition = lease().apply(LeaseEvent::Recall { notice: Some(seconds(100)) }, at(10)).unwrap();
    assert_eq!(transition.effects, [LeaseEffect::Tell], "the borrower hears of it all the same");
    assert_eq!(transition.course.planned_end(), lease().planned_end());
}

#[test]
fn terms_without_a_notice_allow_no_recall() {
    let refused = lease().apply(LeaseEvent::Recall { notice: None }, at(10));
    assert_eq!(refused, Err(LeaseNotAllowed::NoRecall));
}

#[test]
fn a_renewal_moves_the_end_and_is_told_to_the_host() {
    let renew = LeaseEvent::Renew { asked_until: at(200), paid_until: None };
    let transition = lease().apply(renew, at(99)).unwrap();
    assert_eq!(transition.effects, [LeaseEffect::Tell]);
    assert_eq!(transition.course.planned_end(), End { at: at(200), reason: EndReason::Expired });
    let again = transition.course.apply(renew, at(99)).unwrap();
    assert_eq!((again.course, again.effects), (transition.course, vec![]), "said again it changes nothing");
}

#[test]
fn a_renewal_that_comes_late_or_makes_less_of_the_lease_or_after_a_recall_is_refused() {
    let renew =
        |asked, paid: Option<i64>| LeaseEvent::Renew { asked_until: at(asked), paid_until: paid.map(at) };
    let over = End { at: at(100), reason: EndReason::Expired };
    assert_eq!(lease().apply(renew(200, None), at(100)), Err(LeaseNotAllowed::HasEnded(over)));
    assert_eq!(lease().apply(renew(99, None), at(50)), Err(LeaseNotAllowed::Shorter { until: at(100) }));
    assert_eq!(lease().apply(renew(200, Some(150)), at(50)), Err(LeaseNotAllowed::SmallerBudget));
    let refused = recalled().apply(renew(200, None), at(50));
    assert_eq!(refused, Err(LeaseNotAllowed::IsRecalled { until: at(60) }));
}

#[test]
fn a_lost_hosts_lease_ends_at_the_last_moment_that_the_host_confirmed() {
    for event in [LeaseEvent::Lost { confirmed_at: at(40) }, at_host(HostEnd::Lost, 40)] {
        assert_eq!(lease().apply(event, at(5000)).unwrap().course, ended(EndReason::HostLost, 40));
    }
    let whole = lease().apply(LeaseEvent::Lost { confirmed_at: at(101) }, at(5000)).unwrap();
    assert_eq!(whole.course, ended(EndReason::Expired, 100), "a host that lived to the end was not lost");
}

#[test]
fn a_lease_of_a_silent_host_waits_for_its_word_as_long_as_the_grace() {
    let (grace, silent) = (seconds(60), HostWord::SilentSince(at(70)));
    assert_eq!(overdue(&lease(), silent, grace, at(99)), None);
    assert_eq!(overdue(&lease(), silent, grace, at(159)), None);
    let lost = LeaseEvent::Lost { confirmed_at: at(70) };
    assert_eq!(overdue(&lease(), silent, grace, at(160)), Some(lost));
    assert_eq!(overdue(&lease(), HostWord::NotYetHeard, grace, at(5000)), None);
    assert_eq!(overdue(&lease(), HostWord::Heard, grace, at(99)), None);
    assert_eq!(overdue(&lease(), HostWord::Heard, grace, at(100)), Some(LeaseEvent::Expire));
    assert_eq!(overdue(&ended(EndReason::Returned, 40), HostWord::Heard, grace, at(100)), None);
}

#[test]
fn a_reason_is_read_as_it_is_written() {
    for reason in EndReason::ALL {
        assert_eq!(reason.as_str().parse(), Ok(reason));
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
    }
    assert!("tired".parse::<EndReason>().is_err());
}

/// What each event does in each state, at second 50.
#[test]
fn every_event_is_decided_in_every_state() {
    use LeaseNotAllowed as Not;
    let end = End { at: at(40), reason: EndReason::Returned };
    let (over, done) = (ended(end.reason, 40), LeaseCourse { state: LeaseState::Settled(end), ..lease() });
    let renewed = LeaseCourse { asked_until: at(200), ..lease() };
    let called = LeaseCourse { recall: Some(Recall { asked_at: at(50), until: at(60) }), ..lease() };
    let renew = LeaseEvent::Renew { asked_until: at(200), paid_until: None };
    let recall = LeaseEvent::Recall { notice: Some(seconds(10)) };
    let table = [
        (lease(), LeaseEvent::Return, Ok(ended(EndReason::Returned, 50))),
        (lease(), at_host(HostEnd::Returned, 45), Ok(ended(EndReason::Returned, 50))),
        (lease(), at_host(HostEnd::Expired, 45), Ok(ended(EndReason::Expired, 50))),
        (lease(), at_host(HostEnd::Lost, 45), Ok(ended(EndReason::HostLost, 45))),
        (lease(), LeaseEvent::Expire, Err(Not::NotExpired { until: at(100) })),
        (lease(), LeaseEvent::Lost { confirmed_at: at(30) }, Ok(ended(EndReason::HostLost, 30))),
        (lease(), renew, Ok(renewed)),
        (lease(), recall, Ok(called)),
        (lease(), LeaseEvent::Settle, Err(Not::StillActive)),
        (over, LeaseEvent::Settle, Ok(done)),
        (done, LeaseEvent::Settle, Err(Not::IsSettled)),
    ];
    for (course, event, expected) in table {
        let after = course.apply(event, at(50)).map(|transition| transition.course);
        assert_eq!(after, expected, "{:?} {event:?}", course.state);
    }
    let late =
        [LeaseEvent::Return, LeaseEvent::Expire, renew, recall, LeaseEvent::Lost { confirmed_at: at(30) }];
    let late = late
        .into_iter()
        .chain([HostEnd::Returned, HostEnd::Expired, HostEnd::Lost].map(|how| at_host(how, 45)));
    for event in late {
        for course in [over, done] {
            assert_eq!(course.apply(event, at(50)), Err(Not::HasEnded(end)), "{:?} {event:?}", course.state);
        }
    }
}

fn any_event() -> impl Strategy<Value = LeaseEvent> {
    let moment = -20..300i64;
    prop_oneof![
        Just(LeaseEvent::Return),
        Just(LeaseEvent::Expire),
        Just(LeaseEvent::Settle),
        (moment.clone(), prop::sample::select(&[HostEnd::Returned, HostEnd::Expired, HostEnd::Lost][..]))
            .prop_map(|(confirmed, how)| at_host(how, confirmed)),
        moment.clone().prop_map(|confirmed| LeaseEvent::Lost { confirmed_at: at(confirmed) }),
        (moment.clone(), prop::option::of(moment))
            .prop_map(|(asked, paid)| LeaseEvent::Renew { asked_until: at(asked), paid_until: paid.map(at) }),
        prop::option::of(0..200u64).prop_map(|notice| LeaseEvent::Recall { notice: notice.map(seconds) }),
    ]
}

proptest! {
    /// Whatever comes, in whatever order: one end, within the lease's time, one row in the ledger; and an end that was
    /// planned comes sooner only by a recall.
    #[test]
    fn any_history_ends_and_settles_a_lease_at_most_once(
        paid in prop::option::of(0..150u64),
        history in prop::collection::vec((any_event(), -20..300i64), 0..30)
    ) {
        let mut lease = LeaseCourse::begin(at(0), seconds(100), paid.map(seconds)).unwrap();
        let (mut ends, mut rows) = (Vec::new(), Vec::new());
        for (event, second) in history {
            let Ok(transition) = lease.apply(event, at(second)) else { continue };
            let recall = matches!(event, LeaseEvent::Recall { .. });
            prop_assert!(recall || transition.course.planned_end().at >= lease.planned_end().at);
            let moved = transition.course.planned_end() != lease.planned_end();
            prop_assert!(!moved || transition.effects.contains(&LeaseEffect::Tell), "law 5: the host knows the end");
            lease = transition.course;
            for effect in transition.effects {
                match effect {
                    LeaseEffect::AwaitClean => ends.push(lease.end()),
                    LeaseEffect::WriteLedgerRow(end) => rows.push(Some(end)),
                    LeaseEffect::Settle | LeaseEffect::Tell => {}
                }
            }
        }
        prop_assert!(ends.len() <= 1 && rows.len() <= ends.len());
        prop_assert!(rows.iter().all(|row| ends.contains(row)));
        if let Some(end) = lease.end() {
            let planned = lease.planned_end();
            prop_assert!(lease.started_at <= end.at && end.at <= planned.at);
            prop_assert!(end.at < planned.at || end == planned);
        }
    }
}
