//! An entry of the ledger: money that moves between accounts, written once and never changed. Each entry touches four
//! kinds of accounts, a leg each, and its legs sum to nothing (law 7).
//!
//! | occasion | borrower | lender | fees | outside |
//! |---|---|---|---|---|
//! | a lease is settled | −charge | +payment | +fee | |
//! | a borrower deposits | +amount | | | −amount |
//! | a lender is paid out | | −balance | | +balance |
//! | a borrower is credited for a lease | +amount | −its share | −its fee | |

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Bill, record::RecordDigest};
use crate::domain::{
    id::{BorrowerId, EntryId, LeaseId, LenderId},
    money::{Currency, FeeRate, Micros},
};

/// What an entry adds to each account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Legs {
    pub borrower: Micros,
    pub lender: Micros,
    /// The registry's own.
    pub fees: Micros,
    /// Where money comes from and goes to.
    pub outside: Micros,
}

impl Legs {
    pub fn of_lease(bill: &Bill) -> Self {
        Self { borrower: Micros(-bill.charge.0), lender: bill.payment, fees: bill.fee, ..Self::default() }
    }

    pub fn of_deposit(amount: Micros) -> Self {
        Self { borrower: amount, outside: Micros(-amount.0), ..Self::default() }
    }

    pub fn of_payout(balance: Micros) -> Self {
        Self { lender: Micros(-balance.0), outside: balance, ..Self::default() }
    }

    /// Lender and registry give back what each had of `amount`.
    pub fn of_credit(amount: Micros, fee_rate: FeeRate) -> Self {
        let fee = fee_rate.of(amount);
        Self { borrower: amount, lender: Micros(fee.0 - amount.0), fees: Micros(-fee.0), ..Self::default() }
    }

    /// Law 7.
    pub fn is_balanced(&self) -> bool {
        let Self { borrower, lender, fees, outside } = self;
        [borrower, lender, fees, outside].into_iter().map(|leg| i128::from(leg.0)).sum::<i128>() == 0
    }
}

/// Why money moves, and between whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Occasion {
    /// A lease has ended and is settled.
    Lease { lease: LeaseId, borrower: BorrowerId, lender: LenderId },
    /// A borrower has paid.
    Deposit {
        borrower: BorrowerId,
        /// By which the payment is found outside; none other has it.
        reference: String,
    },
    /// A lender was paid all that stood to its credit.
    Payout { lender: LenderId, reference: String },
    /// A borrower gets back a part of what a lease cost.
    Credit {
        lease: LeaseId,
        borrower: BorrowerId,
        lender: LenderId,
        reason: String,
        /// The receipt, or whatever else shows it.
        reference: String,
    },
}

impl Occasion {
    /// The credit that follows from a lease's receipt; there is one at most.
    pub fn of_receipt(lease: LeaseId, borrower: BorrowerId, lender: LenderId) -> Self {
        let reason = "not delivered, by the lease's receipt".to_owned();
        Self::Credit { lease, borrower, lender, reason, reference: Self::receipt_reference(lease) }
    }

    /// Whether it follows from a receipt, and was not decided by the registry's operator.
    pub fn is_of_receipt(&self) -> bool {
        matches!(self, Self::Credit { lease, reference, .. } if *reference == Self::receipt_reference(*lease))
    }

    fn receipt_reference(lease: LeaseId) -> String {
        format!("receipt of lease {lease}")
    }

    /// As it is written in the database.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lease { .. } => "lease",
            Self::Deposit { .. } => "deposit",
            Self::Payout { .. } => "payout",
            Self::Credit { .. } => "credit",
        }
    }

    pub fn borrower(&self) -> Option<BorrowerId> {
        match self {
            Self::Lease { borrower, .. } | Self::Deposit { borrower, .. } | Self::Credit { borrower, .. } => {
                Some(*borrower)
            }
            Self::Payout { .. } => None,
        }
    }

    pub fn lender(&self) -> Option<LenderId> {
        match self {
            Self::Lease { lender, .. } | Self::Payout { lender, .. } | Self::Credit { lender, .. } => {
                Some(*lender)
            }
            Self::Deposit { .. } => None,
        }
    }

    pub fn lease(&self) -> Option<LeaseId> {
        match self {
            Self::Lease { lease, .. } | Self::Credit { lease, .. } => Some(*lease),
            Self::Deposit { .. } | Self::Payout { .. } => None,
        }
    }

    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Credit { reason, .. } => Some(reason),
            Self::Lease { .. } | Self::Deposit { .. } | Self::Payout { .. } => None,
        }
    }

    pub fn reference(&self) -> Option<&str> {
        match self {
            Self::Deposit { reference, .. }
            | Self::Payout { reference, .. }
            | Self::Credit { reference, .. } => Some(reference),
            Self::Lease { .. } => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Entry {
    pub id: EntryId,
    /// When it was written, on the registry's clock.
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    pub currency: Currency,
    #[serde(flatten)]
    pub occasion: Occasion,
    pub legs: Legs,
}

impl Entry {
    /// What seals the entry: stands for all that it says, and for the lease that it settles.
    pub fn digest(&self, lease: Option<&RecordDigest>) -> [u8; 32] {
        let Self { id, at, currency, occasion, legs } = self;
        let Legs { borrower, lender, fees, outside } = legs;
        let head = format!(
            "entry={id} at={at} currency={currency} legs={} {} {} {}",
            borrower.0, lender.0, fees.0, outside.0
        );
        let lease = lease.map_or_else(String::new, |lease| hex::encode(lease.0));
        // Debug quotes what people wrote, so that no two occasions read the same.
        Sha256::digest(format!("{head} of={occasion:?} settles={lease}")).into()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::money::{AMOUNT_MAX_MICROS, PRICE_MAX_MICROS, Price, Rounding};

    fn rate(millionths: u32) -> FeeRate {
        FeeRate::from_millionths(millionths).unwrap()
    }

    #[test]
    fn a_credit_takes_from_lender_and_registry_what_each_had_of_it() {
        let legs = Legs::of_credit(Micros(1000), rate(100_000));
        assert_eq!((legs.borrower, legs.lender, legs.fees), (Micros(1000), Micros(-900), Micros(-100)));
    }

    #[test]
    fn a_payout_leaves_nothing_of_the_balance() {
        assert_eq!(Legs::of_payout(Micros(77)).lender, Micros(-77));
    }

    proptest! {
        #[test]
        fn every_entry_is_balanced(
            amount in 0..=AMOUNT_MAX_MICROS, price in 0..=PRICE_MAX_MICROS, used in 0..31_536_000u64,
            fee in 0..=1_000_000u32
        ) {
            let price = Price { per_hour_micros: price, currency: "EUR".parse().unwrap() };
            let charge = price.charge(Duration::from_secs(used), Rounding::BegunSecond);
            let fee_part = rate(fee).of(charge);
            let bill = Bill { charge, fee: fee_part, payment: Micros(charge.0 - fee_part.0) };
            prop_assert!(Legs::of_lease(&bill).is_balanced());
            prop_assert!(Legs::of_deposit(Micros(amount)).is_balanced());
            prop_assert!(Legs::of_payout(Micros(amount)).is_balanced());
            prop_assert!(Legs::of_credit(Micros(amount), rate(fee)).is_balanced());
        }
    }
}
