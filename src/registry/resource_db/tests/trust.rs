//! Keys and tokens that change while they are in use.

use super::*;
use crate::{
    api::{registry::HostContact, secret::Secret, token::Scope},
    domain::{
        id::{IssuerId, KeyId},
        lending_key::IssuerKeyPair,
        tls_key::TlsKey,
    },
};

const MARGIN: Duration = Duration::from_secs(5);

fn seed(number: u8) -> [u8; 32] {
    [number; 32]
}

async fn begin_signing(market: &Market) -> IssuerId {
    let secret = IssuerKeyPair::from_seed(seed(1)).secret();
    market.db.issuer((IssuerId(Uuid::from_u128(1)), secret)).await.unwrap()
}

/// Numbers of the keys that are not retired.
async fn trusted(market: &Market) -> Vec<u64> {
    let keys = market.db.signing_keys().await.unwrap();
    keys.iter().filter(|key| key.secret.is_some()).map(|key| key.number).collect()
}

#[tokio::test]
async fn a_registry_is_who_it_was_first_and_its_first_key_signs() {
    let market = market().await;
    let id = begin_signing(&market).await;
    let other = (IssuerId(Uuid::from_u128(2)), IssuerKeyPair::from_seed(seed(2)).secret());
    assert_eq!(market.db.issuer(other).await.unwrap(), id);
    let keys = market.db.signing_keys().await.unwrap();
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0].public_key, IssuerKeyPair::from_seed(seed(1)).public_key());
}

#[tokio::test]
async fn a_signing_key_is_trusted_until_no_lease_is_left_that_it_signed_for() {
    let market = market().await;
    begin_signing(&market).await;
    let lease = market.borrow().await;
    market.clock.advance(HOUR / 2);
    let next = market.db.add_signing_key(seed(2), HOUR / 4).await.unwrap();
    assert_eq!((next.number, next.signs_from), (2, market.clock.now() + HOUR / 4));
    market.db.retire_signing_keys(MARGIN).await.unwrap();
    assert_eq!(trusted(&market).await, [1, 2]);
    market.clock.advance(HOUR / 4 + MARGIN);
    market.db.retire_signing_keys(MARGIN).await.unwrap();
    assert_eq!(trusted(&market).await, [1, 2], "the lease runs");
    market.give_back(&lease).await;
    assert_eq!(market.db.retire_signing_keys(MARGIN).await.unwrap(), 1);
    assert_eq!(trusted(&market).await, [2]);
    assert_eq!(market.db.retire_signing_keys(MARGIN).await.unwrap(), 0);
    let retired = market.db.signing_keys().await.unwrap().remove(0);
    assert!(retired.secret.is_none() && retired.retired_at == Some(market.clock.now()));
}

#[tokio::test]
async fn a_key_that_may_still_be_signed_with_is_not_retired() {
    let market = market().await;
    begin_signing(&market).await;
    market.db.add_signing_key(seed(2), Duration::ZERO).await.unwrap();
    assert_eq!(market.db.retire_signing_keys(MARGIN).await.unwrap(), 0);
    market.clock.advance(MARGIN);
    let lease = market.borrow().await;
    assert_eq!(
        market.db.retire_signing_keys(MARGIN).await.unwrap(),
        1,
        "the other key signed for this lease"
    );
    market.give_back(&lease).await;
}

#[tokio::test]
async fn a_revoked_key_is_told_to_its_host_and_another_takes_its_place() {
    let market = market().await;
    let lease = market.borrow().await;
    assert_eq!(lease.key, KeyId(lease.id.0));
    let before = market.db.host_revision(market.host).await.unwrap();
    let fresh = KeyId(Uuid::from_u128(77));
    let rekeyed = market.db.revoke_key_of(market.borrower, lease.id, fresh).await.unwrap();
    assert_eq!(rekeyed, Lease { key: fresh, ..lease.clone() });
    assert!(market.db.host_revision(market.host).await.unwrap() > before, "a host that waits is answered");
    let revoked = market.db.host_register(market.host).await.unwrap().revoked;
    assert_eq!((revoked.len(), revoked[0].key, revoked[0].until), (1, lease.key, lease.expires_at));

    let another = KeyId(Uuid::from_u128(78));
    assert_eq!(market.db.revoke_key(fresh, another).await.unwrap().key, another, "by its name");
    let gone = market.db.revoke_key(fresh, another).await;
    assert!(matches!(gone, Err(RevokeError::NoSuchLease)));
    assert_eq!(market.db.host_register(market.host).await.unwrap().revoked.len(), 2);
}

