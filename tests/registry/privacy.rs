//! Who sees what: each only its own, and of others' not even that it is there.

use sublet::{
    api::{problem::Code, registry::EnrolHost, secret::Secret},
    client::{HostRequestId, RegistryClient},
};
use uuid::Uuid;

use crate::{
    market::{Host, end, lease, terms, wish},
    server::{Server, assert_refused},
};

#[tokio::test]
async fn without_a_valid_token_nothing_is_answered() {
    let server = Server::start();
    let nobody = RegistryClient::new(server.address(), None).unwrap();
    let stranger = server.client(Secret::new("sublet_borrower_guess"));
    for client in [nobody, stranger] {
        assert_refused(client.search(&<_>::default()).await, Code::Unauthorized);
        assert_refused(client.leases().await, Code::Unauthorized);
        assert_refused(client.ledger().await, Code::Unauthorized);
        assert_refused(
            client
                .enrol_host(HostRequestId(Uuid::new_v4()), &EnrolHost { address: "http://h".to_owned() })
                .await,
            Code::Unauthorized,
        );
    }
}

#[tokio::test]
async fn a_token_is_good_only_for_what_its_owner_does() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(1, 0)).await;
    assert_refused(
        bob.enrol_host(HostRequestId(Uuid::new_v4()), &EnrolHost { address: "http://h".to_owned() }).await,
        Code::Forbidden,
    );
    assert_refused(lease(&lender, &wish(&offer, 600)).await, Code::Forbidden);
    assert_refused(host.client.leases().await, Code::Forbidden);
    assert_refused(host.client.ledger().await, Code::Forbidden);
    assert_refused(lender.heartbeat(host.enrolled.host, &<_>::default()).await, Code::Forbidden);
}

#[tokio::test]
async fn a_host_acts_only_for_itself() {
    let server = Server::start();
    let lender = server.lender("alice");
    let (one, other) = (Host::enrol(&server, &lender).await, Host::enrol(&server, &lender).await);
    let offer = one.offer(terms(1, 0)).await;
    let foreign = &one.enrolled.host;
    assert_refused(other.client.heartbeat(*foreign, &<_>::default()).await, Code::NotFound);
    assert_refused(other.client.withdraw_partition(*foreign, offer.partition, None).await, Code::NotFound);
}

#[tokio::test]
async fn a_partition_id_of_another_host_is_a_partition_of_ones_own() {
    let server = Server::start();
    let lender = server.lender("alice");
    let (one, other) = (Host::enrol(&server, &lender).await, Host::enrol(&server, &lender).await);
    let offer = one.offer(terms(1, 0)).await;
    let same_name = other.put(offer.partition, terms(2, 0)).await.unwrap();
    assert_eq!((same_name.host, same_name.version), (other.enrolled.host, offer.version));
    assert_eq!(one.beat(<_>::default()).await.partitions, [offer]);
}

#[tokio::test]
async fn a_borrower_sees_only_its_own_leases_and_charges_and_a_lender_only_its_own_payments() {
    let server = Server::start();
    let (alice, carol) = (server.lender("alice"), server.lender("carol"));
    let (bob, eve) = (server.borrower("bob"), server.borrower("eve"));
    let offer = Host::enrol(&server, &alice).await.offer(terms(1, 0)).await;
    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    assert_refused(eve.lease(granted.lease.id).await, Code::NotFound);
    assert_refused(end(&eve, &granted).await, Code::NotFound);
    end(&bob, &granted).await.unwrap();
    assert!(eve.leases().await.unwrap().leases.is_empty());
    assert!(eve.ledger().await.unwrap().entries.is_empty());
    assert!(carol.ledger().await.unwrap().entries.is_empty());
    assert_eq!(alice.ledger().await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn no_secret_is_in_the_log_or_in_the_database() {
    let server = Server::start();
    let token = server.database().token("borrower", "bob");
    let (lender, bob) = (server.lender("alice"), server.client(token.clone()));
    let host = Host::enrol(&server, &lender).await;
    let offer = host.offer(terms(1, 0)).await;
    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    end(&bob, &granted).await.unwrap();
    let stored = server.database().contents();
    let log = server.log();
    for secret in [&token, &granted.key, &host.enrolled.host_token] {
        assert!(!log.contains(secret.reveal()));
        let bytes = secret.reveal().as_bytes();
        assert!(!stored.windows(bytes.len()).any(|window| window == bytes));
    }
}
