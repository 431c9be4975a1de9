//! Hosts and borrowers that go on about their business while the registry dies and comes back. Each asks until it is
//! answered, under the same name, and writes down what it was told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use jiff::Timestamp;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use sublet::{
    api::{
        problem::Code,
        registry::{
            ChangeOffer, EndReason, EndedAtHost, EnrolHost, Heartbeat, Lease, LeaseGranted, LendingState,
            OfferPartition, RegisteredPartition, Search,
        },
        secret::Secret,
    },
    client::{ClientError, HostRequestId, LeaseRequestId, RegistryClient},
    domain::{
        id::{HostId, LeaseId, PartitionId},
        terms::Epoch,
    },
};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::{
    market::{end_of, terms, wish},
    server::{Server, eventually},
};

const HOSTS: u32 = 3;
const PARTITIONS_OF_A_HOST: u32 = 4;
const BORROWERS: u32 = 4;
/// Some leases are so short that time ends them.
const SHORT: Duration = Duration::from_secs(1);
/// Between two questions that found nobody.
const ASK_AGAIN: Duration = Duration::from_millis(2);
/// How long a registry may hold a host's heartbeat, in milliseconds.
const WAIT_MS: u64 = 20;

/// What a borrower was told.
#[derive(Default)]
pub(super) struct BorrowerDiary {
    pub(super) granted: BTreeMap<LeaseId, LeaseGranted>,
    /// As the answer to its end had it.
    pub(super) ended: BTreeMap<LeaseId, Lease>,
}

/// What a host was told, and what it told in words that were answered.
#[derive(Default)]
pub(super) struct HostDiary {
    pub(super) ended: BTreeMap<LeaseId, EndReason>,
    pub(super) views: BTreeMap<PartitionId, RegisteredPartition>,
    revision: u64,
}

/// All that was heard, and the tokens to ask about it.
pub(super) struct Heard {
    pub(super) borrowers: Vec<(Secret, BorrowerDiary)>,
    pub(super) hosts: Vec<(HostId, Secret, HostDiary)>,
    pub(super) lender: Secret,
}

/// Waits until the registry does.
pub(super) async fn serves(server: &Server) {
    let stranger = server.client(Secret::new("nobody's"));
    let refusal = async || stranger.leases().await.err()?.code();
    assert_eq!(eventually("it serves", refusal).await, Code::Unauthorized);
}

/// Who is at work.
pub(super) struct Town {
    common: Arc<Common>,
    borrowers: Vec<(Secret, JoinHandle<BorrowerDiary>)>,
    hosts: Vec<(HostId, Secret, JoinHandle<HostDiary>)>,
    lender: Secret,
}

#[derive(Default)]
struct Common {
    answers: AtomicU64,
    resting: AtomicBool,
    database_dies: AtomicBool,
}

impl Town {
    /// Everybody is there and begins, with registries that serve one database.
    pub(super) async fn settle(servers: &[Server], random: &mut StdRng) -> Self {
        let common = Arc::<Common>::default();
        for server in servers {
            serves(server).await;
        }
        let database = servers[0].database();
        let lender = database.token("lender", "alice");
        let enroller = Asker::new(servers, &lender, &common);
        let address = EnrolHost { address: "http://192.0.2.1:7180".to_owned() };
        let mut hosts = Vec::new();
        for _ in 0..HOSTS {
            let once = HostRequestId(Uuid::new_v4());
            let address = &address;
            let enrolled = enroller.ask(|registry| async move { registry.enrol_host(once, address).await });
            let enrolled = enrolled.await.unwrap();
            let asker = Asker::new(servers, &enrolled.host_token, &common);
            let host = HostAtWork::new(enrolled.host, asker, random);
            hosts.push((enrolled.host, enrolled.host_token, tokio::spawn(host.work())));
        }
        let borrowers = (0..BORROWERS).map(|number| {
            let token = database.token("borrower", &format!("bob{number}"));
            let asker = Asker::new(servers, &token, &common);
            let random = StdRng::seed_from_u64(random.random());
            let borrower = BorrowerAtWork { asker, random, diary: BorrowerDiary::default() };
            (token, tokio::spawn(borrower.work()))
        });
        Self { borrowers: borrowers.collect(), common, hosts, lender }
    }

    /// From now on a registry may say that its database fails.
    #[cfg(feature = "postgres-tests")]
    pub(super) fn bears_that_the_database_dies(&self) {
        self.common.database_dies.store(true, Ordering::SeqCst);
    }

