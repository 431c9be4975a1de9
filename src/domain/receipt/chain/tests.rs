use jiff::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::{
    lease::EndReason,
    receipt::segment::{Moment, SegmentEnd, SetAside, SetAsideCpu, VcpuTime},
    resources::Allocation,
};

const SECOND_NS: u64 = 1_000_000_000;

pub(crate) fn signer() -> ReceiptSigner {
    ReceiptSigner::from_seed([7; 32])
}

pub(crate) fn moment(second: u64) -> Moment {
    let at = Timestamp::from_second(1_700_000_000 + i64::try_from(second).unwrap()).unwrap();
    Moment { boottime_ns: second * SECOND_NS, at }
}

/// What a host says of ten seconds of a lease of a partition with one CPU.
pub(crate) fn segment(number: u32, before: Option<SegmentDigest>, not_run_ns: u64) -> Segment {
    let from = u64::from(number) * 10;
    Segment {
        host: HostId(Uuid::from_u128(1)),
        partition: PartitionId(Uuid::from_u128(2)),
        lease: LeaseId(Uuid::from_u128(3)),
        number,
        before,
        set_aside: SetAside {
            allocation: Allocation { cpus: 1, memory_mib: 256, disk_mib: 64 },
            cpus: vec![SetAsideCpu { cpu: 1, siblings: vec![1], node: None }],
            huge_pages: false,
            cpu_share_percent: None,
        },
        from: moment(from),
        to: moment(from + 10),
        unwatched_ns: 0,
        lacking_ns: 0,
        vcpus: vec![VcpuTime { ran_ns: SECOND_NS, not_run_ns, stopped_ns: 0 }],
        disks: vec![],
        guest: None,
        violations: vec![],
        violations_left_out: 0,
        cleaned: None,
        end: None,
    }
}

pub(crate) fn subject() -> Subject {
    let Segment { lease, host, partition, .. } = segment(0, None, 0);
    Subject { lease, host, partition, key: signer().key() }
}

/// A whole receipt, of a segment for each time that a vCPU did not run.
pub(crate) fn receipt(not_run_ns: &[u64]) -> Receipt {
    let mut segments: Vec<SignedSegment> = Vec::new();
    for (number, ns) in (0..).zip(not_run_ns) {
        let mut segment = segment(number, segments.last().map(SignedSegment::digest), *ns);
        if segments.len() + 1 == not_run_ns.len() {
            segment.end = Some(SegmentEnd { at: segment.to.at, reason: Some(EndReason::Returned) });
        }
        segments.push(segment.sign(&signer()).unwrap());
    }
    let Subject { lease, host, partition, key } = subject();
    Receipt { lease, host, partition, key, segments }
}

#[test]
fn a_receipt_is_read_by_the_key_of_its_host_and_by_no_other() {
    let receipt = receipt(&[5, 7, 0]);
    let segments = receipt.verify(signer().key()).unwrap();
    let totals = Totals::of(&segments);
    assert_eq!((totals.length.as_secs(), totals.not_run.as_nanos()), (30, 12));
    assert!(segments.last().unwrap().end.is_some());
    let other = ReceiptSigner::from_seed([8; 32]).key();
    assert!(matches!(receipt.verify(other), Err(BadReceipt { number: 0, source: BadSegment::Signature(_) })));
}

#[test]
fn what_was_changed_taken_out_or_put_in_is_found() {
    let whole = receipt(&[5, 7, 0]);
    let refused = |change: fn(&mut Vec<SignedSegment>)| {
        let mut receipt = whole.clone();
        change(&mut receipt.segments);
        receipt.verify(signer().key()).unwrap_err().source
    };
    let changed = refused(|segments| segments[1].text = segments[1].text.replace(":7", ":0"));
    assert!(matches!(changed, BadSegment::Signature(_)));
    assert!(matches!(refused(|s| drop(s.remove(1))), BadSegment::Number { expected: 1, got: 2 }));
    assert!(matches!(refused(|s| drop(s.remove(0))), BadSegment::Number { expected: 0, got: 1 }));
    assert!(matches!(refused(|s| s.push(s[2].clone())), BadSegment::AfterEnd));
    let replaced = |segments: &mut Vec<SignedSegment>| {
        segments[1] = segment(1, Some(SegmentDigest::of("another history")), 0).sign(&signer()).unwrap();
    };
    assert!(matches!(refused(replaced), BadSegment::Link), "the host's own key does not help afterwards");
}

#[test]
fn a_segment_of_another_lease_or_after_a_gap_is_refused() {
    let mut chain = Chain::new(subject());
    let other = Segment { lease: LeaseId(Uuid::max()), ..segment(0, None, 0) };
    assert!(matches!(chain.take(&other.sign(&signer()).unwrap()), Err(BadSegment::OtherLease)));
    let first = segment(0, None, 0).sign(&signer()).unwrap();
    chain.take(&first).unwrap();
    let late = Segment { from: moment(11), ..segment(1, Some(first.digest()), 0) };
    assert!(matches!(chain.take(&late.sign(&signer()).unwrap()), Err(BadSegment::Gap)));
    let no_vcpu = Segment { vcpus: vec![], ..segment(1, Some(first.digest()), 0) };
    assert!(matches!(chain.take(&no_vcpu.sign(&signer()).unwrap()), Err(BadSegment::Count)));
}

#[test]
fn a_segment_that_spans_a_start_of_its_host_is_as_long_as_the_clock_says() {
    let restarted = Segment { to: Moment { boottime_ns: 1, ..moment(20) }, ..segment(1, None, 0) };
    assert_eq!(restarted.length(), Duration::from_secs(10));
}

proptest! {
    #[test]
    fn no_bytes_that_a_host_could_send_break_the_reader(text: String, digits in "[0-9a-f]{128}") {
        let signature = digits.parse().unwrap();
        let unsigned = SignedSegment { text: text.clone(), signature };
        prop_assert!(Chain::new(subject()).take(&unsigned).is_err());
        let signed = SignedSegment { signature: signer().sign(&text), text };
        prop_assert!(Chain::new(subject()).take(&signed).is_err());
    }
}
