//! Lists of hosts and leases, by whom they are for and by what is asked.

use super::*;

fn which() -> WhichLeases {
    WhichLeases::default()
}

/// Lets a second lender's host have a lease of a second borrower's; with the two names.
async fn another_market(market: &Market) -> (LenderId, HostId, Lease) {
    let Principal::Lender(lender) = account(&market.db, AccountKind::Lender, "lars", [11; 32]).await else {
        panic!()
    };
    let (host, borrower) = (HostId(Uuid::from_u128(11)), borrower(&market.db, "eve", [12; 32]).await);
    market.db.enrol_host(enrol(host, lender, [13; 32])).await.unwrap();
    market.db.register(host, market.partition, put(terms(1_000_000), None)).await.unwrap();
    let wish = market.wish();
    let wish = Reserve { borrower, wish: MakeLease { host, ..wish.wish.clone() }, ..wish };
    let (Reserved::Now(lease) | Reserved::Before(lease)) = market.db.reserve(wish).await.unwrap();
    (lender, host, lease)
}

#[tokio::test]
async fn leases_are_found_by_whose_they_are_and_by_each_condition() {
    let market = market().await;
    let ended = market.borrow().await;
    market.give_back(&ended).await;
    market.cleaned(&ended).await;
    let runs = market.borrow().await;
    let (other_lender, other_host, foreign) = another_market(&market).await;
    let find = async |which| -> Vec<LeaseId> {
        market.db.leases(which, all()).await.unwrap().into_iter().map(|lease| lease.id).collect()
    };
    assert_eq!(find(which()).await, [foreign.id, runs.id, ended.id], "newest first");
    assert_eq!(find(WhichLeases::of(market.borrower)).await, [runs.id, ended.id]);
    assert_eq!(find(WhichLeases { lender: Some(other_lender), ..which() }).await, [foreign.id]);
    assert_eq!(find(WhichLeases { host: Some(other_host), ..which() }).await, [foreign.id]);
    assert_eq!(find(WhichLeases { active: Some(true), ..which() }).await, [foreign.id, runs.id]);
    assert_eq!(find(WhichLeases { active: Some(false), ..which() }).await, [ended.id]);
    let partition = Some(market.partition);
    assert_eq!(find(WhichLeases { partition, lender: Some(market.lender), ..which() }).await.len(), 2);
    assert!(
        find(WhichLeases { host: Some(other_host), lender: Some(market.lender), ..which() }).await.is_empty()
    );
}

#[tokio::test]
async fn a_host_is_listed_with_what_is_written_down_of_it_to_its_lender_and_to_an_administrator() {
    let market = market().await;
    let (other_lender, other_host, _) = another_market(&market).await;
    let another = PartitionId(Uuid::from_u128(21));
    market.db.register(market.host, another, put(terms(1), None)).await.unwrap();
    market.db.withdraw(market.host, another, None).await.unwrap();
    market.borrow().await;
    let heard = market.clock.now();
    market.db.confirm_hosts(vec![(market.host, heard)]).await.unwrap();

    let own = market.db.hosts(Some(market.lender), all()).await.unwrap();
    assert_eq!((own.len(), own[0].host, own[0].lender_name.as_str()), (1, market.host, "lena"));
    assert_eq!((own[0].partitions, own[0].lent, own[0].heard_at), (1, 1, Some(heard)));
    let both = market.db.hosts(None, all()).await.unwrap();
    assert_eq!(both.iter().map(|host| host.host).collect::<Vec<_>>(), [other_host, market.host]);
    assert_eq!(both[0].heard_at, None, "it was never heard");
    let next = market.db.hosts(None, Page { before: Some(other_host.0), limit: 9 }).await.unwrap();
    assert_eq!(next, own);
    assert_eq!(market.db.host(Some(other_lender), market.host).await.unwrap(), None);
    assert_eq!(market.db.host(None, market.host).await.unwrap().as_ref(), own.first());
}
