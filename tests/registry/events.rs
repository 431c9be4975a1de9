//! `GET /v1/events`: who is told what, and how a stream goes on.

use jiff::Timestamp;
use sublet::{
    api::{
        problem::Code,
        registry::{Event, EventKind, Heartbeat, ReportedViolation},
    },
    client::MarketEvents,
    domain::receipt::segment::{self, Watched},
};

use crate::{
    market::{Host, end, lease, terms, wish},
    server::{DEADLINE, Database, Server, assert_refused},
};

async fn next(events: &mut MarketEvents) -> Event {
    let next = tokio::time::timeout(DEADLINE, events.next()).await;
    next.expect("an event in time").unwrap().expect("the stream goes on")
}

async fn kinds(events: &mut MarketEvents, count: usize) -> Vec<EventKind> {
    let mut kinds = Vec::new();
    for _ in 0..count {
        kinds.push(next(events).await.kind);
    }
    kinds
}

#[tokio::test]
async fn lender_and_borrower_are_each_told_of_a_lease_from_offer_to_offer() {
    use EventKind::{
        Following, HostUp, LeaseEnded, LeaseMade, OfferChanged, OfferFree, OfferRegistered, OfferTaken,
        OfferWithdrawn, Violation,
    };
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let (mut lenders, mut bobs) = (lender.events(None).await.unwrap(), bob.events(None).await.unwrap());
    let mut carols = server.borrower("carol").events(None).await.unwrap();
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(1, 5)).await;
    let changed = host.change(offer.partition, offer.version, terms(1, 6)).await.unwrap();
    let granted = lease(&bob, &wish(&changed, 600)).await.unwrap();
    let ended = end(&bob, &granted).await.unwrap();
    host.cleaned(&ended).await;
    let violation = ReportedViolation {
        partition: offer.partition,
        lease: None,
        violation: segment::Violation {
            at: Timestamp::UNIX_EPOCH,
            what: Watched::Affinity,
            subject: "thread vcpu0".to_owned(),
            before: "CPU 1".to_owned(),
            after: "CPU 0".to_owned(),
            restored: true,
        },
    };
    host.beat(Heartbeat { violations: vec![violation], ..Heartbeat::default() }).await;
    host.withdraw(offer.partition).await.unwrap();

    let offers = [OfferRegistered, OfferChanged, OfferTaken, OfferFree, OfferWithdrawn];
    let lease = [LeaseMade, LeaseEnded];
    let all = [
        Following,
        HostUp,
        OfferRegistered,
        OfferChanged,
        OfferTaken,
        LeaseMade,
        LeaseEnded,
        OfferFree,
        Violation,
        OfferWithdrawn,
    ];
    assert_eq!(kinds(&mut lenders, all.len()).await, all);
    let bobs_own: Vec<_> = all
        .into_iter()
        .filter(|kind| *kind == Following || offers.contains(kind) || lease.contains(kind))
        .collect();
    assert_eq!(kinds(&mut bobs, bobs_own.len()).await, bobs_own);
    let public: Vec<_> = all.into_iter().filter(|kind| *kind == Following || offers.contains(kind)).collect();
    assert_eq!(kinds(&mut carols, public.len()).await, public);
}

#[tokio::test]
async fn an_event_says_what_it_is_of() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let mut events = bob.events(None).await.unwrap();
    assert_eq!(next(&mut events).await.kind, EventKind::Following);
    let offer = host.offer(terms(2, 5)).await;
    let registered = next(&mut events).await;
    assert_eq!((registered.host, registered.partition), (Some(offer.host), Some(offer.partition)));
    assert_eq!(
        (registered.terms, registered.terms_version),
        (Some(offer.terms.clone()), Some(offer.version))
    );
    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    assert_eq!(next(&mut events).await.kind, EventKind::OfferTaken);
    let made = next(&mut events).await;
    assert_eq!((made.lease, made.borrower), (Some(granted.lease.id), Some(granted.lease.borrower)));
    assert_eq!(made.expires_at, Some(granted.lease.expires_at));
    let ended = end(&bob, &granted).await.unwrap().end.unwrap();
    assert_eq!(next(&mut events).await.reason, Some(ended.reason));
}

#[tokio::test]
async fn a_stream_goes_on_where_it_broke() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let mut events = bob.events(None).await.unwrap();
    next(&mut events).await;
    let first = host.offer(terms(1, 1)).await;
    assert_eq!(next(&mut events).await.partition, Some(first.partition));
    let last = events.last_id().unwrap().to_owned();
    drop(events);
    let (second, third) = (host.offer(terms(1, 2)).await, host.offer(terms(1, 3)).await);
    let mut events = bob.events(Some(&last)).await.unwrap();
    assert_eq!(next(&mut events).await.partition, Some(second.partition));
    assert_eq!(next(&mut events).await.partition, Some(third.partition));
}

#[tokio::test]
async fn after_a_restart_numbers_go_on_growing_and_the_reader_is_told_to_read_again() {
    let server = Server::start();
    let token = server.database().token("borrower", "bob");
    let lender = server.database().token("lender", "alice");
    let mut events = server.client(token.clone()).events(None).await.unwrap();
    next(&mut events).await;
    let host = Host::enrol(&server, &server.client(lender.clone())).await;
    host.offer(terms(1, 1)).await;
    next(&mut events).await;
    let last = events.last_id().unwrap().to_owned();
    let server = Server::start_on(server.kill());
    let mut events = server.client(token).events(Some(&last)).await.unwrap();
    assert_eq!(next(&mut events).await.kind, EventKind::Reread);
    let number = |id: &str| id.parse::<u64>().unwrap();
    assert!(number(events.last_id().unwrap()) > number(&last));
    Host::enrol(&server, &server.client(lender)).await.offer(terms(1, 2)).await;
    assert_eq!(next(&mut events).await.kind, EventKind::OfferRegistered);
}

#[tokio::test]
async fn a_host_that_falls_silent_is_down_and_its_lender_is_told() {
    let server = Server::start_with(Database::new(), &["--beat-every-ms", "100"]);
    let lender = server.lender("alice");
    let mut events = lender.events(None).await.unwrap();
    let host = Host::enrol(&server, &lender).await;
    assert_eq!(kinds(&mut events, 2).await, [EventKind::Following, EventKind::HostUp]);
    let down = next(&mut events).await;
    assert_eq!((down.kind, down.host), (EventKind::HostDown, Some(host.enrolled.host)));
    host.beat(Heartbeat::default()).await;
    assert_eq!(next(&mut events).await.kind, EventKind::HostUp);
}

#[tokio::test]
async fn what_is_no_events_id_is_refused_and_a_stream_ends_with_its_registry() {
    let server = Server::start();
    let bob = server.borrower("bob");
    let Err(refused) = bob.events(Some("soon")).await else { panic!("it is no id") };
    assert_refused::<()>(Err(refused), Code::MalformedRequest);
    let mut events = bob.events(None).await.unwrap();
    next(&mut events).await;
    assert!(server.terminate().await);
    assert!(!matches!(events.next().await, Ok(Some(_))));
}
