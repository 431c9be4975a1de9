//! What both sides of a lease agreed on, and what follows from it before anything is billed.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Billing;
use crate::domain::{
    lease::{LeaseCourse, LeaseEvent, paid_until},
    money::{AMOUNT_MAX_MICROS, Amount, Currency, FeeRate, Micros, Rounding},
    receipt::credit::ReceiptTerms,
    terms::Terms,
};

/// Kept with the lease, so that its bill can be recomputed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    pub terms: Terms,
    pub rounding: Rounding,
    pub fee_rate: FeeRate,
    /// None: the host has signed no receipts when it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipts: Option<ReceiptTerms>,
}

/// Why there is no such lease under these terms.
#[derive(Debug, Error)]
pub enum BadWish {
    #[error("duration_seconds: 1 to {longest}, which these terms allow, not {got}")]
    Duration { longest: u64, got: u64 },
    #[error("budget: must be in {price}, the currency of the price, not {budget}")]
    Currency { price: Currency, budget: Currency },
    #[error("budget: at most {max}, not {0}", max = Micros(AMOUNT_MAX_MICROS))]
    TooMuch(Micros),
    #[error("budget: {budget} pays for not one second at {per_hour} an hour")]
    TooLittle { budget: Micros, per_hour: Micros },
    #[error("the lease would end beyond all time")]
    Time(#[from] jiff::Error),
}

impl Contract {
    /// A lease under it that begins now.
    pub fn begin(
        &self,
        now: Timestamp,
        seconds: u64,
        budget: Option<Micros>,
    ) -> Result<LeaseCourse, BadWish> {
        let duration = self.duration(seconds)?;
        let paid = budget.and_then(|budget| self.use_paid_by(budget));
        Ok(LeaseCourse::begin(now, duration, paid)?)
    }

    /// What makes a lease that long in all, of a budget that large in all.
    pub fn renewal(
        &self,
        course: &LeaseCourse,
        seconds: u64,
        budget: Option<Micros>,
    ) -> Result<LeaseEvent, BadWish> {
        let paid = budget.and_then(|budget| self.use_paid_by(budget));
        Ok(LeaseEvent::Renew {
            asked_until: course.started_at.checked_add(self.duration(seconds)?)?,
            paid_until: paid_until(course.started_at, paid),
        })
    }

    fn duration(&self, seconds: u64) -> Result<Duration, BadWish> {
        let longest = self.terms.lending.longest();
        if (1..=longest).contains(&seconds) {
            Ok(Duration::from_secs(seconds))
        } else {
            Err(BadWish::Duration { longest, got: seconds })
        }
    }

    /// The budget in the currency of the price, where it pays for a second at least.
    pub fn budget(&self, budget: Option<Amount>) -> Result<Option<Micros>, BadWish> {
        let Some(Amount { micros, currency }) = budget else { return Ok(None) };
        let price = self.terms.price;
        if currency != price.currency {
            return Err(BadWish::Currency { price: price.currency, budget: currency });
        }
        if micros.0 > AMOUNT_MAX_MICROS {
            return Err(BadWish::TooMuch(micros));
        }
        if micros.0 < 0 || self.use_paid_by(micros).is_some_and(|paid| paid.is_zero()) {
            return Err(BadWish::TooLittle { budget: micros, per_hour: Micros(price.per_hour_micros) });
        }
        Ok(Some(micros))
    }

    /// What the lease costs if it runs to its planned end, or has cost.
    pub fn worst_case(&self, course: &LeaseCourse) -> Micros {
        self.charge(course.length())
    }

    /// The charge for so long a use.
    pub fn charge(&self, used: Duration) -> Micros {
        self.terms.price.charge(used, self.rounding)
    }

    /// How long `budget` lasts; none: for ever.
    pub fn use_paid_by(&self, budget: Micros) -> Option<Duration> {
        self.terms.price.use_paid_by(budget, self.rounding)
    }

    pub fn billing(&self, started_at: Timestamp, ended_at: Timestamp) -> Billing {
        Billing {
            started_at,
            ended_at,
            price: self.terms.price,
            rounding: self.rounding,
            fee_rate: self.fee_rate,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        lease::EndReason,
        money::{PRICE_MAX_MICROS, Price},
        resources::Allocation,
        terms::LendingRules,
    };

    fn contract(per_hour_micros: i64, longest_seconds: Option<u64>) -> Contract {
        let terms = Terms {
            allocation: Allocation { cpus: 1, memory_mib: 256, disk_mib: 64 },
            price: Price { per_hour_micros, currency: "EUR".parse().unwrap() },
            os_images: Default::default(),
            cpu_model: String::new(),
            network: Default::default(),
            qualities: Default::default(),
            lending: LendingRules { longest_seconds, recall_notice_seconds: None },
        };
        Contract { terms, rounding: Rounding::BegunSecond, fee_rate: FeeRate::NONE, receipts: None }
    }

    fn amount(micros: i64, currency: &str) -> Option<Amount> {
        Some(Amount { micros: Micros(micros), currency: currency.parse().unwrap() })
    }

    #[test]
    fn no_lease_is_longer_than_its_terms_allow() {
        let contract = contract(0, Some(100));
        let begin = |seconds| contract.begin(Timestamp::UNIX_EPOCH, seconds, None);
        assert!(begin(100).is_ok());
        assert!(matches!(begin(101), Err(BadWish::Duration { longest: 100, got: 101 })));
        assert!(matches!(begin(0), Err(BadWish::Duration { .. })));
        let renewal = contract.renewal(&begin(50).unwrap(), 101, None);
        assert!(matches!(renewal, Err(BadWish::Duration { longest: 100, got: 101 })));
    }

    #[test]
    fn a_budget_is_of_the_prices_currency_and_pays_for_a_second_at_least() {
        let contract = contract(3_600_000, None);
        assert!(matches!(contract.budget(amount(1000, "USD")), Err(BadWish::Currency { .. })));
        assert!(matches!(contract.budget(amount(999, "EUR")), Err(BadWish::TooLittle { .. })));
        assert!(matches!(contract.budget(amount(-1, "EUR")), Err(BadWish::TooLittle { .. })));
        assert!(matches!(contract.budget(amount(i64::MAX, "EUR")), Err(BadWish::TooMuch(_))));
        assert_eq!(contract.budget(amount(1000, "EUR")).unwrap(), Some(Micros(1000)));
    }

    proptest! {
        #[test]
        fn no_lease_costs_more_than_its_budget(
            price in 0..=PRICE_MAX_MICROS, seconds in 1..31_536_000u64, budget in 0..=AMOUNT_MAX_MICROS
        ) {
            let contract = contract(price, None);
            if let Ok(Some(budget)) = contract.budget(amount(budget, "EUR")) {
                let course = contract.begin(Timestamp::UNIX_EPOCH, seconds, Some(budget)).unwrap();
                prop_assert!(contract.worst_case(&course) <= budget);
                let spent = course.planned_end().reason == EndReason::BudgetSpent;
                prop_assert_eq!(spent, contract.charge(Duration::from_secs(seconds)) > budget);
            }
        }
    }
}