    /// Waits until so many more questions have been answered.
    pub(super) async fn hears(&self, answers: u64) {
        let wanted = self.common.answers.load(Ordering::SeqCst) + answers;
        let answered = async || (self.common.answers.load(Ordering::SeqCst) >= wanted).then_some(());
        eventually("questions are answered", answered).await;
    }

    /// Everybody ends what was begun. What they were told.
    pub(super) async fn rests(self) -> Heard {
        self.common.resting.store(true, Ordering::SeqCst);
        let borrowers = self.borrowers.into_iter().map(async |(token, work)| (token, work.await.unwrap()));
        let borrowers = join_all(borrowers).await;
        let hosts =
            self.hosts.into_iter().map(async |(host, token, work)| (host, token, work.await.unwrap()));
        Heard { borrowers, hosts: join_all(hosts).await, lender: self.lender }
    }
}

/// Somebody who asks until there is an answer, now one registry, now another.
struct Asker {
    registries: Vec<RegistryClient>,
    turn: AtomicUsize,
    common: Arc<Common>,
}

impl Asker {
    fn new(servers: &[Server], token: &Secret, common: &Arc<Common>) -> Self {
        let registries = servers.iter().map(|server| server.client(token.clone())).collect();
        Self { registries, turn: AtomicUsize::default(), common: Arc::clone(common) }
    }

