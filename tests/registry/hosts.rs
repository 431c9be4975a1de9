//! How hosts are heard, and what they are told.

use std::time::Duration;

use sublet::{
    api::{
        problem::Code,
        registry::{EndReason, EndedAtHost, Heartbeat, LendingState},
    },
    domain::id::LeaseId,
};
use uuid::Uuid;

use crate::{
    market::{Host, all_offers, end, lease, terms, wish},
    server::{Database, Server, assert_refused, eventually},
};

#[tokio::test]
async fn a_silent_host_is_hidden_and_its_partitions_are_not_lent_until_it_is_heard_again() {
    let server = Server::start_with(Database::new(), &["--beat-every-ms", "100"]);
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(1, 0)).await;
    eventually("the host is hidden", async || all_offers(&bob).await.is_empty().then_some(())).await;
    assert_refused(lease(&bob, &wish(&offer, 600)).await, Code::HostSilent);
    eventually("the host is heard and found", async || {
        host.beat(Heartbeat::default()).await;
        (!all_offers(&bob).await.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_waiting_host_learns_of_a_lease_and_of_its_end_at_once() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(1, 0)).await;
    let known = host.beat(Heartbeat::default()).await.revision;
    let wait = |known| Heartbeat { known_revision: Some(known), wait_ms: 10_000, ..Heartbeat::default() };

    let wish = wish(&offer, 600);
    let (told, granted) = tokio::join!(host.beat(wait(known)), lease(&bob, &wish));
    let granted = granted.unwrap();
    // The lease may have come before the wait; then the host was told without one.
    assert!(told.revision > known);
    let expected = LendingState::Lent {
        lease: granted.lease.id,
        borrower: granted.lease.borrower,
        expires_at: granted.lease.expires_at,
    };
    assert_eq!(told.partitions[0].state, expected);

    let (told, ended) = tokio::join!(host.beat(wait(told.revision)), end(&bob, &granted));
    assert_eq!(told.partitions[0].state, LendingState::AwaitingClean { lease: ended.unwrap().id });
}

#[tokio::test]
async fn a_waiting_host_is_answered_when_nothing_happens() {
    let server = Server::start();
    let host = Host::enrol(&server, &server.lender("alice")).await;
    let known = host.beat(Heartbeat::default()).await.revision;
    let wait = Heartbeat { known_revision: Some(known), wait_ms: 50, ..Heartbeat::default() };
    assert_eq!(host.beat(wait).await.revision, known);
}

#[tokio::test]
async fn a_host_that_does_not_know_the_latest_is_answered_without_waiting() {
    let server = Server::start();
    let host = Host::enrol(&server, &server.lender("alice")).await;
    host.offer(terms(1, 0)).await;
    let wait = Heartbeat { known_revision: Some(0), wait_ms: 10_000, ..Heartbeat::default() };
    let answer = tokio::time::timeout(Duration::from_secs(9), host.beat(wait)).await;
    assert_eq!(answer.expect("it waited").partitions.len(), 1);
}

#[tokio::test]
async fn a_lease_that_ended_at_the_host_ends_at_the_registry_with_that_reason() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(1, 0)).await;
    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    let ended = vec![EndedAtHost { lease: granted.lease.id, reason: EndReason::HostLost }];
    let beat = Heartbeat { ended, cleaned: vec![granted.lease.id], ..Heartbeat::default() };
    assert_eq!(host.beat(beat.clone()).await.partitions[0].state, LendingState::Free);
    let end = bob.lease(granted.lease.id).await.unwrap().end.unwrap();
    assert_eq!(end.reason, EndReason::HostLost);
    host.beat(beat).await;
    assert_eq!(bob.lease(granted.lease.id).await.unwrap().end.unwrap(), end, "said again it changes nothing");
}

#[tokio::test]
async fn what_a_host_says_of_unknown_leases_does_not_silence_it() {
    let server = Server::start();
    let host = Host::enrol(&server, &server.lender("alice")).await;
    host.offer(terms(1, 0)).await;
    let stranger = LeaseId(Uuid::new_v4());
    let ended = vec![EndedAtHost { lease: stranger, reason: EndReason::Returned }];
    let reply = host.beat(Heartbeat { ended, cleaned: vec![stranger], ..Heartbeat::default() }).await;
    assert_eq!(reply.partitions[0].state, LendingState::Free);
}

#[tokio::test]
async fn offering_the_same_again_changes_nothing_even_while_it_is_lent() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(1, 0)).await;
    assert_eq!(host.put(offer.partition, terms(1, 0)).await.unwrap(), offer);
    lease(&bob, &wish(&offer, 600)).await.unwrap();
    let lent = host.put(offer.partition, terms(1, 0)).await.unwrap();
    assert_eq!(lent.version, offer.version);
    assert!(matches!(lent.state, LendingState::Lent { .. }));
}
