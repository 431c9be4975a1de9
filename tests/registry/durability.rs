//! What was acknowledged is there after kill -9 (law 6).

use sublet::api::registry::{EndReason, LendingState};

use crate::{
    market::{Host, end, lease, terms, wish},
    server::{Server, eventually},
};

#[tokio::test]
async fn an_acknowledged_lease_and_its_end_survive_kill_9() {
    let server = Server::start();
    let (alice, bob) =
        (server.database().token("lender", "alice"), server.database().token("borrower", "bob"));
    let host = Host::enrol(&server, &server.client(alice)).await;
    let offer = host.offer(terms(1, 3_600_000)).await;
    let granted = lease(&server.client(bob.clone()), &wish(&offer, 600)).await.unwrap();

    let server = Server::start_on(server.kill());
    let borrower = server.client(bob.clone());
    assert_eq!(borrower.lease(granted.lease.id).await.unwrap(), granted.lease);
    let ended = end(&borrower, &granted).await.expect("its key is good after a restart");

    let server = Server::start_on(server.kill());
    let borrower = server.client(bob);
    assert_eq!(borrower.lease(granted.lease.id).await.unwrap(), ended);
    assert_eq!(borrower.ledger().await.unwrap().entries.len(), 1);
    let host = server.client(host.enrolled.host_token).heartbeat(offer.host, &<_>::default()).await.unwrap();
    assert_eq!(host.partitions[0].state, LendingState::AwaitingClean { lease: ended.id });
}

#[tokio::test]
async fn a_lease_whose_time_comes_while_the_registry_is_down_expires_when_it_is_up() {
    let server = Server::start();
    let bob = server.database().token("borrower", "bob");
    let offer = Host::enrol(&server, &server.lender("alice")).await.offer(terms(1, 3_600_000)).await;
    let granted = lease(&server.client(bob.clone()), &wish(&offer, 1)).await.unwrap();
    let server = Server::start_on(server.kill());
    let borrower = server.client(bob);
    let end =
        eventually("the lease expires", async || borrower.lease(granted.lease.id).await.unwrap().end).await;
    assert_eq!((end.reason, end.at, end.charge.0), (EndReason::Expired, granted.lease.expires_at, 1_000));
}

#[tokio::test]
async fn what_is_free_is_found_again_after_a_restart_once_its_host_is_heard() {
    let server = Server::start();
    let bob = server.database().token("borrower", "bob");
    let host = Host::enrol(&server, &server.lender("alice")).await;
    let offer = host.offer(terms(1, 0)).await;
    let server = Server::start_on(server.kill());
    let borrower = server.client(bob);
    assert!(crate::market::all_offers(&borrower).await.is_empty());
    server.client(host.enrolled.host_token).heartbeat(offer.host, &<_>::default()).await.unwrap();
    assert_eq!(crate::market::all_offers(&borrower).await.len(), 1);
}
