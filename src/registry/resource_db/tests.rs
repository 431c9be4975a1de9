use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

mod database;
mod lists;
mod migrations;
mod model;
mod money;
mod offers;
mod receipts;
mod trust;

use database::Database;

use super::*;
use crate::{
    api::registry::{
        Account, ChangeOffer, EndReason, EndedAtHost, Lease, LeaseEnd, LedgerEntry, LendingState, MakeLease,
        OfferPartition, RegisteredPartition,
    },
    clock::Clock,
    domain::{
        id::{BorrowerId, HostId, LeaseId, LenderId, PartitionId},
        lease::{self, HostWord},
        ledger::{Billing, entry::Legs},
        money::{FeeRate, Micros, Price, Rounding},
        receipt::credit::CreditRule,
        registration::RegistrationNotAllowed,
        resources::Allocation,
        terms::{Epoch, Terms, TermsVersion},
    },
};

const HOUR: Duration = Duration::from_secs(3600);
const GRACE: Duration = Duration::from_secs(600);

/// A registry's database with one lender, its host, one partition on offer, and one borrower.
struct Market {
    db: ResourceDb,
    clock: Arc<Clock>,
    announced: Arc<Mutex<Vec<Change>>>,
    database: Database,
    lender: LenderId,
    borrower: BorrowerId,
    host: HostId,
    partition: PartitionId,
}

fn offer(terms: Terms) -> ChangeOffer {
    ChangeOffer { terms, new_key: false }
}

/// What a host offers that was told of this version.
fn put(terms: Terms, known: Option<u64>) -> OfferPartition {
    OfferPartition { terms, known_version: known.map(TermsVersion) }
}

fn terms(per_hour_micros: i64) -> Terms {
    Terms {
        allocation: Allocation { cpus: 1, memory_mib: 256, disk_mib: 64 },
        price: Price { per_hour_micros, currency: "EUR".parse().unwrap() },
        os_images: ["debian-micro".to_owned()].into(),
        cpu_model: "a CPU".to_owned(),
        network: Default::default(),
        qualities: Default::default(),
        lending: Default::default(),
    }
}

fn enrol(host: HostId, lender: LenderId, token: TokenDigest) -> Enrol {
    Enrol { host, lender, address: "http://host:1".to_owned(), token, idempotency_key: None }
}

async fn open(location: Location, clock: &Arc<Clock>) -> (ResourceDb, Arc<Mutex<Vec<Change>>>) {
    let announced = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&announced);
    let on_commit: OnCommit = Box::new(move |changes| heard.lock().unwrap().extend(changes));
    let db = ResourceDb::open(location, Arc::clone(clock), on_commit).await;
    (db.unwrap(), announced)
}

async fn principal(db: &ResourceDb, digest: TokenDigest) -> Option<Principal> {
    db.access(digest, "2026-01-01T12:00:00Z".parse().unwrap()).await.unwrap().map(|access| access.principal)
}

async fn account(db: &ResourceDb, kind: AccountKind, name: &str, digest: TokenDigest) -> Principal {
    db.add_token(TokenOwner::Account(kind, name.to_owned()), NewToken::lasting(digest)).await.unwrap();
    principal(db, digest).await.unwrap()
}

async fn borrower(db: &ResourceDb, name: &str, digest: TokenDigest) -> BorrowerId {
    match account(db, AccountKind::Borrower, name, digest).await {
        Principal::Borrower(borrower) => borrower,
        other => panic!("{other:?}"),
    }
}

async fn market() -> Market {
    let database = Database::new().await;
    let clock = Arc::new(Clock::held_at("2026-01-01T12:00:00Z".parse().unwrap()));
    let (db, announced) = open(database.location(), &clock).await;
    let Principal::Lender(lender) = account(&db, AccountKind::Lender, "lena", [1; 32]).await else {
        panic!()
    };
    let borrower = borrower(&db, "bob", [2; 32]).await;
    let (host, partition) = (HostId(Uuid::from_u128(10)), PartitionId(Uuid::from_u128(20)));
    db.enrol_host(enrol(host, lender, [3; 32])).await.unwrap();
    db.register(host, partition, put(terms(1_000_000), None)).await.unwrap();
    Market { db, clock, announced, database, lender, borrower, host, partition }
}

