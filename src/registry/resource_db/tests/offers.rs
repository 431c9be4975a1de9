//! Offers, as they are made, changed and withdrawn (F6, F7).

use super::*;

#[tokio::test]
async fn what_is_lent_is_neither_changed_nor_withdrawn() {
    let market = market().await;
    market.borrow().await;
    let (host, partition) = (market.host, market.partition);
    let lent = |result: Result<(), RegisterError>| {
        matches!(result, Err(RegisterError::NotAllowed(RegistrationNotAllowed::Lent)))
    };
    assert!(lent(market.db.register(host, partition, put(terms(1), Some(1))).await.map(drop)));
    assert!(lent(market.db.change(host, partition, TermsVersion(1), offer(terms(1))).await.map(drop)));
    assert!(lent(market.db.withdraw(host, partition, None).await));
    assert_eq!(market.row().await.terms, terms(1_000_000));
}

#[tokio::test]
async fn the_same_offer_again_changes_nothing_and_another_is_a_new_version() {
    let market = market().await;
    let before = market.db.host_revision(market.host).await.unwrap();
    let register = |terms| market.db.register(market.host, market.partition, put(terms, Some(1)));
    assert_eq!(register(terms(1_000_000)).await.unwrap().0.version, TermsVersion(1));
    assert_eq!(market.db.host_revision(market.host).await.unwrap(), before);
    assert_eq!(register(terms(2)).await.unwrap().0.version, TermsVersion(2));
    assert!(market.db.host_revision(market.host).await.unwrap() > before);
}

#[tokio::test]
async fn a_withdrawn_partition_is_gone_and_keeps_its_epoch_when_it_comes_back() {
    let market = market().await;
    let lease = market.borrow().await;
    market.give_back(&lease).await;
    market.cleaned(&lease).await;
    market.db.withdraw(market.host, market.partition, None).await.unwrap();
    market.db.withdraw(market.host, market.partition, None).await.unwrap();
    assert!(market.db.host_register(market.host).await.unwrap().partitions.is_empty());
    let (row, is_new) =
        market.db.register(market.host, market.partition, put(terms(1), Some(1))).await.unwrap();
    assert!(is_new && row.epoch == Epoch(1) && row.version > TermsVersion(1));
}

#[tokio::test]
async fn an_offer_that_comes_late_undoes_nothing_that_was_said_since() {
    let market = market().await;
    let outdated = async |known| {
        let late = market.db.register(market.host, market.partition, put(terms(1_000_000), known)).await;
        matches!(late, Err(RegisterError::NotAllowed(RegistrationNotAllowed::Outdated { .. })))
    };
    let change = market.db.change(market.host, market.partition, TermsVersion(1), offer(terms(2)));
    assert_eq!(change.await.unwrap().version, TermsVersion(2));
    assert!(outdated(None).await && outdated(Some(1)).await);
    assert_eq!(market.row().await.terms, terms(2));
    market.db.withdraw(market.host, market.partition, Some(TermsVersion(2))).await.unwrap();
    assert!(outdated(None).await && outdated(Some(1)).await);
    assert!(market.db.free_partitions().await.unwrap().is_empty());
    market.db.register(market.host, market.partition, put(terms(3), Some(2))).await.unwrap();
    let late = market.db.withdraw(market.host, market.partition, Some(TermsVersion(2))).await;
    assert!(matches!(late, Err(RegisterError::NotAllowed(RegistrationNotAllowed::OtherVersion { .. }))));
    assert_eq!(market.row().await.version, TermsVersion(3));
}

#[tokio::test]
async fn a_registry_that_was_restored_goes_on_from_the_version_that_its_host_was_told() {
    let market = market().await;
    let offer = put(terms(2), Some(7));
    let (row, _) = market.db.register(market.host, market.partition, offer.clone()).await.unwrap();
    assert_eq!(row.version, TermsVersion(8));
    let forgotten = PartitionId(Uuid::from_u128(21));
    let (row, is_new) = market.db.register(market.host, forgotten, offer).await.unwrap();
    assert_eq!((row.version, is_new), (TermsVersion(8), true));
}
