//! Two registries that serve one PostgreSQL at the same time: `tests/postgres/with-server.sh` has a server for them.

use std::process::Command;

use futures::future::join_all;
use sublet::api::{
    problem::Code,
    registry::{EndReason, Heartbeat, LendingState},
};

use crate::{
    market::{Host, all_offers, end, lease, terms, wish},
    server::{Database, Server, assert_refused, eventually},
};

/// Two registries at a database of their own. No host falls silent by itself.
fn two() -> (Server, Server) {
    let database = Database::new();
    (Server::start_on(database.clone()), Server::start_on(database))
}

/// The same, where a host that does not beat has soon fallen silent.
fn two_impatient() -> (Server, Server) {
    let database = Database::new();
    let start = || Server::start_with(database.clone(), &["--beat-every-ms", "200"]);
    (start(), start())
}

/// Beats at this registry as long as the test runs.
fn keep_beating(host: &Host, server: &Server) {
    let (id, client) = (host.enrolled.host, server.client(host.enrolled.host_token.clone()));
    tokio::spawn(async move {
        loop {
            // A registry that was killed hears nothing.
            let _ = client.heartbeat(id, &Heartbeat::default()).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
}

#[tokio::test]
async fn what_is_offered_lent_and_returned_at_one_registry_is_so_at_the_other() {
    let (one, other) = two();
    let bob = one.database().token("borrower", "bob");
    let host = Host::enrol(&one, &one.lender("alice")).await;
    keep_beating(&host, &one);
    let offer = host.offer(terms(1, 3_600_000)).await;
    let (here, there) = (one.client(bob.clone()), other.client(bob));
    eventually("the offer is found there", async || all_offers(&there).await.pop()).await;
    let granted = lease(&there, &wish(&offer, 600)).await.unwrap();
    assert_refused(lease(&here, &wish(&offer, 600)).await, Code::AlreadyLent);
    eventually("it is hidden here", async || all_offers(&here).await.is_empty().then_some(())).await;
    assert_eq!(here.lease(granted.lease.id).await.unwrap(), granted.lease);
    let ended = end(&here, &granted).await.expect("both sign with one key");
    assert_eq!(there.lease(ended.id).await.unwrap(), ended);
    assert_eq!(there.ledger().await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn a_host_that_waits_at_one_registry_hears_at_once_of_a_lease_made_at_the_other() {
    let (one, other) = two();
    let host = Host::enrol(&one, &one.lender("alice")).await;
    let offer = host.offer(terms(1, 0)).await;
    keep_beating(&host, &one);
    let bob = other.borrower("bob");
    eventually("the offer is found there", async || all_offers(&bob).await.pop()).await;
    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    let mut known_revision = Some(0);
    eventually("the host hears of it", async || {
        let reply = host.beat(Heartbeat { known_revision, wait_ms: 10_000, ..Heartbeat::default() }).await;
        known_revision = Some(reply.revision);
        let state = &reply.partitions.first()?.state;
        matches!(state, LendingState::Lent { lease, .. } if *lease == granted.lease.id).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_contenders_at_two_registries_one_wins() {
    let (one, other) = two();
    let bob = one.database().token("borrower", "bob");
    let host = Host::enrol(&one, &one.lender("alice")).await;
    keep_beating(&host, &one);
    let offer = host.offer(terms(1, 0)).await;
    let clients = [one.client(bob.clone()), other.client(bob)];
    eventually("the offer is found there", async || all_offers(&clients[1]).await.pop()).await;
    let tries = (0..200).map(|n| {
        let (client, wish) = (clients[n % 2].clone(), wish(&offer, 600));
        tokio::spawn(async move { lease(&client, &wish).await })
    });
    let results = join_all(tries).await.into_iter().map(Result::unwrap);
    let (won, lost): (Vec<_>, Vec<_>) = results.partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    lost.into_iter().for_each(|result| assert_refused(result, Code::AlreadyLent));
    assert_eq!(clients[0].leases().await.unwrap().leases.len(), 1);
}

#[tokio::test]
async fn where_one_registry_dies_the_other_goes_on_with_all_that_was_acknowledged() {
    let (one, other) = two();
    let bob = one.database().token("borrower", "bob");
    let host = Host::enrol(&one, &one.lender("alice")).await;
    keep_beating(&host, &one);
    let (short, long) = (host.offer(terms(1, 3_600_000)).await, host.offer(terms(1, 0)).await);
    let here = one.client(bob.clone());
    let expiring = lease(&here, &wish(&short, 3)).await.unwrap();
    let running = lease(&here, &wish(&long, 600)).await.unwrap();
    let _ = one.kill();
    keep_beating(&host, &other);
    let there = other.client(bob);
    let ended =
        eventually("the lease expires", async || there.lease(expiring.lease.id).await.unwrap().end).await;
    assert_eq!((ended.reason, ended.at), (EndReason::Expired, expiring.lease.expires_at));
    assert_eq!(there.lease(running.lease.id).await.unwrap(), running.lease);
    end(&there, &running).await.unwrap();
    assert_eq!(there.ledger().await.unwrap().entries.len(), 2);
}

#[tokio::test]
async fn a_host_is_heard_at_both_registries_until_the_one_that_heard_it_dies() {
    let (one, other) = two_impatient();
    let host = Host::enrol(&one, &one.lender("alice")).await;
    host.offer(terms(1, 0)).await;
    keep_beating(&host, &one);
    let bob = other.borrower("bob");
    eventually("it is heard there", async || all_offers(&bob).await.pop()).await;
    let _ = one.kill();
    eventually("it is silent there", async || all_offers(&bob).await.is_empty().then_some(())).await;
    keep_beating(&host, &other);
    eventually("it beats there", async || all_offers(&bob).await.pop()).await;
}

#[tokio::test]
async fn nothing_is_missed_when_the_servers_connections_break() {
    let (one, other) = two();
    let host = Host::enrol(&one, &one.lender("alice")).await;
    keep_beating(&host, &one);
    let bob = other.borrower("bob");
    for price in 0..3 {
        let offer = host.offer(terms(1, price)).await;
        break_connections(&one.database());
        let found =
            async || all_offers(&bob).await.into_iter().find(|found| found.partition == offer.partition);
        eventually("what was offered as they broke is found", found).await;
        let offered = async || host.put(offer.partition, terms(2, price)).await.ok();
        let changed = eventually("what is offered after that is taken", offered).await;
        let found = async || {
            let offers = all_offers(&bob).await;
            offers
                .into_iter()
                .find(|found| found.terms_version == changed.version && found.terms == changed.terms)
        };
        eventually("and found", found).await;
    }
}

/// All of both registries.
fn break_connections(database: &Database) {
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE application_name = 'sublet-registry' AND datname = current_database()";
    let output = Command::new("psql")
        .args(["--quiet", "--no-psqlrc", "--command", sql, &database.location()])
        .output();
    assert!(output.unwrap().status.success());
}
