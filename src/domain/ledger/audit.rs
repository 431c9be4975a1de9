//! Recomputes the whole ledger from the leases, apart from the registry that wrote it, and names what disagrees.
//!
//! Whoever changes an entry, or the lease that it is about, is found out: an entry is sealed by a digest of all that both
//! say; balances and what running leases hold are sums of the rest. A lease that still runs has no entry, and is sealed
//! by none. It does not show what somebody wrote who can also reckon the digests anew; for that both sides keep their
//! statements.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::{
    contract::Contract,
    entry::{Entry, Legs, Occasion},
    record::LeaseRecord,
};
use crate::domain::{
    id::{EntryId, LeaseId},
    lease::{LeaseCourse, LeaseState, paid_until},
    money::{Currency, Micros},
    receipt::chain::{Receipt, SignedSegment},
};

/// One line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    Lease(LeaseRecord),
    Entry(SealedEntry),
    Segment(KeptSegment),
    Balance(Balance),
}

/// An entry with its digest, in hexadecimal digits; none: it is older than digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedEntry {
    #[serde(flatten)]
    pub entry: Entry,
    pub digest: Option<String>,
}

/// A segment of a lease's receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptSegment {
    pub lease: LeaseId,
    pub number: u32,
    pub segment: SignedSegment,
}

/// How an account stands in one currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balance {
    /// The borrower's or the lender's.
    pub account: Uuid,
    pub currency: Currency,
    /// What all entries have added to it.
    pub balance: Micros,
    /// The worst case of all leases of the borrower that run.
    pub held: Micros,
}

/// What does not agree.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Finding {
    #[error("lease {0}: its contract cannot be read")]
    Contract(LeaseId),
    #[error("lease {0}: its planned end is not what its time, budget and recall give")]
    PlannedEnd(LeaseId),
    #[error("lease {0}: it ended outside of its time, or for another reason than its end gives")]
    End(LeaseId),
    #[error("lease {0}: what it holds of the borrower's credit is not its worst case")]
    WorstCase(LeaseId),
    #[error("lease {0}: it has ended and is not settled by exactly one entry")]
    NotSettled(LeaseId),
    #[error("lease {0}: it is there twice")]
    LeaseTwice(LeaseId),
    #[error("entry {0}: its legs do not sum to nothing")]
    Unbalanced(EntryId),
    #[error("entry {0}: its legs are not what its lease and its occasion give")]
    Legs(EntryId),
    #[error("entry {0}: it is of another borrower, lender or currency than its lease")]
    Parties(EntryId),
    #[error("entry {0}: there is no such lease")]
    NoLease(EntryId),
    #[error("entry {0}: it or its lease was changed after it was sealed")]
    Seal(EntryId),
    #[error("entry {0}: it is not sealed")]
    Unsealed(EntryId),
    #[error("entry {0}: it is there twice, or its reference is")]
    EntryTwice(EntryId),
    #[error("entry {0}: more is credited for its lease than that cost")]
    CreditedTooMuch(EntryId),
    #[error("lease {0}: its receipt is not signed by its host, or not one chain")]
    Receipt(LeaseId),
    #[error("lease {0}: its receipt gives a credit that was not written, or another one")]
    CreditByReceipt(LeaseId),
    #[error("account {account}: its balance is {stated} {currency}, its entries give {reckoned}")]
    Balance { account: Uuid, currency: Currency, stated: Micros, reckoned: Micros },
    #[error("account {account}: it has entries in {currency} and no balance")]
    NoBalance { account: Uuid, currency: Currency },
    #[error("account {account}: {stated} {currency} are held, its running leases give {reckoned}")]
    Held { account: Uuid, currency: Currency, stated: Micros, reckoned: Micros },
}

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Audited {
    pub leases: u64,
    pub entries: u64,
    pub balances: u64,
    pub receipts: u64,
    /// What borrowers were charged, by currency, less what they were credited; it is what lenders and fees got.
    pub charged: BTreeMap<Currency, Micros>,
}

