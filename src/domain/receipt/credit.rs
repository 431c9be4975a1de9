//! What a borrower gets back for what was not delivered: a rule that is written in the lease, and applied to its receipt.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    key::ReceiptKey,
    segment::{Segment, VcpuTime},
};
use crate::domain::money::Micros;

const MILLION: i128 = 1_000_000;

/// By which receipts of a lease are signed, and what follows from them; written in the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReceiptTerms {
    /// The host's key when the lease was made.
    pub key: ReceiptKey,
    pub credit: CreditRule,
}

/// How a credit is reckoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum CreditRule {
    /// Of the charge the part of the vCPUs' time that was not delivered, where that is more than the tolerance. A vCPU's time
    /// is not delivered while it wanted to run and did not (up to its share, where it has one), while its process was stopped, and while anything that was set
    /// aside was missing, but never more than the whole of it. A fraction of a micro-unit is dropped.
    Undelivered {
        /// In millionths of all vCPUs' time that the receipt covers.
        tolerance_millionths: u32,
    },
}

impl CreditRule {
    /// What registries write into the leases that they make: all of it, once it is more than a hundredth.
    pub const STANDARD: Self = Self::Undelivered { tolerance_millionths: 10_000 };

    /// The credit for a lease that has cost `charge` for a time of `used`, from its whole receipt.
    pub fn credit<'a>(
        self,
        charge: Micros,
        used: Duration,
        segments: impl IntoIterator<Item = &'a Segment>,
    ) -> Micros {
        let Self::Undelivered { tolerance_millionths } = self;
        let (mut covered, mut missing, mut vcpus) = (0_i128, 0_i128, 0_i128);
        for segment in segments {
            let length = nanoseconds(segment.length());
            vcpus = vcpus.max(count(segment.vcpus.len()));
            covered += length * count(segment.vcpus.len());
            missing += undelivered(segment, length);
        }
        // What was paid for: the receipt begins when the partition was opened, the bill before.
        let paid = covered.max(nanoseconds(used) * vcpus);
        if paid == 0 || missing * MILLION <= covered * i128::from(tolerance_millionths) {
            return Micros(0);
        }
        let credit = i128::from(charge.0).saturating_mul(missing.min(paid)) / paid;
        Micros(i64::try_from(credit).unwrap_or(charge.0).clamp(0, charge.0.max(0)))
    }
}

/// Of all vCPUs' time in the segment, in nanoseconds.
fn undelivered(segment: &Segment, length: i128) -> i128 {
    let lacking = i128::from(segment.lacking_ns);
    let share = i128::from(segment.set_aside.cpu_share_percent.unwrap_or(100));
    let of_vcpu = |vcpu: &VcpuTime| {
        let (ran, not_run) = (i128::from(vcpu.ran_ns), i128::from(vcpu.not_run_ns));
        // Who has a share is to wait beyond it.
        let promised = if share < 100 { (length * share / 100 - ran).clamp(0, not_run) } else { not_run };
        (promised + i128::from(vcpu.stopped_ns) + lacking).min(length)
    };
    segment.vcpus.iter().map(of_vcpu).sum()
}

fn nanoseconds(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX)
}

fn count(number: usize) -> i128 {
    i128::try_from(number).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::receipt::chain::tests::segment;

    const SECOND_NS: u64 = 1_000_000_000;
    const RULE: CreditRule = CreditRule::STANDARD;
    const TEN: Duration = Duration::from_secs(10);

    fn vcpu(not_run_ns: u64, stopped_ns: u64) -> VcpuTime {
        VcpuTime { ran_ns: 0, not_run_ns, stopped_ns }
    }

    #[test]
    fn what_was_not_delivered_is_credited_in_its_share_of_the_charge() {
        let stopped = Segment { vcpus: vec![vcpu(0, 3 * SECOND_NS)], ..segment(0, None, 0) };
        assert_eq!(RULE.credit(Micros(1001), TEN, [&stopped]), Micros(300));
        let not_run = segment(0, None, 2 * SECOND_NS);
        assert_eq!(RULE.credit(Micros(1000), TEN, [&not_run]), Micros(200));
        let lacking = Segment { lacking_ns: SECOND_NS, ..segment(0, None, 0) };
        assert_eq!(RULE.credit(Micros(1000), TEN, [&lacking, &segment(1, None, 0)]), Micros(50));
    }

    #[test]
    fn a_vcpu_that_has_a_share_waits_beyond_it_and_is_owed_nothing_for_that() {
        let of_share = |ran_ns, not_run_ns| {
            let mut segment = Segment {
                vcpus: vec![VcpuTime { ran_ns, not_run_ns, stopped_ns: 0 }],
                ..segment(0, None, 0)
            };
            segment.set_aside.cpu_share_percent = Some(50);
            RULE.credit(Micros(1000), TEN, [&segment])
        };
        assert_eq!(of_share(5 * SECOND_NS, 5 * SECOND_NS), Micros(0));
        assert_eq!(of_share(3 * SECOND_NS, 7 * SECOND_NS), Micros(200));
        assert_eq!(of_share(3 * SECOND_NS, SECOND_NS), Micros(100), "it did not want more");
    }

    #[test]
    fn up_to_the_tolerance_nothing_is_credited_and_beyond_it_all() {
        let hundredth = SECOND_NS / 10;
        assert_eq!(RULE.credit(Micros(1000), TEN, [&segment(0, None, hundredth)]), Micros(0));
        assert_eq!(RULE.credit(Micros(1000), TEN, [&segment(0, None, hundredth + 1)]), Micros(10));
    }

    #[test]
    fn time_that_was_paid_before_the_partition_was_opened_is_not_missing() {
        let stopped = Segment { vcpus: vec![vcpu(0, 10 * SECOND_NS)], ..segment(0, None, 0) };
        assert_eq!(RULE.credit(Micros(1000), 2 * TEN, [&stopped]), Micros(500));
    }

    #[test]
    fn without_a_receipt_there_is_no_credit() {
        assert_eq!(RULE.credit(Micros(1000), TEN, []), Micros(0));
    }

    proptest! {
        #[test]
        fn no_credit_is_more_than_the_charge(
            charge in 0..=crate::domain::money::AMOUNT_MAX_MICROS, used: Duration,
            times: Vec<(u64, u64, u64)>
        ) {
            let segments: Vec<_> = times.into_iter().map(|(lacking_ns, not_run, stopped)| Segment {
                lacking_ns, vcpus: vec![vcpu(not_run, stopped); 3], ..segment(0, None, 0)
            }).collect();
            let credit = RULE.credit(Micros(charge), used, &segments);
            prop_assert!(credit >= Micros(0) && credit <= Micros(charge));
        }
    }
}