#[tokio::test]
async fn a_key_is_revoked_by_its_borrower_alone_and_while_its_lease_runs() {
    let market = market().await;
    let lease = market.borrow().await;
    let eve = borrower(&market.db, "eve", [9; 32]).await;
    let fresh = KeyId(Uuid::from_u128(77));
    let refused = market.db.revoke_key_of(eve, lease.id, fresh).await;
    assert!(matches!(refused, Err(RevokeError::NoSuchLease)));
    market.give_back(&lease).await;
    let refused = market.db.revoke_key_of(market.borrower, lease.id, fresh).await;
    assert!(matches!(refused, Err(RevokeError::Ended(ended)) if ended == lease.id));
    assert!(market.db.host_register(market.host).await.unwrap().revoked.is_empty());
}

#[tokio::test]
async fn a_lease_says_where_its_host_is_and_by_which_key_it_is_known_there() {
    let market = market().await;
    let lease = market.borrow().await;
    assert_eq!((lease.host_address.as_str(), lease.host_tls_key), ("http://host:1", None));
    let contact = HostContact {
        address: "https://host:2".to_owned(),
        tls_key: Some(TlsKey::of(b"a key")),
        receipt_key: None,
    };
    market.db.change_contact(market.host, contact.clone()).await.unwrap();
    let lease = market.db.lease(market.borrower, lease.id).await.unwrap().unwrap();
    assert_eq!((lease.host_address, lease.host_tls_key), (contact.address, contact.tls_key));
}

#[tokio::test]
async fn a_token_is_good_for_its_time() {
    let market = market().await;
    let ends = market.clock.now() + HOUR;
    let token = NewToken { expires_at: Some(ends), ..NewToken::lasting([9; 32]) };
    market.db.add_token(TokenOwner::Administrator("root".to_owned()), token).await.unwrap();
    let access = async |at| market.db.access([9; 32], at).await.unwrap();
    assert_eq!(access(market.clock.now()).await.unwrap().principal, Principal::Administrator);
    assert!(access(ends).await.is_none());
}

#[tokio::test]
async fn the_first_use_of_a_token_ends_the_one_that_it_replaces() {
    let market = market().await;
    let now = market.clock.now();
    let old = market.db.access([2; 32], now).await.unwrap().unwrap().token;
    let lost = NewToken::lasting([8; 32]);
    market.db.add_token_beside(old, lost, true).await.unwrap();
    let new = NewToken { scope: Scope::Read, ..NewToken::lasting([9; 32]) };
    market.db.add_token_beside(old, new, true).await.unwrap();
    assert!(
        principal(&market.db, [8; 32]).await.is_none(),
        "whoever asks again did not get the first answer"
    );
    assert!(principal(&market.db, [2; 32]).await.is_some(), "the new one was not used yet");
    let access = market.db.access([9; 32], now).await.unwrap().unwrap();
    assert_eq!((access.principal, access.scope), (Principal::Borrower(market.borrower), Scope::Read));
    assert!(principal(&market.db, [2; 32]).await.is_none());
    assert_eq!(market.db.access([9; 32], now).await.unwrap().unwrap().token, new.id, "and it stays");
    let views = market.db.tokens_beside(new.id).await.unwrap();
    assert_eq!(
        (views.len(), views[0].id, views[0].role.as_str(), views[0].name.as_str()),
        (1, new.id, "borrower", "bob")
    );
}

#[tokio::test]
async fn a_revoked_token_is_nobodys() {
    let market = market().await;
    let token = market.db.access([2; 32], market.clock.now()).await.unwrap().unwrap().token;
    assert!(market.db.revoke_token(token).await.unwrap());
    assert!(!market.db.revoke_token(token).await.unwrap());
    assert!(principal(&market.db, [2; 32]).await.is_none());
    assert_eq!(market.db.tokens().await.unwrap().len(), 2, "the lender's and the host's");
}

#[tokio::test]
async fn a_lender_is_blocked_with_its_hosts_and_nobody_else() {
    let market = market().await;
    let blocked =
        async |digest| market.db.access(digest, market.clock.now()).await.unwrap().unwrap().is_blocked;
    let block = |is_blocked| market.db.block_account(AccountKind::Lender, "lena".to_owned(), is_blocked);
    assert!(block(true).await.unwrap());
    assert!(blocked([1; 32]).await && blocked([3; 32]).await && !blocked([2; 32]).await);
    assert!(block(false).await.unwrap());
    assert!(!blocked([1; 32]).await && !blocked([3; 32]).await);
    assert!(!market.db.block_account(AccountKind::Lender, "nobody".to_owned(), true).await.unwrap());
}

#[test]
fn no_secret_of_a_registry_shows() {
    let pair = IssuerKeyPair::from_seed(seed(1));
    let key = SigningKey {
        number: 1,
        public_key: pair.public_key(),
        secret: Some(Secret::new(pair.secret().reveal())),
        signs_from: jiff::Timestamp::UNIX_EPOCH,
        retired_at: None,
    };
    assert!(!format!("{key:?}").contains(pair.secret().reveal()));
}
