//! What a lease that has ended costs, and who gets what of it [0041, 0096]; [`entry`] is how that is booked, [`audit`]
//! how anybody recomputes it.

pub mod audit;
pub mod contract;
pub mod entry;
pub mod record;

use std::time::Duration;

use jiff::Timestamp;

use super::money::{FeeRate, Micros, Price, Rounding};

/// All that the bill depends on; each of it is kept with the lease, so each row can be recomputed (law 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Billing {
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    pub price: Price,
    pub rounding: Rounding,
    pub fee_rate: FeeRate,
}

/// `charge = fee + payment`, to the last micro-unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bill {
    /// From the borrower.
    pub charge: Micros,
    /// To the registry.
    pub fee: Micros,
    /// To the lender.
    pub payment: Micros,
}

impl Billing {
    pub fn settle(&self) -> Bill {
        let charge = self.price.charge(self.used(), self.rounding);
        let fee = self.fee_rate.of(charge);
        Bill { charge, fee, payment: Micros(charge.0 - fee.0) }
    }

    fn used(&self) -> Duration {
        Duration::try_from(self.ended_at.duration_since(self.started_at)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::money::PRICE_MAX_MICROS;

    fn billing(per_hour_micros: i64, used: Duration, fee_millionths: u32) -> Billing {
        let started_at = "2026-01-01T12:00:00Z".parse::<Timestamp>().unwrap();
        Billing {
            started_at,
            ended_at: started_at + used,
            price: Price { per_hour_micros, currency: "EUR".parse().unwrap() },
            rounding: Rounding::BegunSecond,
            fee_rate: FeeRate::from_millionths(fee_millionths).unwrap(),
        }
    }

    #[test]
    fn half_an_hour_at_a_tenth_of_fee() {
        let bill = billing(1_000_000, Duration::from_secs(1800), 100_000).settle();
        assert_eq!(bill, Bill { charge: Micros(500_000), fee: Micros(50_000), payment: Micros(450_000) });
    }

    #[test]
    fn a_lease_that_ended_at_its_start_costs_nothing() {
        assert_eq!(billing(1_000_000, Duration::ZERO, 100_000).settle().charge, Micros(0));
    }

    proptest! {
        #[test]
        fn charges_are_payments_and_fees_to_the_last_micro_unit(
            bills in prop::collection::vec(
                (0..=PRICE_MAX_MICROS, 0..31_536_000_000u64, 0..=1_000_000u32), 1..40)
        ) {
            let bills: Vec<Bill> = bills
                .into_iter()
                .map(|(price, used, fee)| billing(price, Duration::from_millis(used), fee).settle())
                .collect();
            let sum = |part: fn(&Bill) -> Micros| bills.iter().map(|bill| i128::from(part(bill).0)).sum::<i128>();
            prop_assert_eq!(sum(|bill| bill.charge), sum(|bill| bill.payment) + sum(|bill| bill.fee));
            prop_assert!(bills.iter().all(|bill| bill.fee.0 >= 0 && bill.payment.0 >= 0));
        }
    }
}
