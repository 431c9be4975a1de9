//! The chain of a lease's segments, checked link by link, offline.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    key::{ReceiptKey, ReceiptSigner, Signature},
    segment::{Segment, SegmentDigest},
};
use crate::domain::id::{HostId, LeaseId, PartitionId};

/// Longest text of a segment, in bytes.
pub const SEGMENT_MAX: usize = 32 * 1024;

/// A segment as it is handed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SignedSegment {
    /// JSON of the segment, exactly as it was signed.
    pub text: String,
    /// The host's, over "sublet receipt 1", a newline, and the text.
    pub signature: Signature,
}

/// A lease's receipt, as far as there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    pub lease: LeaseId,
    pub host: HostId,
    pub partition: PartitionId,
    /// By which the host says that it signs. To check a receipt, take the key from the lease.
    pub key: ReceiptKey,
    /// Oldest first.
    pub segments: Vec<SignedSegment>,
}

/// Why a segment is not the next of its chain.
#[derive(Debug, Error)]
pub enum BadSegment {
    #[error("it is {0} bytes long, more than {SEGMENT_MAX}")]
    TooLong(usize),
    #[error("it is not signed by the key {0}")]
    Signature(ReceiptKey),
    #[error("it cannot be read")]
    Unreadable(#[source] serde_json::Error),
    #[error("it is of another lease, host or partition")]
    OtherLease,
    #[error("its number is {got}, not {expected}")]
    Number { expected: u32, got: u32 },
    #[error("it does not follow the one before it")]
    Link,
    #[error("it does not begin where the one before it ended")]
    Gap,
    #[error("what it says of one vCPU or disk is missing, or too much")]
    Count,
    #[error("the last segment was before it")]
    AfterEnd,
}

/// Why a receipt is none.
#[derive(Debug, Error)]
#[error("segment {number} of the receipt is wrong")]
pub struct BadReceipt {
    pub number: usize,
    #[source]
    pub source: BadSegment,
}

/// Whose receipt it is, and by which key it must be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    pub lease: LeaseId,
    pub host: HostId,
    pub partition: PartitionId,
    pub key: ReceiptKey,
}

/// How far a chain has come.
#[derive(Debug, Clone)]
pub struct Chain {
    subject: Subject,
    last: Option<(SegmentDigest, Segment)>,
}

impl Segment {
    pub fn sign(&self, signer: &ReceiptSigner) -> Result<SignedSegment, serde_json::Error> {
        let text = serde_json::to_string(self)?;
        Ok(SignedSegment { signature: signer.sign(&text), text })
    }
}

impl SignedSegment {
    pub fn digest(&self) -> SegmentDigest {
        SegmentDigest::of(&self.text)
    }

    /// What it says, whoever has signed it.
    pub fn said(&self) -> Result<Segment, serde_json::Error> {
        serde_json::from_str(&self.text)
    }

    /// What it says, if the key has signed it.
    fn read(&self, key: &ReceiptKey) -> Result<Segment, BadSegment> {
        if self.text.len() > SEGMENT_MAX {
            return Err(BadSegment::TooLong(self.text.len()));
        }
        if !key.has_signed(&self.text, &self.signature) {
            return Err(BadSegment::Signature(*key));
        }
        self.said().map_err(BadSegment::Unreadable)
    }
}

impl Chain {
    /// One that begins.
    pub fn new(subject: Subject) -> Self {
        Self { subject, last: None }
    }

    /// One whose last segment so far, which was checked when it came, is this.
    pub fn after(subject: Subject, last: &SignedSegment) -> Result<Self, BadSegment> {
        let segment = last.read(&subject.key)?;
        Ok(Self { subject, last: Some((last.digest(), segment)) })
    }

    /// The next segment, which must be the next of this chain.
    pub fn take(&mut self, signed: &SignedSegment) -> Result<&Segment, BadSegment> {
        let segment = signed.read(&self.subject.key)?;
        let Subject { lease, host, partition, .. } = self.subject;
        if (segment.lease, segment.host, segment.partition) != (lease, host, partition) {
            return Err(BadSegment::OtherLease);
        }
        self.check_link(&segment)?;
        let vcpus = usize::try_from(segment.set_aside.allocation.cpus).unwrap_or(usize::MAX);
        if [segment.vcpus.len(), segment.set_aside.cpus.len()] != [vcpus; 2] {
            return Err(BadSegment::Count);
        }
        Ok(&self.last.insert((signed.digest(), segment)).1)
    }

    fn check_link(&self, segment: &Segment) -> Result<(), BadSegment> {
        let Some((digest, last)) = &self.last else {
            return match (segment.number, segment.before) {
                (0, None) => Ok(()),
                (0, Some(_)) => Err(BadSegment::Link),
                (got, _) => Err(BadSegment::Number { expected: 0, got }),
            };
        };
        if last.end.is_some() {
            return Err(BadSegment::AfterEnd);
        }
        let expected = last.number.saturating_add(1);
        if segment.number != expected {
            return Err(BadSegment::Number { expected, got: segment.number });
        }
        if segment.before != Some(*digest) {
            return Err(BadSegment::Link);
        }
        if segment.from != last.to { Err(BadSegment::Gap) } else { Ok(()) }
    }

    /// The segment that came last.
    pub fn last(&self) -> Option<&Segment> {
        self.last.as_ref().map(|(_, segment)| segment)
    }

    /// Digest of the segment that came last.
    pub fn digest(&self) -> Option<SegmentDigest> {
        self.last.as_ref().map(|(digest, _)| *digest)
    }
}

impl Receipt {
    /// What the segments say, if all of them are signed by `key` and follow one another from the first on. Whether the
    /// last of them is there, [`Segment::end`] says.
    pub fn verify(&self, key: ReceiptKey) -> Result<Vec<Segment>, BadReceipt> {
        let Self { lease, host, partition, .. } = *self;
        let mut chain = Chain::new(Subject { lease, host, partition, key });
        let take =
            |(number, signed)| chain.take(signed).cloned().map_err(|source| BadReceipt { number, source });
        self.segments.iter().enumerate().map(take).collect()
    }
}

/// Sums over segments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    pub length: Duration,
    pub unwatched: Duration,
    pub lacking: Duration,
    /// Over all vCPUs.
    pub ran: Duration,
    pub not_run: Duration,
    pub stopped: Duration,
    pub throttled: Duration,
    pub violations: u64,
}

impl Totals {
    pub fn of<'a>(segments: impl IntoIterator<Item = &'a Segment>) -> Self {
        let mut totals = Self::default();
        for segment in segments {
            let add = |sum: &mut Duration, ns: u64| *sum = sum.saturating_add(Duration::from_nanos(ns));
            totals.length = totals.length.saturating_add(segment.length());
            add(&mut totals.unwatched, segment.unwatched_ns);
            add(&mut totals.lacking, segment.lacking_ns);
            for vcpu in &segment.vcpus {
                add(&mut totals.ran, vcpu.ran_ns);
                add(&mut totals.not_run, vcpu.not_run_ns);
                add(&mut totals.stopped, vcpu.stopped_ns);
            }
            segment.disks.iter().for_each(|disk| add(&mut totals.throttled, disk.throttled_ns));
            totals.violations += segment.violations.len() as u64 + segment.violations_left_out;
        }
        totals
    }
}

#[cfg(test)]
pub(crate) mod tests;
