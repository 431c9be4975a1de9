//! Many at once: law 1 over HTTP.

use futures::future::join_all;
use sublet::{api::problem::Code, client::LeaseRequestId};
use uuid::Uuid;

use crate::{
    market::{Host, lease, terms, wish},
    server::{Server, assert_refused},
};

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_contenders_for_one_partition_exactly_one_wins() {
    let server = Server::start();
    let lender = server.lender("alice");
    let offer = Host::enrol(&server, &lender).await.offer(terms(1, 0)).await;
    let borrowers: Vec<_> = (0..5).map(|n| server.borrower(&format!("bob{n}"))).collect();
    let tries = (0..50).map(|n| {
        let (borrower, wish) = (borrowers[n % borrowers.len()].clone(), wish(&offer, 600));
        tokio::spawn(async move { lease(&borrower, &wish).await })
    });
    let results: Vec<_> = join_all(tries).await.into_iter().map(Result::unwrap).collect();
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
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
