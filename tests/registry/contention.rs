//! Many at once: law 1 over HTTP.

use futures::future::join_all;
use sublet::{
    api::{problem::Code, registry::RegisteredPartition},
    client::{LeaseRequestId, RegistryClient},
    domain::id::LeaseId,
};
use uuid::Uuid;

use crate::{
    market::{Host, lease, terms, wish},
    server::{Server, assert_refused, eventually},
};

const CONTENDERS: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_contenders_for_one_partition_exactly_one_wins() {
    let server = Server::start();
    let lender = server.lender("alice");
    let offer = Host::enrol(&server, &lender).await.offer(terms(1, 0)).await;
    let borrowers: Vec<_> = (0..5).map(|n| server.borrower(&format!("bob{n}"))).collect();
    let tries = (0..CONTENDERS).map(|n| {
        let (borrower, wish) = (borrowers[n % borrowers.len()].clone(), wish(&offer, 600));
        tokio::spawn(async move { lease(&borrower, &wish).await })
    });
    let results: Vec<_> = join_all(tries).await.into_iter().map(Result::unwrap).collect();
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, CONTENDERS - 1));
    lost.into_iter().for_each(|result| assert_refused(result, Code::AlreadyLent));
    let leases = join_all(borrowers.iter().map(|borrower| borrower.leases())).await;
    assert_eq!(leases.into_iter().map(|leases| leases.unwrap().leases.len()).sum::<usize>(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wish_said_many_times_at_once_is_one_lease() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let offer = Host::enrol(&server, &lender).await.offer(terms(1, 0)).await;
    let once = LeaseRequestId(Uuid::new_v4());
    let tries = (0..20).map(|_| {
        let (bob, wish) = (bob.clone(), wish(&offer, 600));
        tokio::spawn(async move { bob.make_lease(once, &wish).await.unwrap().lease.id })
    });
    let leases: Vec<_> = join_all(tries).await.into_iter().map(Result::unwrap).collect();
    assert!(leases.iter().all(|lease| *lease == leases[0]));
}

/// Borrows one partition after another until the registry is gone; answers with the leases it was told of.
async fn borrow_until_it_dies(borrower: RegistryClient, offers: Vec<RegisteredPartition>) -> Vec<LeaseId> {
    let mut told = Vec::new();
    for offer in offers {
        match lease(&borrower, &wish(&offer, 600)).await {
            Ok(granted) => told.push(granted.lease.id),
            Err(error) if error.code() == Some(Code::AlreadyLent) => {}
            Err(_) => break,
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lease_that_was_told_of_survives_kill_9_under_load() {
    let server = Server::start();
    let bob = server.database().token("borrower", "bob");
    let host = Host::enrol(&server, &server.lender("alice")).await;
    let mut offers = Vec::new();
    for price in 0..100 {
        offers.push(host.offer(terms(1, price)).await);
    }
    let borrowers: Vec<_> = (0..4)
        .map(|_| tokio::spawn(borrow_until_it_dies(server.client(bob.clone()), offers.clone())))
        .collect();
    let client = server.client(bob.clone());
    eventually("some leases", async || client.leases().await.ok().filter(|made| made.leases.len() >= 10))
        .await;
    let server = Server::start_on(server.kill());
    let told: Vec<_> = join_all(borrowers).await.into_iter().flat_map(Result::unwrap).collect();
    let made = server.client(bob).leases().await.unwrap().leases;
    assert!(told.iter().all(|told| made.iter().any(|lease| lease.id == *told)));
    let mut partitions: Vec<_> = made.iter().map(|lease| lease.partition).collect();
    partitions.sort();
    partitions.dedup();
    assert_eq!(partitions.len(), made.len(), "law 1");
}
