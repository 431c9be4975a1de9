//! Other people's money, as administrators type about it.

use clap::Subcommand;

use crate::domain::{id::LeaseId, money::Amount};

#[derive(Debug, Subcommand)]
pub enum BooksCommand {
    /// A borrower has paid; the same reference again is the same payment
    Deposit {
        #[arg(long, value_name = "NAME")]
        borrower: String,
        /// For example 20.00EUR
        #[arg(long)]
        amount: Amount,
        /// By which the payment is found at the bank
        #[arg(long)]
        reference: String,
    },
    /// A lender was paid all that stands to its credit; the same reference again is the same payment
    Payout {
        #[arg(long, value_name = "NAME")]
        lender: String,
        #[arg(long)]
        reference: String,
    },
    /// Give a borrower back a part of what a lease cost; the same reference again is the same credit
    Credit {
        #[arg(long, value_name = "ID")]
        lease: LeaseId,
        #[arg(long)]
        amount: Amount,
        /// Why, for both sides to read
        #[arg(long)]
        reason: String,
        /// The receipt, or whatever else shows it
        #[arg(long)]
        reference: String,
    },
    /// Bound what a borrower's running leases may cost beyond what it has paid in
    Limit {
        #[arg(long, value_name = "NAME")]
        borrower: String,
        /// For example 50EUR; in other currencies it is nothing then, unless one is set there too
        #[arg(long)]
        amount: Amount,
        /// Take the limit in this currency away
        #[arg(long)]
        none: bool,
    },
    /// List what was done with accounts, and who did it
    Acts,
}
