//! A use case at work in a transaction.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::sql::Sql;
use crate::{
    api::registry::RegisteredPartition,
    domain::{
        id::{BorrowerId, HostId, LenderId, PartitionId},
        lease::EndReason,
    },
};

/// What a use case works with: all that it does is undone when it refuses.
pub(super) struct Work<'a> {
    pub(super) sql: &'a mut dyn Sql,
    /// The clock for money, read when this work was come to.
    pub(super) now: Timestamp,
    /// What to announce once it is durable.
    pub(super) changes: &'a mut Vec<Change>,
}

/// What became of a partition, or of its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Happened {
    Registered,
    Changed,
    Withdrawn,
    /// It was cleaned after a lease, and is free again.
    Freed,
    LeaseMade,
    LeaseRenewed,
    LeaseRecalled,
    /// Another key took the place of the lease's.
    KeyRevoked,
    LeaseEnded,
}

/// A partition's row after a transaction; none: it is not registered any more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Change {
    pub happened: Happened,
    pub host: HostId,
    pub lender: LenderId,
    /// Of the lease that the row names, if it names one.
    pub borrower: Option<BorrowerId>,
    pub end_reason: Option<EndReason>,
    /// The host's revision after it: of two changes the one with the higher revision came later.
    pub revision: u64,
    pub partition: PartitionId,
    pub row: Option<RegisteredPartition>,
}

/// Called with the changes of each transaction once it is durable, in the order of the transactions.
pub type OnCommit = Box<dyn Fn(Vec<Change>) + Send>;
