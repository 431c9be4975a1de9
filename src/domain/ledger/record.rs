//! A lease as the ledger's auditors see it: all that its bill depends on.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::domain::{
    id::{BorrowerId, HostId, LeaseId, LenderId, PartitionId},
    lease::{EndReason, Recall},
    money::Micros,
    terms::Epoch,
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRecord {
    pub lease: LeaseId,
    pub host: HostId,
    pub partition: PartitionId,
    pub borrower: BorrowerId,
    pub lender: LenderId,
    pub epoch: Epoch,
    /// The [`super::contract::Contract`], letter for letter as it was stored.
    pub contract: String,
    pub started_at: Timestamp,
    pub asked_until: Timestamp,
    /// The planned end.
    pub expires_at: Timestamp,
    pub budget: Option<Micros>,
    pub recall: Option<Recall>,
    /// What of the borrower's credit it holds while it runs.
    pub worst_case: Micros,
    /// None: it runs.
    pub end: Option<RecordedEnd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedEnd {
    pub at: Timestamp,
    pub reason: EndReason,
}

/// Stands for all of a lease's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordDigest(pub [u8; 32]);

impl LeaseRecord {
    pub fn digest(&self) -> RecordDigest {
        let Self { lease, host, partition, borrower, lender, epoch, contract, started_at, .. } = self;
        let Self { asked_until, expires_at, budget, recall, worst_case, end, .. } = self;
        let who = format!(
            "lease={lease} host={host} partition={partition} borrower={borrower} lender={lender} epoch={}",
            epoch.0
        );
        let recall = recall.map(|recall| (recall.asked_at, recall.until));
        let end = end.map(|end| (end.at, end.reason.as_str()));
        let time = format!("started={started_at} asked={asked_until} expires={expires_at} recall={recall:?}");
        let money = format!("budget={:?} worst={} contract={contract:?}", budget.map(|b| b.0), worst_case.0);
        RecordDigest(Sha256::digest(format!("{who} {time} {money} end={end:?}")).into())
    }
}