/// Reads an export, line by line, and at last says what disagrees.
#[derive(Debug, Default)]
pub struct Auditor {
    audited: Audited,
    leases: BTreeMap<LeaseId, (LeaseRecord, Option<Contract>)>,
    receipts: BTreeMap<LeaseId, Vec<SignedSegment>>,
    entries: Vec<SealedEntry>,
    /// Stated, with what is held.
    balances: BTreeMap<(Uuid, Currency), (Micros, Micros)>,
    findings: Vec<Finding>,
}

impl Auditor {
    pub fn read(&mut self, line: Line) {
        match line {
            Line::Lease(record) => self.lease(record),
            Line::Entry(sealed) => {
                self.audited.entries += 1;
                self.entries.push(sealed);
            }
            Line::Segment(KeptSegment { lease, segment, .. }) => {
                self.receipts.entry(lease).or_default().push(segment);
            }
            Line::Balance(Balance { account, currency, balance, held }) => {
                self.audited.balances += 1;
                self.balances.insert((account, currency), (balance, held));
            }
        }
    }

    fn lease(&mut self, record: LeaseRecord) {
        self.audited.leases += 1;
        let contract = serde_json::from_str::<Contract>(&record.contract).ok();
        match &contract {
            Some(contract) => self.findings.extend(disagreements(&record, contract)),
            None => self.findings.push(Finding::Contract(record.lease)),
        }
        let lease = record.lease;
        if self.leases.insert(lease, (record, contract)).is_some() {
            self.findings.push(Finding::LeaseTwice(lease));
        }
    }

    pub fn finish(mut self) -> (Audited, Vec<Finding>) {
        let (mut seen, mut references) = (BTreeSet::new(), BTreeSet::new());
        let (mut settled, mut credited) = (BTreeMap::<LeaseId, u64>::new(), BTreeMap::new());
        for SealedEntry { entry, digest } in &self.entries {
            // One payout is an entry in each currency.
            let currency = matches!(entry.occasion, Occasion::Payout { .. }).then_some(entry.currency);
            let reference = entry.occasion.reference().map(|text| (entry.occasion.kind(), text, currency));
            if !seen.insert(entry.id) || reference.is_some_and(|reference| !references.insert(reference)) {
                self.findings.push(Finding::EntryTwice(entry.id));
            }
            let lease = entry.occasion.lease().and_then(|lease| self.leases.get(&lease));
            self.findings.extend(check(entry, digest.as_deref(), lease));
            match entry.occasion {
                Occasion::Lease { lease, .. } => *settled.entry(lease).or_default() += 1,
                Occasion::Credit { lease, .. } => {
                    let sum: &mut i128 = credited.entry(lease).or_default();
                    *sum += i128::from(entry.legs.borrower.0);
                    if *sum > lease_charge(self.leases.get(&lease)) {
                        self.findings.push(Finding::CreditedTooMuch(entry.id));
                    }
                }
                Occasion::Deposit { .. } | Occasion::Payout { .. } => {}
            }
        }
        let unsettled = self.leases.values().filter(|(record, _)| {
            let entries = settled.get(&record.lease).copied().unwrap_or_default();
            entries != u64::from(record.end.is_some())
        });
        self.findings.extend(unsettled.map(|(record, _)| Finding::NotSettled(record.lease)));
        self.compare_credits();
        self.compare_balances();
        self.audited.charged = self.charged();
        (self.audited, self.findings)
    }

