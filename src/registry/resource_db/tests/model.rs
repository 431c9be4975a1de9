//! Random histories of a registry, its hosts and its borrowers, on a real database: after each step the laws hold, what
//! was announced is what is stored, and an auditor finds nothing.

use std::collections::HashMap;

use proptest::{prelude::*, test_runner::TestRunner};

use super::{money::euros, *};
use crate::{
    api::registry::RenewLease,
    domain::{lease::EndReason, terms::LendingRules},
};

/// What lender, host, borrowers and time may do next, to one of two partitions.
#[derive(Debug, Clone, Copy)]
enum Step {
    Register {
        partition: u128,
        price: i64,
        known: Option<u64>,
    },
    Change {
        partition: u128,
        version: u64,
        price: i64,
        new_key: bool,
    },
    Withdraw {
        partition: u128,
        version: Option<u64>,
    },
    Lend {
        partition: u128,
        version: u64,
        seconds: u64,
        /// In micro-units.
        budget: Option<i64>,
    },
    /// Of the leases made so far, the one at this place, counted round.
    Return {
        lease: usize,
        word: HostWord,
    },
    Renew {
        lease: usize,
        seconds: u64,
        budget: Option<i64>,
    },
    Recall {
        lease: usize,
    },
    EndAtHost {
        lease: usize,
        reason: EndReason,
        /// So long ago the host was heard before.
        silent: u64,
    },
    Clean {
        lease: usize,
    },
    /// Time passes, and what is due ends as far as this word of the host allows.
    Wait {
        seconds: u64,
        word: HostWord,
    },
    Limit {
        micros: Option<i64>,
    },
    Deposit {
        micros: i64,
        reference: u8,
    },
    Payout {
        reference: u8,
    },
    Credit {
        lease: usize,
        micros: i64,
        reference: u8,
    },
}

fn any_word() -> impl Strategy<Value = HostWord> {
    let start = "2026-01-01T12:00:00Z".parse::<jiff::Timestamp>().unwrap();
    prop_oneof![
        3 => Just(HostWord::Heard),
        1 => Just(HostWord::NotYetHeard),
        2 => (0..2000u64).prop_map(move |second| HostWord::SilentSince(start + Duration::from_secs(second))),
    ]
}

fn any_budget() -> impl Strategy<Value = Option<i64>> {
    prop::option::weighted(0.4, 0..60_000i64)
}

fn lender_step() -> impl Strategy<Value = Step> {
    let (partition, version) = (20..22u128, 1..5u64);
    prop_oneof![
        3 => (partition.clone(), 0..3i64, prop::option::of(version.clone()))
            .prop_map(|(partition, price, known)| Step::Register { partition, price, known }),
        2 => (partition.clone(), version.clone(), 0..3i64, any::<bool>()).prop_map(
            |(partition, version, price, new_key)| Step::Change { partition, version, price, new_key }),
        1 => (partition, prop::option::weighted(0.3, version))
            .prop_map(|(partition, version)| Step::Withdraw { partition, version }),
        2 => (0..8usize).prop_map(|lease| Step::Recall { lease }),
    ]
}

fn borrower_step() -> impl Strategy<Value = Step> {
    let (partition, version, lease) = (20..22u128, 1..5u64, 0..8usize);
    prop_oneof![
        6 => (partition, version, 1..100u64, any_budget()).prop_map(
            |(partition, version, seconds, budget)| Step::Lend { partition, version, seconds, budget }),
        3 => (lease.clone(), any_word()).prop_map(|(lease, word)| Step::Return { lease, word }),
        3 => (lease, 1..400u64, any_budget())
            .prop_map(|(lease, seconds, budget)| Step::Renew { lease, seconds, budget }),
    ]
}

fn host_step() -> impl Strategy<Value = Step> {
    let lease = 0..8usize;
    prop_oneof![
        2 => (lease.clone(), prop::sample::select(&EndReason::ALL[..]), 0..100u64)
            .prop_map(|(lease, reason, silent)| Step::EndAtHost { lease, reason, silent }),
        5 => lease.prop_map(|lease| Step::Clean { lease }),
        3 => (0..80u64, any_word()).prop_map(|(seconds, word)| Step::Wait { seconds, word }),
        1 => any_word().prop_map(|word| Step::Wait { seconds: 700, word }),
    ]
}

