//! F6-F9 at the registry: an offer is found, lent, returned and billed.

use sublet::{
    api::{
        problem::Code,
        registry::{EndLease, EndReason, LendingState, Search},
        secret::Secret,
    },
    client::LeaseRequestId,
    domain::{
        id::PartitionId,
        lending_key::{self, Operation},
        matching::{Condition, Conditions},
        money::Micros,
        terms::{Epoch, TermsVersion},
    },
};
use uuid::Uuid;

use crate::{
    market::{Host, all_offers, end, end_of, lease, offers, terms, wish},
    server::{Database, Server, assert_refused, eventually},
};

/// An hour costs so much that each begun second counts.
const PER_HOUR: i64 = 3_600_000;

#[tokio::test]
async fn an_offer_is_found_lent_returned_cleaned_and_billed() {
    let options = ["--fee-millionths", "100000", "--beat-every-ms", "3600000"];
    let server = Server::start_with(Database::new(), &options);
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(2, PER_HOUR)).await;
    assert_eq!(all_offers(&bob).await.len(), 1);

    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    assert_eq!(granted.lease.terms, offer.terms);
    assert_eq!(granted.lease.host_address, "http://192.0.2.1:7180");
    assert_eq!(granted.lease.epoch, Epoch(1));
    assert_eq!(granted.allocation_digest, offer.terms.allocation.digest());
    assert!(all_offers(&bob).await.is_empty());

    let ended = end(&bob, &granted).await.unwrap();
    let bill = ended.end.clone().unwrap();
    assert_eq!(bill.reason, EndReason::Returned);
    assert!(all_offers(&bob).await.is_empty(), "the host has not cleaned it yet");
    host.cleaned(&ended).await;
    assert_eq!(all_offers(&bob).await.len(), 1);

    let (charges, payments) = (bob.ledger().await.unwrap().entries, lender.ledger().await.unwrap().entries);
    assert_eq!(charges, payments);
    assert_eq!(charges.len(), 1);
    let legs = charges[0].entry.legs;
    assert_eq!((legs.borrower, legs.fees), (Micros(-bill.charge.0), Micros(bill.charge.0 / 10)));
    assert!(legs.is_balanced());
}

#[tokio::test]
async fn the_key_of_a_lease_says_what_the_lease_says() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(1, 0)).await;
    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    let issuers = [host.enrolled.issuer.public_key.parse().unwrap()];
    let claims =
        lending_key::read(granted.key.reveal(), &issuers, Operation::Open, granted.lease.started_at).unwrap();
    let lease = &granted.lease;
    assert_eq!((claims.lease, claims.epoch, claims.expires_at), (lease.id, lease.epoch, lease.expires_at));
    assert_eq!(
        (claims.host, claims.partition, claims.borrower),
        (lease.host, lease.partition, lease.borrower)
    );
    assert_eq!((claims.allocation, claims.issuer), (granted.allocation_digest, host.enrolled.issuer.id));
}

#[tokio::test]
async fn a_search_says_what_matches_and_if_nothing_does_why() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let dear = host.offer(terms(1, 30)).await;
    let large = host.offer(terms(4, 10)).await;
    let small = host.offer(terms(2, 10)).await;
    let found: Vec<_> = all_offers(&bob).await.into_iter().map(|offer| offer.partition).collect();
    assert_eq!(found, [small.partition, large.partition, dear.partition]);
    let conditions = Conditions { min_cpus: 3, ..Conditions::default() };
    assert_eq!(offers(&bob, conditions).await[0].partition, large.partition);

    let conditions = Conditions { min_cpus: 4, os_image: Some("plan9".to_owned()), ..Conditions::default() };
    let reply = bob.search(&Search { conditions, ..Search::default() }).await.unwrap();
    let explanation = reply.explanation.unwrap();
    assert_eq!(explanation.considered, 3);
    assert_eq!(explanation.fell_to, [(Condition::Cpus, 2), (Condition::OsImage, 3)].into());
}

#[tokio::test]
async fn a_search_is_read_page_by_page() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    for price in 0..5 {
        host.offer(terms(1, price)).await;
    }
    let (mut prices, mut cursor) = (Vec::new(), None);
    loop {
        let search = Search { limit: Some(2), cursor, ..Search::default() };
        let reply = bob.search(&search).await.unwrap();
        assert!(reply.offers.len() <= 2);
        prices.extend(reply.offers.iter().map(|offer| offer.terms.price.per_hour_micros));
        cursor = reply.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(prices, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_second_borrower_is_refused() {
    let server = Server::start();
    let (lender, bob, eve) = (server.lender("alice"), server.borrower("bob"), server.borrower("eve"));
    let offer = Host::enrol(&server, &lender).await.offer(terms(1, 0)).await;
    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    assert_refused(lease(&eve, &wish(&offer, 600)).await, Code::AlreadyLent);
    end(&bob, &granted).await.unwrap();
    assert_refused(lease(&eve, &wish(&offer, 600)).await, Code::AlreadyLent);
}

#[tokio::test]
async fn terms_other_than_those_that_were_shown_are_not_accepted() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let shown = host.offer(terms(1, 10)).await;
    let changed = host.change(shown.partition, shown.version, terms(1, 20)).await.unwrap();
    assert_refused(lease(&bob, &wish(&shown, 600)).await, Code::TermsChanged);
    let granted = lease(&bob, &wish(&changed, 600)).await.unwrap();
    assert_eq!(granted.lease.terms.price.per_hour_micros, 20);
}

#[tokio::test]
async fn a_change_of_other_terms_than_the_current_ones_is_refused() {
    let server = Server::start();
    let host = Host::enrol(&server, &server.lender("alice")).await;
    let offer = host.offer(terms(1, 10)).await;
    host.change(offer.partition, offer.version, terms(1, 20)).await.unwrap();
    assert_refused(host.change(offer.partition, offer.version, terms(1, 30)).await, Code::PreconditionFailed);
}

#[tokio::test]
async fn what_is_lent_is_neither_changed_nor_withdrawn() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(1, 10)).await;
    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    assert_refused(host.change(offer.partition, offer.version, terms(1, 20)).await, Code::PartitionLent);
    assert_refused(host.put(offer.partition, terms(1, 20)).await, Code::PartitionLent);
    assert_refused(host.withdraw(offer.partition).await, Code::PartitionLent);
    let ended = end(&bob, &granted).await.unwrap();
    assert_refused(host.withdraw(offer.partition).await, Code::PartitionNotReady);
    host.cleaned(&ended).await;
    host.withdraw(offer.partition).await.unwrap();
    assert!(all_offers(&bob).await.is_empty());
    assert_refused(lease(&bob, &wish(&offer, 600)).await, Code::NotFound);
}

