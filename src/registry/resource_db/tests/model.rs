//! Random histories on a real database: after each step the laws hold, and what was announced is what is stored.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// What lender, host, borrowers and time may do next, to one of two partitions.
#[derive(Debug, Clone, Copy)]
enum Step {
    Register {
        partition: u128,
        price: i64,
    },
    Change {
        partition: u128,
        version: u64,
        price: i64,
    },
    Withdraw {
        partition: u128,
    },
    Lend {
        partition: u128,
        version: u64,
        seconds: u64,
    },
    /// Of the leases made so far, the one at this place, counted round.
    Return {
        lease: usize,
    },
    EndAtHost {
        lease: usize,
        reason: EndReason,
    },
    Clean {
        lease: usize,
    },
    /// Time passes, and what is due expires.
    Wait {
        seconds: u64,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let (partition, version, lease) = (20..22u128, 1..5u64, 0..8usize);
    prop_oneof![
        2 => (partition.clone(), 0..3i64).prop_map(|(partition, price)| Step::Register { partition, price }),
        1 => (partition.clone(), version.clone(), 0..3i64)
            .prop_map(|(partition, version, price)| Step::Change { partition, version, price }),
        1 => partition.clone().prop_map(|partition| Step::Withdraw { partition }),
        6 => (partition, version, 1..100u64)
            .prop_map(|(partition, version, seconds)| Step::Lend { partition, version, seconds }),
        3 => lease.clone().prop_map(|lease| Step::Return { lease }),
        2 => (lease.clone(), prop::sample::select(&EndReason::ALL[..]))
            .prop_map(|(lease, reason)| Step::EndAtHost { lease, reason }),
        5 => lease.prop_map(|lease| Step::Clean { lease }),
        2 => (0..80u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

impl Market {
    /// Whether it is allowed is the machines' to say; what is refused changes nothing.
    async fn step(&self, step: Step, leases: &mut Vec<LeaseId>) {
        let of = |leases: &[LeaseId], place: usize| leases.get(place % leases.len().max(1)).copied();
        let named = |number| PartitionId(Uuid::from_u128(number));
        match step {
            Step::Register { partition, price } => {
                let _ = self.db.register(self.host, named(partition), terms(price * 1_000_000)).await;
            }
            Step::Change { partition, version, price } => {
                let version = TermsVersion(version);
                let _ = self.db.change(self.host, named(partition), version, terms(price * 1_000_000)).await;
            }
            Step::Withdraw { partition } => {
                let _ = self.db.withdraw(self.host, named(partition)).await;
            }
            Step::Lend { partition, version, seconds } => {
                let mut wish = self.wish();
                wish.wish.partition = named(partition);
                wish.wish.terms_version = TermsVersion(version);
                wish.wish.duration_seconds = seconds;
                if let Ok(Reserved::Now(lease)) = self.db.reserve(wish).await {
                    leases.push(lease.id);
                }
            }
            Step::Return { lease } => {
                if let Some(lease) = of(leases, lease) {
                    self.db.end_lease(lease, self.borrower, self.clock.now()).await.unwrap();
                }
            }
            Step::EndAtHost { lease, reason } => {
                if let Some(lease) = of(leases, lease) {
                    let ended = vec![EndedAtHost { lease, reason }];
                    assert_eq!(self.db.host_report(self.host, ended, vec![]).await.unwrap(), []);
                }
            }
            Step::Clean { lease } => {
                if let Some(lease) = of(leases, lease) {
                    self.db.host_report(self.host, vec![], vec![lease]).await.unwrap();
                }
            }
            Step::Wait { seconds } => {
                self.clock.advance(Duration::from_secs(seconds));
                self.db.expire_due().await.unwrap();
            }
        }
    }

    async fn assert_laws(&self, leases: &[LeaseId], epochs: &mut HashMap<PartitionId, Epoch>) {
        let partitions = self.db.host_register(self.host).await.unwrap().partitions;
        let made = self.db.leases(self.borrower, all()).await.unwrap();
        assert_eq!(made.len(), leases.len());
        for row in &partitions {
            self.assert_lending_state(row, &made);
            let before = epochs.insert(row.partition, row.epoch).unwrap_or_default();
            assert!(row.epoch >= before, "law 4: epochs only grow");
        }
        let active = made.iter().filter(|lease| lease.end.is_none());
        let lent = partitions.iter().filter(|row| matches!(row.state, LendingState::Lent { .. }));
        assert_eq!(active.count(), lent.count(), "law 1: each live lease has a partition of its own");
        self.assert_ledger(&made).await;
        self.assert_announced(&partitions);
    }

    fn assert_lending_state(&self, row: &RegisteredPartition, made: &[Lease]) {
        let live: Vec<_> =
            made.iter().filter(|lease| lease.partition == row.partition && lease.end.is_none()).collect();
        match (&row.state, live.as_slice()) {
            (LendingState::Lent { lease, .. }, [live]) => {
                assert_eq!(
                    (*lease, row.epoch, &row.terms),
                    (live.id, live.epoch, &live.terms),
                    "laws 3 and 4"
                );
            }
            (LendingState::Free | LendingState::AwaitingClean { .. }, []) => {}
            other => panic!("law 1: {other:?}"),
        }
    }

    async fn assert_ledger(&self, made: &[Lease]) {
        let rows = self.db.charges(self.borrower, all()).await.unwrap();
        let ended: Vec<_> = made.iter().filter_map(|lease| lease.end.as_ref()).collect();
        assert_eq!(rows.len(), ended.len(), "each ended lease is settled once");
        let charged: i64 = ended.iter().map(|end| end.charge.0).sum();
        let shared: i64 = rows.iter().map(|(_, row)| row.payment.0 + row.fee.0).sum();
        assert_eq!(charged, shared, "law 7");
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_laws_hold_after_each_step_of_any_history(history in prop::collection::vec(any_step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let market = market().await;
            let (mut leases, mut epochs) = (Vec::new(), HashMap::new());
            for step in history {
                market.step(step, &mut leases).await;
                market.assert_laws(&leases, &mut epochs).await;
            }
        });
    }
}