fn money_step() -> impl Strategy<Value = Step> {
    let reference = 0..4u8;
    prop_oneof![
        1 => prop::option::weighted(0.7, 0..100_000i64).prop_map(|micros| Step::Limit { micros }),
        1 => (0..50_000i64, reference.clone())
            .prop_map(|(micros, reference)| Step::Deposit { micros, reference }),
        1 => reference.clone().prop_map(|reference| Step::Payout { reference }),
        1 => (0..8usize, 0..20_000i64, reference)
            .prop_map(|(lease, micros, reference)| Step::Credit { lease, micros, reference }),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![3 => lender_step(), 5 => borrower_step(), 5 => host_step(), 2 => money_step()]
}

fn offered(price: i64) -> Terms {
    let lending = LendingRules { longest_seconds: Some(300), recall_notice_seconds: Some(30) };
    Terms { lending, ..terms(price * 1_000_000) }
}

/// What was acknowledged so far.
#[derive(Default)]
struct History {
    leases: Vec<LeaseId>,
    epochs: HashMap<PartitionId, Epoch>,
    ends: HashMap<LeaseId, LeaseEnd>,
}

impl History {
    fn lease(&self, place: usize) -> Option<LeaseId> {
        self.leases.get(place % self.leases.len().max(1)).copied()
    }
}

impl Market {
    /// Whether it is allowed is the machines' to say; what is refused changes nothing.
    async fn step(&self, step: Step, history: &mut History) {
        let named = |number| PartitionId(Uuid::from_u128(number));
        match step {
            Step::Register { partition, price, known } => {
                let _ = self.db.register(self.host, named(partition), put(offered(price), known)).await;
            }
            Step::Change { partition, version, price, new_key } => {
                let offer = ChangeOffer { terms: offered(price), new_key };
                let _ = self.db.change(self.host, named(partition), TermsVersion(version), offer).await;
            }
            Step::Withdraw { partition, version } => {
                let _ = self.db.withdraw(self.host, named(partition), version.map(TermsVersion)).await;
            }
            Step::Lend { partition, version, seconds, budget } => {
                let mut wish = self.wish();
                wish.wish.partition = named(partition);
                wish.wish.terms_version = TermsVersion(version);
                wish.wish.duration_seconds = seconds;
                wish.wish.budget = budget.map(euros);
                if let Ok(Reserved::Now(lease)) = self.db.reserve(wish).await {
                    history.leases.push(lease.id);
                }
            }
            Step::Wait { seconds, word } => {
                self.clock.advance(Duration::from_secs(seconds));
                self.expire_with(word).await;
            }
            Step::Limit { micros } => {
                let limit = micros.map(Micros);
                self.db
                    .set_credit_limit(By::Program, "bob".to_owned(), euros(0).currency, limit)
                    .await
                    .unwrap();
            }
            Step::Deposit { micros, reference } => {
                let _ = self
                    .db
                    .deposit(By::Program, "bob".to_owned(), euros(micros), reference.to_string())
                    .await;
            }
            Step::Payout { reference } => {
                let _ = self.db.payout(By::Program, "lena".to_owned(), reference.to_string()).await;
            }
            of_lease => self.step_of_lease(of_lease, history).await,
        }
    }

    async fn step_of_lease(&self, step: Step, history: &History) {
        let (Step::Return { lease, .. }
        | Step::Renew { lease, .. }
        | Step::Recall { lease }
        | Step::EndAtHost { lease, .. }
        | Step::Clean { lease }
        | Step::Credit { lease, .. }) = step
        else {
            return;
        };
        let Some(lease) = history.lease(lease) else { return };
        let now = self.clock.now();
        match step {
            Step::Return { word, .. } => {
                self.db.end_lease(lease, self.borrower, word, now).await.unwrap();
            }
            Step::Renew { seconds, budget, .. } => {
                let wish = RenewLease { duration_seconds: seconds, budget: budget.map(euros) };
                let _ = self.db.renew_lease(lease, self.borrower, wish).await;
            }
            Step::Recall { .. } => {
                let _ = self.db.recall_lease(lease, self.lender).await;
            }
            Step::EndAtHost { reason, silent, .. } => {
                let ended = vec![EndedAtHost { lease, reason }];
                let confirmed_at = now - Duration::from_secs(silent);
                assert_eq!(self.db.host_report(self.host, ended, vec![], confirmed_at).await.unwrap(), []);
            }
            Step::Clean { .. } => {
                self.db.host_report(self.host, vec![], vec![lease], now).await.unwrap();
            }
            Step::Credit { micros, reference, .. } => {
                let reference = reference.to_string();
                let _ = self.db.credit(By::Program, lease, euros(micros), "slow".to_owned(), reference).await;
            }
            _ => {}
        }
    }

    async fn assert_laws(&self, history: &mut History) {
        let partitions = self.db.host_register(self.host).await.unwrap().partitions;
        let made = self.db.leases(WhichLeases::of(self.borrower), all()).await.unwrap();
        assert_eq!(made.len(), history.leases.len());
        for row in &partitions {
            self.assert_lending_state(row, &made);
            let before = history.epochs.insert(row.partition, row.epoch).unwrap_or_default();
            assert!(row.epoch >= before, "law 4: epochs only grow");
        }
        let active = made.iter().filter(|lease| lease.end.is_none());
        let lent = partitions.iter().filter(|row| matches!(row.state, LendingState::Lent { .. }));
        assert_eq!(active.count(), lent.count(), "law 1: each live lease has a partition of its own");
        self.assert_money(&made, history).await;
        self.assert_announced(&partitions);
    }

    fn assert_lending_state(&self, row: &RegisteredPartition, made: &[Lease]) {
        let live: Vec<_> =
            made.iter().filter(|lease| lease.partition == row.partition && lease.end.is_none()).collect();
        match (&row.state, live.as_slice()) {
            (LendingState::Lent { lease, expires_at, .. }, [live]) => {
                assert_eq!(
                    (*lease, row.epoch, &row.terms),
                    (live.id, live.epoch, &live.terms),
                    "laws 3 and 4"
                );
                assert_eq!(*expires_at, live.expires_at, "law 5: the host knows the end");
            }
            (LendingState::Free | LendingState::AwaitingClean { .. }, []) => {}
            other => panic!("law 1: {other:?}"),
        }
    }

    /// Law 7: what was charged is what was paid on, each lease once, within its budget; and each balance is its entries'.
    async fn assert_money(&self, made: &[Lease], history: &mut History) {
        let entries = self.entries(Account::Borrower(self.borrower)).await;
        let settled = entries.iter().filter(|entry| entry.used.is_some()).count();
        let ended = made.iter().filter_map(|lease| Some((lease, lease.end.as_ref()?)));
        assert_eq!(settled, ended.clone().count(), "each ended lease is settled once");
        for (lease, end) in ended {
            assert!(lease.started_at <= end.at && end.at <= lease.expires_at);
            assert!(end.charge <= lease.worst_case && lease.budget.is_none_or(|budget| end.charge <= budget));
            let first = history.ends.entry(lease.id).or_insert_with(|| end.clone());
            assert_eq!(first, end, "law 6: a lease that has ended stays as it ended");
        }
        assert_eq!(self.audit().await, []);
        let mut sum = 0i128;
        for account in [Account::Borrower(self.borrower), Account::Lender(self.lender)] {
            for entry in self.entries(account).await {
                assert!(entry.entry.legs.is_balanced());
                let legs = entry.entry.legs;
                sum += match account {
                    Account::Borrower(_) => i128::from(legs.borrower.0),
                    Account::Lender(_) => i128::from(legs.lender.0),
                };
            }
            sum -= i128::from(self.balance_of(account).await.balance.0);
        }
        assert_eq!(sum, 0, "law 7");
    }

    fn assert_announced(&self, partitions: &[RegisteredPartition]) {
        let mut latest = HashMap::new();
        for change in self.announced.lock().unwrap().iter() {
            latest.insert(change.partition, change.row.clone());
        }
        let mut announced: Vec<_> = latest.into_values().flatten().collect();
        announced.sort_by_key(|row| row.partition);
        assert_eq!(announced, partitions);
    }
}

/// So many, where nobody says how many.
const HISTORIES: u32 = 1000;

fn any_history() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any_step(), 1..40)
}

fn holds_in(history: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let market = market().await;
        let mut so_far = History::default();
        for step in history {
            market.step(step, &mut so_far).await;
            market.assert_laws(&mut so_far).await;
        }
    });
}

/// `SUBLET_HISTORIES=20000` tries that many.
#[test]
fn the_laws_hold_after_each_step_of_any_history() {
    let histories = std::env::var("SUBLET_HISTORIES").map_or(HISTORIES, |number| number.parse().unwrap());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let config = ProptestConfig {
                cases: histories.div_ceil(2),
                source_file: Some(file!()),
                ..ProptestConfig::default()
            };
            scope.spawn(|| {
                let holds = |history| {
                    holds_in(history);
                    Ok(())
                };
                TestRunner::new(config).run(&any_history(), holds).unwrap_or_else(|error| panic!("{error}"));
            });
        }
    });
}