#[tokio::test]
async fn a_partition_offered_again_after_withdrawal_has_a_later_epoch_for_its_next_lease() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(1, 10)).await;
    let first = lease(&bob, &wish(&offer, 600)).await.unwrap();
    host.cleaned(&end(&bob, &first).await.unwrap()).await;
    host.withdraw(offer.partition).await.unwrap();
    let again = host.put(offer.partition, terms(1, 10)).await.unwrap();
    let second = lease(&bob, &wish(&again, 600)).await.unwrap();
    assert_eq!(second.lease.epoch, Epoch(2));
}

#[tokio::test]
async fn the_same_wish_again_is_the_same_lease_with_a_key_of_the_same_claims() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(1, 10)).await;
    let once = LeaseRequestId(Uuid::new_v4());
    let first = bob.make_lease(once, &wish(&offer, 600)).await.unwrap();
    let again = bob.make_lease(once, &wish(&offer, 600)).await.unwrap();
    assert_eq!(first.lease, again.lease);
    let issuers = [host.enrolled.issuer.public_key.parse().unwrap()];
    let claims = |key: &Secret| {
        lending_key::read(key.reveal(), &issuers, Operation::Open, first.lease.started_at).unwrap()
    };
    assert_eq!(claims(&first.key), claims(&again.key));
    assert_refused(bob.make_lease(once, &wish(&offer, 601)).await, Code::IdempotencyKeyReused);
    assert_eq!(bob.leases().await.unwrap().leases, [first.lease]);
}

#[tokio::test]
async fn a_lease_ended_twice_is_as_it_ended_first() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let offer = Host::enrol(&server, &lender).await.offer(terms(1, PER_HOUR)).await;
    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    let first = end(&bob, &granted).await.unwrap();
    assert_eq!(end(&bob, &granted).await.unwrap(), first);
    assert_eq!(bob.lease(first.id).await.unwrap(), first);
    assert_eq!(bob.ledger().await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn a_lease_ends_only_for_its_host_partition_and_key_together() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let (one, other) = (host.offer(terms(1, 0)).await, host.offer(terms(1, 0)).await);
    let granted = lease(&bob, &wish(&one, 600)).await.unwrap();
    let foreign = lease(&bob, &wish(&other, 600)).await.unwrap();
    let try_end = async |end: EndLease| bob.end_lease(granted.lease.id, &end).await;
    let good = end_of(&granted);
    let partition = EndLease { partition: PartitionId(Uuid::new_v4()), ..good.clone() };
    assert_refused(try_end(partition).await, Code::NotFound);
    let key = EndLease { key: foreign.key.clone(), ..good.clone() };
    assert_refused(try_end(key).await, Code::KeyForOtherPartition);
    let key = EndLease { key: Secret::new("a guess"), ..good.clone() };
    assert_refused(try_end(key).await, Code::KeyInvalid);
    assert_eq!(bob.lease(granted.lease.id).await.unwrap().end, None);
    try_end(good).await.unwrap();
}

#[tokio::test]
async fn the_key_of_an_earlier_lease_does_not_end_a_later_one() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(1, 0)).await;
    let first = lease(&bob, &wish(&offer, 600)).await.unwrap();
    host.cleaned(&end(&bob, &first).await.unwrap()).await;
    let second = lease(&bob, &wish(&offer, 600)).await.unwrap();
    let stale = EndLease { key: first.key, ..end_of(&second) };
    assert_refused(bob.end_lease(second.lease.id, &stale).await, Code::KeyEpochPassed);
}

#[tokio::test]
async fn a_lease_expires_by_itself_and_is_charged_in_full() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(1, PER_HOUR)).await;
    let granted = lease(&bob, &wish(&offer, 1)).await.unwrap();
    let end = eventually("the lease expires", async || bob.lease(granted.lease.id).await.unwrap().end).await;
    assert_eq!((end.reason, end.at), (EndReason::Expired, granted.lease.expires_at));
    assert_eq!(end.charge, Micros(1_000));
    let row = host.beat(<_>::default()).await.partitions.remove(0);
    assert_eq!(row.state, LendingState::AwaitingClean { lease: granted.lease.id });
    let late = self::end(&bob, &granted).await.unwrap();
    assert_eq!(late.end.unwrap(), end, "whoever comes late is told how it ended");
}

#[tokio::test]
async fn an_unknown_version_of_terms_is_not_accepted_either() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let offer = Host::enrol(&server, &lender).await.offer(terms(1, 0)).await;
    let mut ahead = wish(&offer, 600);
    ahead.terms_version = TermsVersion(99);
    assert_refused(lease(&bob, &ahead).await, Code::TermsChanged);
}