impl Market {
    fn wish(&self) -> Reserve {
        Reserve {
            lease: LeaseId(Uuid::now_v7()),
            borrower: self.borrower,
            wish: MakeLease {
                host: self.host,
                partition: self.partition,
                terms_version: TermsVersion(1),
                duration_seconds: 7200,
                budget: None,
            },
            idempotency_key: None,
            host_is_heard: true,
            conditions: Conditions {
                rounding: Rounding::BegunSecond,
                fee_rate: FeeRate::from_millionths(100_000).unwrap(),
                credit: CreditRule::STANDARD,
            },
        }
    }

    /// As the registry does it: what is overdue ends, if this word of the host is enough for that.
    async fn expire_with(&self, host: HostWord) {
        let now = self.clock.now();
        let overdue = self.db.overdue(now, None, 1000).await.unwrap();
        let ends = overdue
            .into_iter()
            .filter_map(|lease| Some((lease.lease, lease::overdue(&lease.course, host, GRACE, now)?)));
        self.db.end_overdue(ends.collect(), now).await.unwrap();
    }

    async fn entries(&self, account: Account) -> Vec<LedgerEntry> {
        self.db.entries(account, all()).await.unwrap()
    }

    async fn end_of(&self, lease: &Lease) -> Option<LeaseEnd> {
        self.db.lease(self.borrower, lease.id).await.unwrap().unwrap().end
    }

    async fn borrow(&self) -> Lease {
        match self.db.reserve(self.wish()).await.unwrap() {
            Reserved::Now(lease) => lease,
            Reserved::Before(_) => panic!("made before"),
        }
    }

    async fn give_back(&self, lease: &Lease) -> Lease {
        self.db.end_lease(lease.id, self.borrower, HostWord::Heard, self.clock.now()).await.unwrap()
    }

    async fn cleaned(&self, lease: &Lease) -> Vec<Ignored> {
        self.db.host_report(self.host, vec![], vec![lease.id], self.clock.now()).await.unwrap()
    }

    async fn row(&self) -> RegisteredPartition {
        let mut partitions = self.db.host_register(self.host).await.unwrap().partitions;
        assert_eq!(partitions.len(), 1);
        partitions.remove(0)
    }
}

fn all() -> Page {
    Page { before: None, limit: 1000 }
}

#[tokio::test]
async fn a_token_leads_to_whose_it_is_and_another_to_nobody() {
    let market = market().await;
    assert_eq!(principal(&market.db, [1; 32]).await, Some(Principal::Lender(market.lender)));
    assert_eq!(principal(&market.db, [2; 32]).await, Some(Principal::Borrower(market.borrower)));
    assert_eq!(principal(&market.db, [3; 32]).await, Some(Principal::Host(market.host)));
    assert_eq!(principal(&market.db, [4; 32]).await, None);
}

#[tokio::test]
async fn a_second_token_of_a_name_is_of_the_same_account() {
    let market = market().await;
    assert_eq!(borrower(&market.db, "bob", [5; 32]).await, market.borrower);
    assert_ne!(borrower(&market.db, "eve", [6; 32]).await, market.borrower);
}

