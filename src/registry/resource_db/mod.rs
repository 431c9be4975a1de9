//! The resource database (12) with the ledger (13): a narrow interface of use cases, a transaction each. What
//! may change is decided by the domain's machines; here it is found, stored under the condition that nothing
//! changed meanwhile, and announced once it is durable.

mod sqlite;

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::{
    api::registry::{Lease, MakeLease, RegisteredPartition},
    domain::{
        id::{BorrowerId, HostId, LeaseId, LenderId, PartitionId},
        lease::LeaseNotAllowed,
        ledger::Billing,
        money::{FeeRate, Rounding},
        registration::RegistrationNotAllowed,
        terms::Terms,
    },
};

/// Where another database comes in beside SQLite, this becomes the enum of both.
pub use sqlite::{OpenError, Sqlite as ResourceDb};

/// SHA-256 of a token: all that is stored of it.
pub type TokenDigest = [u8; 32];

/// Whose token it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal {
    Lender(LenderId),
    Borrower(BorrowerId),
    Host(HostId),
}

/// Of what kind an account is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountKind {
    Lender,
    Borrower,
}

impl AccountKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lender => "lender",
            Self::Borrower => "borrower",
        }
    }
}

/// A part of a list, newest first.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Only what is older than this.
    pub before: Option<Uuid>,
    pub limit: u32,
}

/// A partition's row after a transaction; none: it is not registered any more.
#[derive(Debug, Clone)]
pub struct Change {
    pub host: HostId,
    pub partition: PartitionId,
    pub row: Option<RegisteredPartition>,
}

/// Called with the changes of each transaction once it is durable, in the order of the transactions.
pub type OnCommit = Box<dyn Fn(Vec<Change>) + Send>;

/// All of a host's partitions, at one revision.
#[derive(Debug, Clone)]
pub struct HostRegister {
    pub revision: u64,
    pub partitions: Vec<RegisteredPartition>,
}

/// What both sides of a lease agreed on; kept with it, so that its bill can be recomputed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    pub terms: Terms,
    pub rounding: Rounding,
    pub fee_rate: FeeRate,
}

impl Contract {
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

/// A wish for a lease, with what the registry adds to it.
#[derive(Debug, Clone)]
pub struct Reserve {
    /// The name of the lease, if one is made.
    pub lease: LeaseId,
    pub borrower: BorrowerId,
    pub wish: MakeLease,
    pub idempotency_key: Option<String>,
    pub host_is_heard: bool,
    pub rounding: Rounding,
    pub fee_rate: FeeRate,
}

/// The lease that a wish came to.
#[derive(Debug, Clone)]
pub enum Reserved {
    Now(Lease),
    /// The same wish was granted before.
    Before(Lease),
}

#[derive(Debug, Error)]
pub enum ReserveError {
    #[error("host {host} offers no partition {partition}")]
    NoSuchPartition { host: HostId, partition: PartitionId },
    #[error("host {0} was not heard of lately")]
    HostSilent(HostId),
    #[error(transparent)]
    NotAllowed(#[from] RegistrationNotAllowed),
    #[error("the idempotency key was used for another request")]
    IdempotencyKeyReused,
    #[error("the lease would end beyond all time")]
    Duration(#[source] jiff::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a partition's registration does not change.
#[derive(Debug, Error)]
pub enum RegisterError {
    #[error("partition {0} is not registered")]
    NoSuchPartition(PartitionId),
    #[error(transparent)]
    NotAllowed(#[from] RegistrationNotAllowed),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Error)]
pub enum EndError {
    #[error("there is no such lease")]
    NoSuchLease,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a host said of a lease that changes nothing, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    pub lease: LeaseId,
    pub why: String,
}

/// The database failed; what it was asked for did not happen, or is not known to have happened.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("the database refused")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the transaction could not be made durable")]
    Commit(#[source] Arc<rusqlite::Error>),
    #[error("a row of {0} changed during its own transaction")]
    Lost(&'static str),
    #[error(transparent)]
    Refused(LeaseNotAllowed),
    #[error("the database could not begin a transaction; the log says why")]
    NotBegun,
}

#[cfg(test)]
mod tests;