    /// What was credited by receipts, with what they give.
    fn compare_credits(&mut self) {
        let (mut by_receipt, mut others) = (BTreeMap::new(), BTreeMap::new());
        for SealedEntry { entry, .. } in &self.entries {
            let Occasion::Credit { lease, .. } = entry.occasion else { continue };
            let sums = if entry.occasion.is_of_receipt() { &mut by_receipt } else { &mut others };
            *sums.entry(lease).or_insert(0_i128) += i128::from(entry.legs.borrower.0);
        }
        self.audited.receipts = self.receipts.len() as u64;
        for (lease, segments) in std::mem::take(&mut self.receipts) {
            let credited = by_receipt.remove(&lease).unwrap_or(0);
            match receipt_credit(self.leases.get(&lease), segments) {
                Err(()) => self.findings.push(Finding::Receipt(lease)),
                // What the operator has credited besides is taken off, as far as more would be too much.
                Ok(credit) if credited == credit => {}
                Ok(credit) if credited < credit && others.contains_key(&lease) => {}
                Ok(_) => self.findings.push(Finding::CreditByReceipt(lease)),
            }
        }
        self.findings.extend(by_receipt.into_keys().map(Finding::CreditByReceipt));
    }

    fn compare_balances(&mut self) {
        let reckoned = self.reckon();
        let accounts: BTreeSet<_> = reckoned.keys().chain(self.balances.keys()).copied().collect();
        for (account, currency) in accounts {
            let found = self.balances.get(&(account, currency));
            if found.is_none() {
                self.findings.push(Finding::NoBalance { account, currency });
            }
            let (stated, stated_held) = found.copied().unwrap_or_default();
            let (sum, held) = reckoned.get(&(account, currency)).copied().unwrap_or_default();
            if sum != stated {
                self.findings.push(Finding::Balance { account, currency, stated, reckoned: sum });
            }
            if held != stated_held {
                self.findings.push(Finding::Held { account, currency, stated: stated_held, reckoned: held });
            }
        }
    }

    /// Balances and what is held, from entries and running leases.
    fn reckon(&self) -> BTreeMap<(Uuid, Currency), (Micros, Micros)> {
        let mut accounts = BTreeMap::<_, (Micros, Micros)>::new();
        for SealedEntry { entry, .. } in &self.entries {
            let sides = [
                (entry.occasion.borrower().map(|borrower| borrower.0), entry.legs.borrower),
                (entry.occasion.lender().map(|lender| lender.0), entry.legs.lender),
            ];
            for (account, leg) in sides {
                let Some(account) = account else { continue };
                let sum = &mut accounts.entry((account, entry.currency)).or_default().0;
                *sum = Micros(sum.0.saturating_add(leg.0));
            }
        }
        // What is free of charge holds nothing.
        let running = |record: &LeaseRecord| record.end.is_none() && record.worst_case.0 != 0;
        for (record, contract) in self.leases.values() {
            let Some(contract) = contract.as_ref().filter(|_| running(record)) else { continue };
            let currency = contract.terms.price.currency;
            let held = &mut accounts.entry((record.borrower.0, currency)).or_default().1;
            *held = Micros(held.0.saturating_add(record.worst_case.0));
        }
        accounts
    }

    fn charged(&self) -> BTreeMap<Currency, Micros> {
        let mut sums = BTreeMap::<_, Micros>::new();
        for SealedEntry { entry, .. } in &self.entries {
            if matches!(entry.occasion, Occasion::Lease { .. } | Occasion::Credit { .. }) {
                let sum = sums.entry(entry.currency).or_default();
                *sum = Micros(sum.0.saturating_sub(entry.legs.borrower.0));
            }
        }
        sums
    }
}

fn lease_charge(lease: Option<&(LeaseRecord, Option<Contract>)>) -> i128 {
    let bill = lease.and_then(|(record, contract)| {
        let end = record.end?;
        Some(contract.as_ref()?.billing(record.started_at, end.at).settle())
    });
    bill.map_or(0, |bill| bill.charge.0.into())
}

