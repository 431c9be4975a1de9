//! A disk's rate limits: how long its requests wait, and that it is counted.

use std::sync::atomic::Ordering;

use sublet_vmm_protocol::RateLimit;

use super::*;

#[test]
fn a_limit_lets_its_burst_through_and_then_waits() {
    for engine in ENGINES {
        let place = Place::new(false);
        let operations = Some(RateLimit { per_second: 1, burst: 3 });
        let mut server = place.server(engine, DiskLimits { operations, bytes: None });
        place.write(HEADER, FLUSH);
        let chains: Vec<_> = (0..5)
            .flat_map(|number| {
                let head = Descriptor::new(HEADER, 16, NEXT, number + 8);
                [(number, head), (number + 8, status_at(STATUS + u64::from(number)))]
            })
            .collect();
        place.describe(0, &chains);
        place.offer(5);
        let call = None;
        let mut session =
            Session { features: FEATURES, queues: vec![Some(ActiveQueue { queue: queue(0), call })] };
        let next = std::iter::repeat_with(|| server.serve(&mut session).unwrap())
            .find(|next| matches!(next, Next::After(_)));
        assert!(matches!(next, Some(Next::After(wait)) if wait <= Duration::from_secs(1)), "{next:?}");
        assert_eq!(session.queues[0].as_ref().unwrap().queue.next_avail(), 3);
    }
}

#[test]
fn time_that_a_limit_holds_requests_up_is_counted_and_time_without_any_is_not() {
    let place = Place::new(false);
    let operations = Some(RateLimit { per_second: 1, burst: 1 });
    let mut server = place.server(ENGINES[0], DiskLimits { operations, bytes: None });
    let held_up_ns = server.held_up_ns();
    place.write(HEADER, FLUSH);
    let heads = [0, 1].map(|number| (number, Descriptor::new(HEADER, 16, NEXT, number + 8)));
    let statuses = [0, 1].map(|number| (number + 8, status_at(STATUS + u64::from(number))));
    place.describe(0, &[heads, statuses].concat());
    let call = None;
    let mut session =
        Session { features: FEATURES, queues: vec![Some(ActiveQueue { queue: queue(0), call })] };
    let mut serve_until = |server: &mut Server, taken: u16| {
        while session.queues[0].as_ref().unwrap().queue.next_avail() < taken {
            server.serve(&mut session).unwrap();
        }
        server.serve(&mut session).unwrap();
    };
    place.offer(1);
    serve_until(&mut server, 1);
    assert_eq!(held_up_ns.load(Ordering::Relaxed), 0, "nothing waited while it was in debt");
    place.offer(2);
    serve_until(&mut server, 2);
    let held_up = Duration::from_nanos(held_up_ns.load(Ordering::Relaxed));
    assert!(held_up > Duration::ZERO && held_up < PATIENCE, "{held_up:?}");
}