    /// The answer, or the refusal's code. No refusal is the server's own failure, unless its database dies too.
    async fn ask<T, F>(&self, question: impl Fn(RegistryClient) -> F) -> Result<T, Code>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        loop {
            let turn = self.turn.fetch_add(1, Ordering::SeqCst);
            match question(self.registries[turn % self.registries.len()].clone()).await {
                Ok(answer) => {
                    self.common.answers.fetch_add(1, Ordering::SeqCst);
                    return Ok(answer);
                }
                Err(ClientError::Refused(problem)) if problem.code == Code::StorageFailed => {
                    assert!(self.common.database_dies.load(Ordering::SeqCst), "{problem:?}");
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Err(ClientError::Refused(problem)) => {
                    assert!(problem.status < 500, "{problem:?}");
                    return Err(problem.code);
                }
                Err(ClientError::Unreachable { .. } | ClientError::Answer { .. }) => {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    fn is_resting(&self) -> bool {
        self.common.resting.load(Ordering::SeqCst)
    }
}

struct BorrowerAtWork {
    asker: Asker,
    random: StdRng,
    diary: BorrowerDiary,
}

impl BorrowerAtWork {
    async fn work(mut self) -> BorrowerDiary {
        while !self.asker.is_resting() {
            self.lend_once().await;
        }
        self.diary
    }

    async fn lend_once(&mut self) {
        let search = Search { limit: Some(8), ..Search::default() };
        let search = &search;
        let found = self.asker.ask(|registry| async move { registry.search(search).await }).await.unwrap();
        let Some(offer) = found.offers.choose(&mut self.random) else {
            return tokio::time::sleep(ASK_AGAIN).await;
        };
        let seconds = if self.random.random_ratio(1, 8) { SHORT.as_secs() } else { 600 };
        let mut wish = wish_of(offer);
        wish.duration_seconds = seconds;
        let once = LeaseRequestId(Uuid::new_v4());
        let wish = &wish;
        let made = self.asker.ask(|registry| async move { registry.make_lease(once, wish).await });
        match made.await {
            Ok(granted) => self.use_it(granted).await,
            Err(Code::AlreadyLent | Code::TermsChanged | Code::HostSilent | Code::NotFound) => {}
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Some leases are left to their hosts and to time.
    async fn use_it(&mut self, granted: LeaseGranted) {
        let lease = granted.lease.id;
        if self.random.random_ratio(3, 4) {
            let end = end_of(&granted);
            let end = &end;
            let ended = self.asker.ask(|registry| async move { registry.end_lease(lease, end).await }).await;
            self.diary.ended.insert(lease, ended.unwrap());
        }
        let before = self.diary.granted.insert(lease, granted);
        assert!(before.is_none(), "law 1: one lease was the answer to two wishes");
    }
}

fn wish_of(offer: &sublet::api::registry::Offer) -> sublet::api::registry::MakeLease {
    let row = RegisteredPartition {
        host: offer.host,
        partition: offer.partition,
        terms: offer.terms.clone(),
        version: offer.terms_version,
        epoch: Epoch(0),
        state: LendingState::Free,
    };
    wish(&row, 600)
}

struct HostAtWork {
    host: HostId,
    asker: Asker,
    random: StdRng,
    diary: HostDiary,
    partitions: Vec<PartitionId>,
    /// To be told with the next heartbeat.
    news: Heartbeat,
}

impl HostAtWork {
    fn new(host: HostId, asker: Asker, random: &mut StdRng) -> Self {
        let partitions = (0..PARTITIONS_OF_A_HOST).map(|_| PartitionId(Uuid::new_v4())).collect();
        let random = StdRng::seed_from_u64(random.random());
        let (diary, news) = (HostDiary::default(), Heartbeat::default());
        Self { host, asker, random, diary, partitions, news }
    }

    async fn work(mut self) -> HostDiary {
        for partition in self.partitions.clone() {
            self.offer(partition).await;
        }
        while !self.asker.is_resting() {
            self.beat().await;
            if self.random.random_ratio(1, 8) {
                self.manage().await;
            }
        }
        // What was begun is ended: nothing is said of which it is not known whether it was heard.
        self.beat().await;
        self.diary
    }

    /// The version is that of the last heartbeat's answer: one that was made since, whose answer was lost, is a later one.
    async fn offer(&mut self, partition: PartitionId) {
        let known_version = self.diary.views.get(&partition).map(|view| view.version);
        let terms = terms(1, self.random.random_range(1..5_000_000_000));
        let offer = &OfferPartition { terms, known_version };
        let host = self.host;
        let ask =
            |registry: RegistryClient| async move { registry.offer_partition(host, partition, offer).await };
        let offered = self.asker.ask(ask).await;
        let as_may_be = matches!(
            offered,
            Ok(_) | Err(Code::PartitionLent | Code::PartitionNotReady | Code::PreconditionFailed)
        );
        assert!(as_may_be, "{offered:?}");
    }

    /// Changes, or withdraws, and offers again.
    async fn manage(&mut self) {
        let partition = self.partitions[self.random.random_range(0..self.partitions.len())];
        let host = self.host;
        let Some(version) = self.diary.views.get(&partition).map(|view| view.version) else { return };
        let terms = terms(1, self.random.random_range(1..5_000_000_000));
        let change = &ChangeOffer { terms, new_key: self.random.random() };
        let answer = if self.random.random() {
            let changed = self.asker.ask(|registry| async move {
                registry.change_partition(host, partition, version, change).await
            });
            changed.await.map(drop)
        } else {
            let withdrawn = self.asker.ask(|registry| async move {
                registry.withdraw_partition(host, partition, Some(version)).await
            });
            withdrawn.await
        };
        // Another version: what it asked before it was cut off had been heard.
        let as_may_be = matches!(
            answer,
            Ok(())
                | Err(Code::PartitionLent
                    | Code::PartitionNotReady
                    | Code::PreconditionFailed
                    | Code::NotFound)
        );
        assert!(as_may_be, "{answer:?}");
        self.offer(partition).await;
    }

    /// Tells what there is to tell, and learns what became of its partitions.
    async fn beat(&mut self) {
        let told = std::mem::take(&mut self.news);
        let beat = Heartbeat { known_revision: Some(self.diary.revision), wait_ms: WAIT_MS, ..told.clone() };
        let host = self.host;
        let beat = &beat;
        let reply =
            self.asker.ask(|registry| async move { registry.heartbeat(host, beat).await }).await.unwrap();
        self.diary.ended.extend(told.ended.into_iter().map(|end| (end.lease, end.reason)));
        assert!(reply.revision >= self.diary.revision, "law 6: a host's revision went back");
        self.diary.revision = reply.revision;
        for view in reply.partitions {
            if let LendingState::AwaitingClean { lease } = view.state {
                self.news.cleaned.push(lease);
            }
            let before = self.diary.views.insert(view.partition, view.clone());
            let went_back =
                before.is_some_and(|before| view.epoch < before.epoch || view.version < before.version);
            assert!(!went_back, "laws 4 and 6: an epoch or a version went back: {view:?}");
        }
        self.end_some();
    }

    /// Now and then a job has returned, of those that were lent when last heard. Not only where there is news: once
    /// all is lent there is none, and a town where nothing happens any more would pass no crash point. Short leases
    /// are left to time.
    fn end_some(&mut self) {
        let long = Timestamp::now() + SHORT;
        for view in self.diary.views.values() {
            if let LendingState::Lent { lease, expires_at, .. } = view.state
                && expires_at > long
                && self.random.random_ratio(1, 16)
            {
                self.news.ended.push(EndedAtHost { lease, reason: EndReason::Returned });
            }
        }
    }
}