/// What a receipt gives: nothing until it is whole. Wrong: it is none of the lease's.
fn receipt_credit(
    lease: Option<&(LeaseRecord, Option<Contract>)>,
    segments: Vec<SignedSegment>,
) -> Result<i128, ()> {
    let (record, contract) = lease.ok_or(())?;
    let terms = contract.as_ref().and_then(|contract| contract.receipts).ok_or(())?;
    let LeaseRecord { lease, host, partition, started_at, .. } = *record;
    let receipt = Receipt { lease, host, partition, key: terms.key, segments };
    let segments = receipt.verify(terms.key).map_err(drop)?;
    let is_whole = segments.last().is_some_and(|segment| segment.end.is_some());
    let (Some(end), Some(contract), true) = (record.end, contract, is_whole) else { return Ok(0) };
    let charge = contract.billing(started_at, end.at).settle().charge;
    let used = Duration::try_from(end.at.duration_since(started_at)).unwrap_or_default();
    Ok(terms.credit.credit(charge, used, &segments).0.into())
}

/// What of a lease's record does not follow from the rest of it.
fn disagreements(record: &LeaseRecord, contract: &Contract) -> Vec<Finding> {
    let paid = record.budget.and_then(|budget| contract.use_paid_by(budget));
    let course = LeaseCourse {
        started_at: record.started_at,
        asked_until: record.asked_until,
        paid_until: paid_until(record.started_at, paid),
        recall: record.recall,
        state: LeaseState::Active,
    };
    let planned = course.planned_end();
    let mut findings = Vec::new();
    if record.expires_at != planned.at {
        findings.push(Finding::PlannedEnd(record.lease));
    }
    if let Some(end) = record.end
        && (end.at < record.started_at
            || end.at > planned.at
            || (end.at == planned.at && end.reason != planned.reason))
    {
        findings.push(Finding::End(record.lease));
    }
    if record.end.is_none() && record.worst_case != contract.charge(course.length()) {
        findings.push(Finding::WorstCase(record.lease));
    }
    findings
}

fn check(
    entry: &Entry,
    digest: Option<&str>,
    lease: Option<&(LeaseRecord, Option<Contract>)>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !entry.legs.is_balanced() {
        findings.push(Finding::Unbalanced(entry.id));
    }
    if entry.occasion.lease().is_some() && lease.is_none() {
        findings.push(Finding::NoLease(entry.id));
    }
    let settles = matches!(entry.occasion, Occasion::Lease { .. });
    let record = lease.filter(|_| settles).map(|(record, _)| record.digest());
    match digest {
        None => findings.push(Finding::Unsealed(entry.id)),
        Some(digest) if digest != hex::encode(entry.digest(record.as_ref())) => {
            findings.push(Finding::Seal(entry.id));
        }
        Some(_) => {}
    }
    if let Some((record, Some(contract))) = lease {
        let parties = (Some(record.borrower), Some(record.lender));
        let currency = contract.terms.price.currency;
        if (entry.occasion.borrower(), entry.occasion.lender()) != parties || entry.currency != currency {
            findings.push(Finding::Parties(entry.id));
        }
    }
    if expected_legs(entry, lease).is_some_and(|legs| legs != entry.legs) {
        findings.push(Finding::Legs(entry.id));
    }
    findings
}

/// What the occasion and the lease give; none: the lease is not known well enough.
fn expected_legs(entry: &Entry, lease: Option<&(LeaseRecord, Option<Contract>)>) -> Option<Legs> {
    let contract = || lease.and_then(|(_, contract)| contract.as_ref());
    match &entry.occasion {
        Occasion::Lease { .. } => {
            let (record, contract) = (&lease?.0, contract()?);
            Some(Legs::of_lease(&contract.billing(record.started_at, record.end?.at).settle()))
        }
        Occasion::Deposit { .. } => Some(Legs::of_deposit(entry.legs.borrower)),
        Occasion::Payout { .. } => Some(Legs::of_payout(entry.legs.outside)),
        Occasion::Credit { .. } => Some(Legs::of_credit(entry.legs.borrower, contract()?.fee_rate)),
    }
}

#[cfg(test)]
mod tests;