#[tokio::test]
async fn a_lease_takes_the_partition_and_bills_from_now() {
    let market = market().await;
    let lease = market.borrow().await;
    assert_eq!((lease.epoch, lease.started_at), (Epoch(1), market.clock.now()));
    assert_eq!(lease.expires_at, market.clock.now() + 2 * HOUR);
    assert_eq!(lease.host_address, "http://host:1");
    let lent =
        LendingState::Lent { lease: lease.id, borrower: market.borrower, expires_at: lease.expires_at };
    assert_eq!(market.row().await.state, lent);
    assert!(market.db.free_partitions().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_second_borrower_is_refused() {
    let market = market().await;
    market.borrow().await;
    let error = market.db.reserve(market.wish()).await.unwrap_err();
    assert!(matches!(error, ReserveError::NotAllowed(RegistrationNotAllowed::Lent)));
}

#[tokio::test]
async fn law_1_is_the_databases_too() {
    let market = market().await;
    market.borrow().await;
    // Any 16 bytes are a name.
    let sql = "INSERT INTO leases (id, host, partition, borrower, lender, epoch, contract, started_at_us, \
               asked_until_us, expires_at_us, state) SELECT host, host, partition, borrower, lender, \
               epoch + 1, contract, started_at_us, asked_until_us, expires_at_us, state FROM leases";
    let error = market.database.execute(sql).await.unwrap_err();
    assert!(error.to_lowercase().contains("unique constraint"), "{error}");
}

#[tokio::test]
async fn of_a_thousand_contenders_one_wins() {
    let market = market().await;
    let contenders = (0..1000).map(|_| {
        let (db, wish) = (market.db.clone(), market.wish());
        tokio::spawn(async move { db.reserve(wish).await.is_ok() })
    });
    let won = futures::future::join_all(contenders).await;
    assert_eq!(won.into_iter().filter(|won| *won.as_ref().unwrap()).count(), 1);
    assert_eq!(market.db.active_leases().await.unwrap(), 1);
}

#[tokio::test]
async fn terms_that_were_not_shown_are_not_accepted() {
    let market = market().await;
    market.db.change(market.host, market.partition, TermsVersion(1), offer(terms(2_000_000))).await.unwrap();
    let error = market.db.reserve(market.wish()).await.unwrap_err();
    assert!(matches!(error, ReserveError::NotAllowed(RegistrationNotAllowed::OtherVersion { .. })));
}

#[tokio::test]
async fn a_partition_of_a_silent_host_is_not_lent() {
    let market = market().await;
    let error = market.db.reserve(Reserve { host_is_heard: false, ..market.wish() }).await.unwrap_err();
    assert!(matches!(error, ReserveError::HostSilent(_)));
    assert_eq!(market.row().await.state, LendingState::Free);
}

#[tokio::test]
async fn a_partition_that_was_never_offered_cannot_be_borrowed() {
    let market = market().await;
    let mut wish = market.wish();
    wish.wish.partition = PartitionId(Uuid::nil());
    let error = market.db.reserve(wish).await.unwrap_err();
    assert!(matches!(error, ReserveError::NoSuchPartition { .. }));
}

#[tokio::test]
async fn the_same_wish_again_is_the_same_lease_even_if_the_host_fell_silent() {
    let market = market().await;
    let wish = Reserve { idempotency_key: Some("once".to_owned()), ..market.wish() };
    let Reserved::Now(first) = market.db.reserve(wish.clone()).await.unwrap() else { panic!() };
    let again = Reserve { lease: LeaseId(Uuid::now_v7()), host_is_heard: false, ..wish.clone() };
    let Reserved::Before(second) = market.db.reserve(again).await.unwrap() else { panic!() };
    assert_eq!(first, second);
    let mut other = wish;
    other.wish.duration_seconds += 1;
    let error = market.db.reserve(other).await.unwrap_err();
    assert!(matches!(error, ReserveError::IdempotencyKeyReused));
}

#[tokio::test]
async fn a_wish_that_was_refused_is_not_granted_when_it_arrives_once_more() {
    let market = market().await;
    let lease = market.borrow().await;
    let wish = Reserve { idempotency_key: Some("once".to_owned()), ..market.wish() };
    let refused = market.db.reserve(wish.clone()).await.unwrap_err();
    assert!(matches!(refused, ReserveError::NotAllowed(RegistrationNotAllowed::Lent)));
    market.give_back(&lease).await;
    market.cleaned(&lease).await;
    let again = market.db.reserve(wish.clone()).await.unwrap_err();
    assert_eq!(again.problem(), refused.problem());
    let mut other = wish;
    other.wish.duration_seconds += 1;
    let error = market.db.reserve(other).await.unwrap_err();
    assert!(matches!(error, ReserveError::IdempotencyKeyReused));
    market.borrow().await;
}

#[tokio::test]
async fn a_return_is_charged_by_the_begun_second_and_said_twice_it_is_the_same() {
    let market = market().await;
    let lease = market.borrow().await;
    market.clock.advance(Duration::from_millis(1_799_500));
    let ended = market.give_back(&lease).await;
    let end = ended.end.clone().unwrap();
    assert_eq!((end.reason, end.charge, end.at), (EndReason::Returned, Micros(500_000), market.clock.now()));
    market.clock.advance(HOUR);
    assert_eq!(market.give_back(&lease).await, ended);
}

#[tokio::test]
async fn nobody_else_can_end_a_lease() {
    let market = market().await;
    let lease = market.borrow().await;
    let eve = borrower(&market.db, "eve", [6; 32]).await;
    let error = market.db.end_lease(lease.id, eve, HostWord::Heard, market.clock.now()).await.unwrap_err();
    assert!(matches!(error, EndError::NoSuchLease));
}

#[tokio::test]
async fn a_lease_expires_by_the_registrys_clock_and_is_charged_in_full() {
    let market = market().await;
    let lease = market.borrow().await;
    assert_eq!(market.db.next_planned_end(market.clock.now()).await.unwrap(), Some(lease.expires_at));
    market.expire_with(HostWord::Heard).await;
    market.clock.advance(3 * HOUR);
    assert_eq!(market.db.next_planned_end(market.clock.now()).await.unwrap(), None);
    market.expire_with(HostWord::Heard).await;
    let end = market.db.lease(market.borrower, lease.id).await.unwrap().unwrap().end.unwrap();
    assert_eq!((end.reason, end.at, end.charge), (EndReason::Expired, lease.expires_at, Micros(2_000_000)));
    assert_eq!(market.row().await.state, LendingState::AwaitingClean { lease: lease.id });
}

#[tokio::test]
async fn a_partition_is_on_offer_again_only_once_its_host_has_cleaned_it() {
    let market = market().await;
    let lease = market.borrow().await;
    assert_eq!(market.cleaned(&lease).await.len(), 1, "a lease that runs cannot be cleaned up after");
    market.give_back(&lease).await;
    let refused = market.db.reserve(market.wish()).await.unwrap_err();
    assert!(matches!(refused, ReserveError::NotAllowed(RegistrationNotAllowed::AwaitingClean)));
    assert_eq!(market.cleaned(&lease).await, []);
    assert_eq!(market.row().await.state, LendingState::Free);
    assert_eq!(market.cleaned(&lease).await, [], "said again it changes nothing");
    assert_eq!(market.borrow().await.epoch, Epoch(2));
}

#[tokio::test]
async fn an_end_at_the_host_ends_the_lease_with_its_reason() {
    let market = market().await;
    let lease = market.borrow().await;
    market.clock.advance(HOUR);
    let end = EndedAtHost { lease: lease.id, reason: EndReason::HostLost };
    let confirmed_at = market.clock.now() - Duration::from_secs(60);
    let ignored = market.db.host_report(market.host, vec![end], vec![lease.id], confirmed_at).await.unwrap();
    assert_eq!(ignored, []);
    let end = market.end_of(&lease).await.unwrap();
    assert_eq!((end.reason, end.at), (EndReason::HostLost, confirmed_at));
    assert_eq!(market.row().await.state, LendingState::Free);
}

#[tokio::test]
async fn a_host_says_nothing_of_other_hosts_leases() {
    let market = market().await;
    let lease = market.borrow().await;
    let other = HostId(Uuid::from_u128(11));
    market.db.enrol_host(enrol(other, market.lender, [7; 32])).await.unwrap();
    let end = EndedAtHost { lease: lease.id, reason: EndReason::Returned };
    let ignored = market.db.host_report(other, vec![end], vec![lease.id], market.clock.now()).await.unwrap();
    assert_eq!(ignored.len(), 2);
    assert_eq!(market.db.lease(market.borrower, lease.id).await.unwrap().unwrap().end, None);
}

#[tokio::test]
async fn charges_are_payments_and_fees_and_each_row_can_be_recomputed() {
    let market = market().await;
    for minutes in [7, 61, 130] {
        let lease = market.borrow().await;
        market.clock.advance(Duration::from_secs(minutes * 60));
        market.give_back(&lease).await;
        market.cleaned(&lease).await;
    }
    let charges = market.entries(Account::Borrower(market.borrower)).await;
    assert_eq!(charges, market.entries(Account::Lender(market.lender)).await);
    assert_eq!(charges.len(), 3);
    for LedgerEntry { entry, used } in &charges {
        let used = used.as_ref().unwrap();
        let billing = Billing {
            started_at: used.started_at,
            ended_at: used.ended_at,
            price: Price { per_hour_micros: used.per_hour_micros, currency: entry.currency },
            rounding: used.rounding,
            fee_rate: used.fee_millionths,
        };
        assert_eq!(Legs::of_lease(&billing.settle()), entry.legs);
        assert!(entry.legs.is_balanced());
    }
    let charged = charges.iter().map(|charge| -charge.entry.legs.borrower.0).sum::<i64>();
    assert_eq!(charged, 116_666 + 1_016_666 + 2_000_000);
}

#[tokio::test]
async fn a_row_of_the_ledger_stays_as_it_was_written() {
    let market = market().await;
    let lease = market.borrow().await;
    market.give_back(&lease).await;
    assert!(market.database.execute("UPDATE entries SET lender = borrower").await.is_err());
    assert!(market.database.execute("DELETE FROM entries").await.is_err());
}

#[tokio::test]
async fn a_list_is_read_page_by_page_newest_first() {
    let market = market().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        let lease = market.borrow().await;
        market.give_back(&lease).await;
        market.cleaned(&lease).await;
        made.insert(0, lease.id);
    }
    let (mut read, mut before) = (Vec::new(), None);
    loop {
        let page =
            market.db.leases(WhichLeases::of(market.borrower), Page { before, limit: 2 }).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id.0);
        read.extend(page.iter().map(|lease| lease.id));
    }
    assert_eq!(read, made);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_when_the_database_is_opened_again() {
    let market = market().await;
    let lease = market.borrow().await;
    let (again, _) = open(market.database.location(), &market.clock).await;
    assert_eq!(again.lease(market.borrower, lease.id).await.unwrap(), Some(lease));
}

#[tokio::test]
async fn each_change_is_announced_in_order_and_a_refusal_announces_nothing() {
    let market = market().await;
    let lease = market.borrow().await;
    market.db.reserve(market.wish()).await.unwrap_err();
    market.give_back(&lease).await;
    market.cleaned(&lease).await;
    market.db.withdraw(market.host, market.partition, None).await.unwrap();
    let announced = market.announced.lock().unwrap();
    let states: Vec<_> = announced.iter().map(|change| change.row.clone().map(|row| row.state)).collect();
    let lent =
        LendingState::Lent { lease: lease.id, borrower: market.borrower, expires_at: lease.expires_at };
    let waiting = LendingState::AwaitingClean { lease: lease.id };
    let expected = [Some(LendingState::Free), Some(lent), Some(waiting), Some(LendingState::Free), None];
    assert_eq!(states, expected);
}
