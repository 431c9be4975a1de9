//! Receipts: the segments that hosts hand over, what borrowers are credited by them, and what hosts report of their leases.

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{
    ResourceDb, StoreError,
    accounts::Principal,
    entries::{BookError, credited},
    leases::{LeaseRow, find, find_of_host},
    sql::Sql,
    value::{Row, values},
    work::Work,
};
use crate::{
    api::registry::ReportedViolation,
    domain::{
        id::{BorrowerId, HostId, LeaseId},
        ledger::{
            audit::KeptSegment,
            entry::{Legs, Occasion},
        },
        money::Micros,
        receipt::{
            chain::{BadSegment, Chain, Receipt, SignedSegment, Subject},
            credit::ReceiptTerms,
            segment::{Segment, Violation},
        },
    },
};

pub(super) const SELECT_ALL: &str =
    "SELECT lease, number, text, signature FROM segments ORDER BY lease, number";

/// Most violations of a lease that are kept.
const VIOLATIONS_MAX: u64 = 100;

/// Why a segment is not kept.
#[derive(Debug, Error)]
pub enum SegmentError {
    #[error("there is no such lease")]
    NoSuchLease,
    #[error("the lease was made with a host that signs no receipts")]
    NoReceipts,
    #[error("another segment {0} of the receipt is there already")]
    Other(u32),
    #[error("the lease has not ended here: its last segment comes after its end")]
    StillRuns,
    #[error("it is not the next segment of the lease's receipt")]
    Bad(#[from] BadSegment),
    #[error("what it credits cannot be booked")]
    Book(#[from] BookError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ResourceDb {
    /// Keeps the next segment of a lease's receipt. With the last one the borrower is credited what was not delivered, by
    /// the rule of the lease. The same segment again changes nothing.
    pub async fn keep_segment(
        &self,
        host: HostId,
        lease: LeaseId,
        number: u32,
        segment: SignedSegment,
    ) -> Result<(), SegmentError> {
        self.write(move |work| {
            let row = find_of_host(work.sql, host, lease)?.ok_or(SegmentError::NoSuchLease)?;
            match kept(work.sql, lease, number)? {
                Some(before) if before == segment => Ok(()),
                Some(_) => Err(SegmentError::Other(number)),
                None => work.keep_segment(&row, number, &segment),
            }
        })
        .await
    }

    /// A lease's receipt, where the asker may know of the lease.
    pub async fn receipt(&self, asker: Principal, lease: LeaseId) -> Result<Option<Receipt>, StoreError> {
        self.read(move |sql| {
            let found = find(sql, lease)?.filter(|row| may_know(asker, row));
            let Some((row, terms)) = found.and_then(|row| row.contract.receipts.map(|terms| (row, terms)))
            else {
                return Ok(None);
            };
            let segments = segments(sql, lease)?;
            let (host, partition) = (row.host, row.partition);
            Ok(Some(Receipt { lease, host, partition, key: terms.key, segments }))
        })
        .await
    }

    /// Keeps what a host found while a lease ran there; whose lease it was.
    pub async fn keep_violation(
        &self,
        host: HostId,
        reported: ReportedViolation,
    ) -> Result<Option<BorrowerId>, StoreError> {
        self.write(move |work| {
            let ReportedViolation { partition, lease, violation } = &reported;
            let Some(lease) = *lease else { return Ok(None) };
            let row = find_of_host(work.sql, host, lease)?.filter(|row| row.partition == *partition);
            let Some(row) = row else { return Ok(None) };
            work.keep_violation(lease, violation)?;
            Ok(Some(row.borrower))
        })
        .await
    }
}

fn may_know(asker: Principal, row: &LeaseRow) -> bool {
    match asker {
        Principal::Borrower(borrower) => borrower == row.borrower,
        Principal::Lender(lender) => lender == row.lender,
        Principal::Host(host) => host == row.host,
        Principal::Administrator => true,
    }
}

/// What hosts have reported of a lease, oldest first.
pub(super) fn violations(sql: &mut dyn Sql, lease: LeaseId) -> Result<Vec<Violation>, StoreError> {
    let select = "SELECT violation FROM violations WHERE lease = $1 ORDER BY at_us, digest";
    sql.all(select, values![lease], |mut row| row.take_json())
}

/// As auditors see it.
pub(super) fn exported(mut row: Row) -> Result<KeptSegment, StoreError> {
    let (lease, number) = (row.take()?, row.take::<u64>()?);
    let number = u32::try_from(number).map_err(|_| row.unreadable())?;
    Ok(KeptSegment { lease, number, segment: signed(row)? })
}

fn signed(mut row: Row) -> Result<SignedSegment, StoreError> {
    Ok(SignedSegment { text: row.take()?, signature: row.take_word()? })
}

/// Of a lease's receipt, in order.
fn segments(sql: &mut dyn Sql, lease: LeaseId) -> Result<Vec<SignedSegment>, StoreError> {
    let select = "SELECT text, signature FROM segments WHERE lease = $1 ORDER BY number";
    sql.all(select, values![lease], signed)
}

fn kept(sql: &mut dyn Sql, lease: LeaseId, number: u32) -> Result<Option<SignedSegment>, StoreError> {
    let select = "SELECT text, signature FROM segments WHERE lease = $1 AND number = $2";
    sql.first(select, values![lease, number], signed)
}

impl Work<'_> {
    fn keep_segment(
        &mut self,
        row: &LeaseRow,
        number: u32,
        signed_segment: &SignedSegment,
    ) -> Result<(), SegmentError> {
        let terms = row.contract.receipts.ok_or(SegmentError::NoReceipts)?;
        let subject = Subject { lease: row.id, host: row.host, partition: row.partition, key: terms.key };
        let last = "SELECT text, signature FROM segments WHERE lease = $1 ORDER BY number DESC LIMIT 1";
        let mut chain = match self.sql.first(last, values![row.id], signed)? {
            Some(last) => Chain::after(subject, &last)?,
            None => Chain::new(subject),
        };
        let segment = chain.take(signed_segment)?;
        if segment.number != number {
            return Err(BadSegment::Number { expected: number, got: segment.number }.into());
        }
        let is_last = segment.end.is_some();
        if is_last && row.course.end().is_none() {
            return Err(SegmentError::StillRuns);
        }
        let insert = "INSERT INTO segments (lease, number, text, signature, received_at_us) \
                      VALUES ($1, $2, $3, $4, $5)";
        let SignedSegment { text, signature } = signed_segment;
        let signature = signature.to_string();
        self.sql.execute(insert, values![row.id, number, text.as_str(), signature.as_str(), self.now])?;
        if is_last { self.credit_undelivered(row, terms) } else { Ok(()) }
    }

    /// Writes the credit that follows from the whole receipt, once.
    fn credit_undelivered(&mut self, row: &LeaseRow, terms: ReceiptTerms) -> Result<(), SegmentError> {
        let segments: Vec<Segment> = segments(self.sql, row.id)?
            .iter()
            .map(SignedSegment::said)
            .collect::<Result<_, _>>()
            .map_err(BadSegment::Unreadable)?;
        let Some(end) = row.course.end() else { return Ok(()) };
        let charge = row.contract.billing(row.course.started_at, end.at).settle().charge;
        let by_receipt = terms.credit.credit(charge, row.course.length(), &segments);
        // What the registry's operator has credited before is not credited twice.
        let left = charge.0.saturating_sub(credited(self.sql, row.id)?.0);
        let amount = Micros(by_receipt.0.min(left));
        if amount.0 <= 0 {
            return Ok(());
        }
        let occasion = Occasion::of_receipt(row.id, row.borrower, row.lender);
        let legs = Legs::of_credit(amount, row.contract.fee_rate);
        self.book_once(row.contract.terms.price.currency, occasion, legs)?;
        Ok(())
    }

    fn keep_violation(&mut self, lease: LeaseId, violation: &Violation) -> Result<(), StoreError> {
        let text = serde_json::to_string(violation).map_err(StoreError::Unwritable)?;
        let digest: [u8; 32] = Sha256::digest(&text).into();
        let count = "SELECT count(*) FROM violations WHERE lease = $1";
        if self.sql.one(count, values![lease], |mut row| row.take::<u64>())? >= VIOLATIONS_MAX {
            return Ok(());
        }
        let insert = "INSERT INTO violations (lease, digest, at_us, violation) VALUES ($1, $2, $3, $4) \
                      ON CONFLICT (lease, digest) DO NOTHING";
        self.sql.execute(insert, values![lease, digest, violation.at, text.as_str()]).map(drop)
    }
}
