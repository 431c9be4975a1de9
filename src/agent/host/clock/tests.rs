use std::time::Instant;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn seconds(seconds: f64) -> SignedDuration {
    SignedDuration::from_secs_f64(seconds)
}

/// A clock of a host that was started once, whose agent finds its wall clock to show `wall`.
fn started(directory: &TempDir, host_boot: &str, wall: Timestamp) -> LeaseClock {
    LeaseClock::of(Clock::held_at(wall), BootTime::Host, directory.path(), host_boot).unwrap()
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// By how much the clock is ahead of `expected`; what passes while it is looked at is within the minute.
fn assert_about(clock: &LeaseClock, expected: Timestamp) {
    let ahead = clock.now().duration_since(expected);
    assert!((SignedDuration::ZERO..SignedDuration::from_secs(60)).contains(&ahead), "{ahead:?}");
}

#[test]
fn the_registrys_clock_goes_on_from_where_it_was_heard() {
    let directory = directory();
    let clock = started(&directory, "b1", at(0));
    assert_eq!(clock.now(), at(0), "nothing was heard yet");
    clock.hear(at(7200), clock.boottime()).unwrap();
    assert_about(&clock, at(7200));
}

#[test]
fn an_agent_that_is_started_again_goes_by_what_was_heard_whatever_its_wall_clock_shows() {
    let directory = directory();
    let clock = started(&directory, "b1", at(0));
    clock.hear(at(0), clock.boottime()).unwrap();
    for wrong in [at(-3600), at(3600)] {
        assert_about(&started(&directory, "b1", wrong), at(0));
    }
}

#[test]
fn a_host_that_is_started_again_goes_on_by_its_wall_clock_but_never_back_past_what_was_heard() {
    let directory = directory();
    let clock = started(&directory, "b1", at(-100));
    clock.hear(at(0), clock.boottime()).unwrap();
    assert_about(&started(&directory, "b2", at(500)), at(600));
    assert_about(&started(&directory, "b2", at(-100_000)), at(0));
    let again = started(&directory, "b2", at(500));
    again.hear(at(610), again.boottime()).unwrap();
    assert_about(&started(&directory, "b2", at(-100_000)), at(610));
}

#[test]
fn it_is_written_down_when_that_says_something_new_and_now_and_then() {
    let reading = |registry: f64, at_seconds| Reading {
        registry: at(0) + seconds(registry),
        at: Duration::from_secs(at_seconds),
    };
    let kept = Kept { registry: at(0), host_boot: "b1".to_owned(), boottime_us: 0, wall: at(0) };
    assert!(kept.still_says(reading(59.0, 59), "b1"));
    assert!(!kept.still_says(reading(60.0, 60), "b1"));
    assert!(!kept.still_says(reading(5.2, 5), "b1") && !kept.still_says(reading(4.8, 5), "b1"));
    assert!(!kept.still_says(reading(5.0, 5), "b2"));
}

#[test]
fn a_slow_answer_does_not_set_the_clock_back_and_a_quick_one_after_it_sets_it_right() {
    let known = Reading { registry: at(100), at: Duration::from_secs(100) };
    // Asked at 101 s, said at 101 s, here at 109 s.
    let slow = Reading::after(Some(known), at(101), Duration::from_secs(101), Duration::from_secs(109));
    assert!(at(109).duration_since(slow.registry) <= seconds(0.01), "{slow:?}");
    let first = Reading::after(None, at(101), Duration::from_secs(101), Duration::from_secs(109));
    assert_eq!(first.registry, at(101));
    let quick = Reading::after(Some(first), at(110), Duration::from_secs(110), Duration::from_secs(110));
    assert_eq!(quick.registry, at(110));
}

#[test]
fn a_registry_whose_clock_was_set_back_is_followed_with_its_next_answer() {
    let known = Reading { registry: at(100), at: MINUTE };
    let next = Reading::after(Some(known), at(50), MINUTE, MINUTE + Duration::from_secs(1));
    assert_eq!(next.registry, at(51), "it cannot be later there than that");
}

#[test]
fn a_moment_that_has_passed_is_now() {
    let directory = directory();
    let clock = started(&directory, "b1", at(0));
    assert_eq!(clock.until(Timestamp::MIN), Duration::ZERO);
    let (before, at) = (boottime().as_nanos(), clock.boottime_ns_at(Timestamp::MIN));
    assert!(u128::from(at) >= before && u128::from(at) <= boottime().as_nanos());
}

#[test]
fn the_last_moment_there_is_does_not_overflow() {
    assert!(started(&directory(), "b1", at(0)).boottime_ns_at(Timestamp::MAX) > 0);
}

#[test]
fn what_was_heard_is_read_quickly_however_slow_the_disk_is() {
    let directory = directory();
    let clock = started(&directory, "b1", at(0));
    clock.hear(at(0), clock.boottime()).unwrap();
    let _writing = clock.kept.lock().unwrap();
    let begun = Instant::now();
    clock.now();
    assert!(begun.elapsed() < MINUTE, "nobody waits for what is being written");
}

proptest! {
    /// Law 5, as far as it hangs on clocks: whatever the ways to and from the registry take, the host's notion of its clock is
    /// never ahead by more than the way there, nor behind by more than the quickest way back lately, beside the drift.
    #[test]
    fn the_clock_is_as_wrong_as_the_quickest_answers_at_most(
        answers in prop::collection::vec((1u64..10_000, 0u64..3_000, 0u64..3_000), 1..200),
    ) {
        let (mut boottime, mut reading, mut quickest) = (Duration::from_secs(1000), None, None);
        // Host and registry go as fast as one another here: their clocks are as far apart as at first.
        let registry_at = |boottime: Duration| at(0) + SignedDuration::try_from(boottime).unwrap();
        for (pause_ms, there_ms, back_ms) in answers {
            boottime += Duration::from_millis(pause_ms);
            let asked_at = boottime;
            let said = registry_at(asked_at + Duration::from_millis(there_ms));
            boottime += Duration::from_millis(there_ms + back_ms);
            let next = Reading::after(reading, said, asked_at, boottime);
            let behind = registry_at(boottime).duration_since(next.registry);
            // What the quickest answer said wears off with the time that passes since.
            let worn = |(back, at): (SignedDuration, Duration)| {
                back + SignedDuration::try_from((boottime - at) * DRIFT_PPM / 1_000_000).unwrap() + seconds(0.001)
            };
            let own = (SignedDuration::try_from(Duration::from_millis(back_ms)).unwrap(), boottime);
            quickest = Some(quickest.map_or(own, |before| if worn(before) < own.0 { before } else { own }));
            prop_assert!(behind <= worn(quickest.unwrap()), "behind by {behind:?}");
            prop_assert!(behind >= SignedDuration::ZERO, "ahead by {:?}", -behind);
            reading = Some(next);
        }
    }
}
