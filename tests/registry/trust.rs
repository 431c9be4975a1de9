//! Keys and tokens, as those who hold them meet the registry.

use sublet::{
    api::{
        problem::Code,
        registry::{EnrolHost, Heartbeat, HostContact, LeaseGranted},
        secret::Secret,
        token::{MakeToken, Scope},
    },
    client::{HostRequestId, RegistryClient},
    domain::{
        lending_key::{KeyRefusal, Operation, Restriction, inspect, read, restrict},
        tls_key::TlsKey,
    },
};
use uuid::Uuid;

use crate::{
    market::{Host, end, lease, terms, wish},
    server::{Database, Server, assert_refused, eventually},
};

fn made(database: &Database, arguments: &[&str]) -> Secret {
    let output = database.run(&[&["token", "make"], arguments].concat());
    assert!(output.status.success(), "{output:?}");
    Secret::new(String::from_utf8(output.stdout).unwrap().trim())
}

fn succeeds(database: &Database, arguments: &[&str]) -> String {
    let output = database.run(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn admin(server: &Server) -> RegistryClient {
    server.client(made(&server.database(), &["admin", "--name", "root"]))
}

/// A market with one lease.
async fn lent(server: &Server) -> (Host, RegistryClient, LeaseGranted) {
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(server, &lender).await;
    let offer = host.offer(terms(1, 0)).await;
    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    (host, bob, granted)
}

#[tokio::test]
async fn a_lease_says_the_hosts_tls_key_once_the_host_has_told_it() {
    let server = Server::start();
    let (host, bob, granted) = lent(&server).await;
    assert_eq!(granted.lease.host_tls_key, None);
    let contact = HostContact {
        address: "https://192.0.2.9:7180/".to_owned(),
        tls_key: Some(TlsKey::of(b"mine")),
        receipt_key: None,
    };
    host.client.change_contact(host.enrolled.host, &contact).await.unwrap();
    let lease = bob.lease(granted.lease.id).await.unwrap();
    assert_eq!(
        (lease.host_address.as_str(), lease.host_tls_key),
        ("https://192.0.2.9:7180", contact.tls_key)
    );

    let plain = HostContact { address: "http://192.0.2.9:7180".to_owned(), ..contact.clone() };
    assert_refused(host.client.change_contact(host.enrolled.host, &plain).await, Code::InvalidRequest);
    assert_refused(bob.change_contact(host.enrolled.host, &contact).await, Code::Forbidden);
    let other = Host::enrol(&server, &server.lender("alice")).await;
    assert_refused(other.client.change_contact(host.enrolled.host, &contact).await, Code::NotFound);
}

#[tokio::test]
async fn a_signing_key_is_rotated_while_leases_of_the_one_before_run() {
    let server = Server::start();
    let (host, bob, granted) = lent(&server).await;
    let first = host.beat(Heartbeat::default()).await.keys;
    assert_eq!(first.issuers, std::slice::from_ref(&host.enrolled.issuer.public_key));
    succeeds(&server.database(), &["signing-key", "rotate", "--after", "0"]);
    let both = eventually("hosts hear of the new key", async || {
        let keys = host.beat(Heartbeat::default()).await.keys;
        (keys.issuers.len() == 2).then_some(keys)
    })
    .await;
    assert!(both.generation > first.generation && both.issuers[0] == first.issuers[0]);

    let second = host.offer(terms(1, 0)).await;
    let later = lease(&bob, &wish(&second, 600)).await.unwrap();
    let issuer = |number: usize| [both.issuers[number].parse().unwrap()];
    let signed_by = |granted: &LeaseGranted, number| {
        read(granted.key.reveal(), &issuer(number), Operation::Open, granted.lease.started_at).is_ok()
    };
    assert!(signed_by(&granted, 0) && !signed_by(&granted, 1));
    assert!(signed_by(&later, 1) && !signed_by(&later, 0));

    end(&bob, &later).await.unwrap();
    end(&bob, &granted).await.unwrap();
    let last = eventually("the old key is retired", async || {
        let keys = host.beat(Heartbeat::default()).await.keys;
        (keys.issuers.len() == 1).then_some(keys)
    })
    .await;
    assert!(last.issuers[0] == both.issuers[1] && last.generation > both.generation);
    let listed = succeeds(&server.database(), &["signing-key", "list"]);
    assert!(listed.lines().count() == 2 && listed.lines().next().unwrap().contains("retired"), "{listed}");
}

#[test]
fn a_database_that_was_never_served_has_no_signing_key_to_rotate() {
    let output = Database::new().run(&["signing-key", "rotate"]);
    assert!(!output.status.success());
}

#[tokio::test]
async fn a_revoked_key_is_told_to_the_host_at_once_and_ends_no_lease_any_more() {
    let server = Server::start();
    let (host, bob, granted) = lent(&server).await;
    let known = host.beat(Heartbeat::default()).await.revision;
    let wait = Heartbeat { known_revision: Some(known), wait_ms: 10_000, ..Heartbeat::default() };
    let (told, renewed) = tokio::join!(host.beat(wait), bob.revoke_key_of(granted.lease.id));
    let renewed = renewed.unwrap();
    assert_eq!((told.keys.revoked.len(), told.keys.revoked[0].key), (1, granted.lease.key));
    assert_ne!(renewed.lease.key, granted.lease.key);
    assert_eq!(inspect(renewed.key.reveal()).unwrap().claims.key, renewed.lease.key);

    assert_refused(end(&bob, &granted).await, Code::KeyRevoked);
    let eve = server.borrower("eve");
    assert_refused(eve.revoke_key_of(granted.lease.id).await, Code::NotFound);
    assert_refused(bob.revoke_key(renewed.lease.key).await, Code::Forbidden);
    end(&bob, &renewed).await.unwrap();
    assert_refused(bob.revoke_key_of(granted.lease.id).await, Code::LeaseEnded);
}

#[tokio::test]
async fn an_administrator_revokes_a_key_by_its_name() {
    let server = Server::start();
    let (host, bob, granted) = lent(&server).await;
    let admin = admin(&server);
    let lease = admin.revoke_key(granted.lease.key).await.unwrap();
    assert_ne!(lease.key, granted.lease.key);
    assert_eq!(host.beat(Heartbeat::default()).await.keys.revoked[0].key, granted.lease.key);
    assert_refused(admin.revoke_key(granted.lease.key).await, Code::NotFound);
    assert_refused(end(&bob, &granted).await, Code::KeyRevoked);
}

#[tokio::test]
async fn a_key_restricted_to_logs_ends_no_lease() {
    let server = Server::start();
    let (_host, bob, granted) = lent(&server).await;
    let only = Restriction { only: Some([Operation::Logs].into()), ..Restriction::default() };
    let key = restrict(&granted.key, &only, [1; 32]).unwrap();
    assert_refused(end(&bob, &LeaseGranted { key, ..granted.clone() }).await, Code::Forbidden);
    let issuers = [_host.enrolled.issuer.public_key.parse().unwrap()];
    let opened = read(granted.key.reveal(), &issuers, Operation::Open, granted.lease.expires_at);
    assert!(matches!(opened, Err(KeyRefusal::Expired { .. })));
    end(&bob, &granted).await.unwrap();
}

#[tokio::test]
async fn a_token_to_look_changes_nothing_and_one_to_enrol_does_nothing_else() {
    let server = Server::start();
    let database = server.database();
    let (_host, bob, granted) = lent(&server).await;
    let looks = server.client(made(&database, &["borrower", "--name", "bob", "--scope", "read"]));
    assert_eq!(looks.leases().await.unwrap().leases.len(), 1);
    assert!(looks.search(&<_>::default()).await.is_ok());
    assert_refused(end(&looks, &granted).await, Code::Forbidden);
    assert_refused(looks.make_token(&MakeToken::default()).await, Code::Forbidden);
    assert_refused(looks.rotate_token().await, Code::Forbidden);

    let enrols = server.client(made(&database, &["lender", "--name", "alice", "--scope", "enrol"]));
    assert_refused(enrols.ledger().await, Code::Forbidden);
    assert!(
        enrols
            .enrol_host(
                HostRequestId(Uuid::new_v4()),
                &EnrolHost { address: "http://192.0.2.2:1".to_owned() }
            )
            .await
            .is_ok()
    );
    end(&bob, &granted).await.unwrap();
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked_by_whose_they_are() {
    let server = Server::start();
    let (bob, eve) = (server.borrower("bob"), server.borrower("eve"));
    let made = bob.make_token(&MakeToken { scope: Scope::Read, valid_seconds: Some(3600) }).await.unwrap();
    assert!(made.expires_at.is_some());
    let listed = bob.tokens().await.unwrap().tokens;
    assert_eq!((listed.len(), listed[0].id, listed[0].scope), (2, made.id, Scope::Read));
    assert!(!serde_json::to_string(&listed).unwrap().contains(made.token.reveal()));
    assert_refused(eve.revoke_token(made.id).await, Code::NotFound);
    let second = server.client(made.token);
    assert!(second.leases().await.is_ok());
    bob.revoke_token(made.id).await.unwrap();
    assert_refused(second.leases().await, Code::Unauthorized);
    assert_refused(bob.revoke_token(made.id).await, Code::NotFound);
    for valid_seconds in [0, u64::MAX] {
        let wish = MakeToken { scope: Scope::Full, valid_seconds: Some(valid_seconds) };
        assert_refused(bob.make_token(&wish).await, Code::InvalidRequest);
    }
    admin(&server).revoke_token(listed[1].id).await.unwrap();
    assert_refused(bob.leases().await, Code::Unauthorized);
}

#[tokio::test]
async fn a_token_that_has_an_end_makes_none_that_outlives_it() {
    let server = Server::start();
    let bob = server.borrower("bob");
    let short = bob.make_token(&MakeToken { scope: Scope::Full, valid_seconds: Some(600) }).await.unwrap();
    let client = server.client(short.token);
    for made in [client.make_token(&MakeToken::default()).await, client.rotate_token().await] {
        assert_eq!(made.unwrap().expires_at, short.expires_at);
    }
}

#[tokio::test]
async fn a_hosts_token_is_rotated_without_enrolling_it_again() {
    let server = Server::start();
    let host = Host::enrol(&server, &server.lender("alice")).await;
    let made = host.client.rotate_token().await.unwrap();
    host.beat(Heartbeat::default()).await;
    let rotated = server.client(made.token);
    assert!(rotated.heartbeat(host.enrolled.host, &<_>::default()).await.is_ok());
    assert_refused(host.client.heartbeat(host.enrolled.host, &<_>::default()).await, Code::Unauthorized);
}

#[tokio::test]
async fn a_blocked_account_is_refused_until_it_is_unblocked() {
    let server = Server::start();
    let database = server.database();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let host = Host::enrol(&server, &lender).await;
    succeeds(&database, &["block", "borrower", "--name", "bob"]);
    assert_refused(bob.search(&<_>::default()).await, Code::AccountBlocked);
    succeeds(&database, &["unblock", "borrower", "--name", "bob"]);
    assert!(bob.search(&<_>::default()).await.is_ok());
    succeeds(&database, &["block", "lender", "--name", "alice"]);
    assert_refused(lender.ledger().await, Code::AccountBlocked);
    assert_refused(host.client.heartbeat(host.enrolled.host, &<_>::default()).await, Code::AccountBlocked);
    assert!(!database.run(&["block", "lender", "--name", "nobody"]).status.success());
}

#[tokio::test]
async fn the_operator_lists_and_revokes_tokens_and_no_secret_is_shown() {
    let server = Server::start();
    let database = server.database();
    let token = database.token("borrower", "bob");
    let bob = server.client(token.clone());
    let listed = succeeds(&database, &["token", "list"]);
    assert!(listed.contains("borrower bob") && !listed.contains(token.reveal()), "{listed}");
    let id = listed.split_whitespace().next().unwrap();
    succeeds(&database, &["token", "revoke", id]);
    assert_refused(bob.leases().await, Code::Unauthorized);
    assert!(!database.run(&["token", "revoke", &Uuid::nil().to_string()]).status.success());
}
