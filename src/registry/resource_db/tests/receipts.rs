//! Receipts: what is kept of them, what is refused, and what is credited by them.

use super::*;
use crate::{
    api::registry::{HostContact, ReportedViolation},
    domain::{
        ledger::{audit::Finding, entry::Occasion},
        receipt::{
            chain::{BadSegment, SignedSegment, tests as chain},
            credit::CreditRule,
            key::ReceiptSigner,
            segment::{Segment, SegmentEnd, Violation, Watched},
        },
    },
};

const SECOND_NS: u64 = 1_000_000_000;

impl Market {
    /// From now on the host signs receipts.
    async fn sign_receipts(&self) {
        let contact = HostContact {
            address: "http://host:1".to_owned(),
            tls_key: None,
            receipt_key: Some(chain::signer().key()),
        };
        self.db.change_contact(self.host, contact).await.unwrap();
    }

    /// A lease's receipt: ten seconds a segment, in each of which its vCPU did not run for so long.
    fn receipt(&self, lease: &Lease, not_run: &[u64]) -> Vec<SignedSegment> {
        let mut segments: Vec<SignedSegment> = Vec::new();
        for (number, seconds) in (0..).zip(not_run) {
            let before = segments.last().map(SignedSegment::digest);
            let mut segment = Segment {
                host: self.host,
                partition: self.partition,
                lease: lease.id,
                ..chain::segment(number, before, seconds * SECOND_NS)
            };
            if segments.len() + 1 == not_run.len() {
                segment.end = Some(SegmentEnd { at: segment.to.at, reason: Some(EndReason::Returned) });
            }
            segments.push(segment.sign(&chain::signer()).unwrap());
        }
        segments
    }

    async fn hand_over(
        &self,
        lease: &Lease,
        number: u32,
        segment: &SignedSegment,
    ) -> Result<(), SegmentError> {
        self.db.keep_segment(self.host, lease.id, number, segment.clone()).await
    }

    /// What the borrower was credited by receipts.
    async fn credits(&self) -> Vec<Micros> {
        let entries = self.entries(Account::Borrower(self.borrower)).await.into_iter();
        let credits = entries.filter(|entry| entry.entry.occasion.is_of_receipt());
        credits.map(|entry| entry.entry.legs.borrower).collect()
    }
}

#[tokio::test]
async fn a_lease_names_the_key_of_its_receipts_and_what_follows_from_them() {
    let market = market().await;
    let before = market.borrow().await;
    assert_eq!(before.receipts, None, "its host signs none");
    market.give_back(&before).await;
    market.cleaned(&before).await;
    market.sign_receipts().await;
    let terms = market.borrow().await.receipts.unwrap();
    assert_eq!((terms.key, terms.credit), (chain::signer().key(), CreditRule::STANDARD));
}

#[tokio::test]
async fn a_whole_receipt_credits_once_what_was_not_delivered_and_an_audit_recomputes_it() {
    let market = market().await;
    market.sign_receipts().await;
    let lease = market.borrow().await;
    let receipt = market.receipt(&lease, &[1, 5]);
    market.hand_over(&lease, 0, &receipt[0]).await.unwrap();
    market.clock.advance(Duration::from_secs(20));
    assert!(matches!(market.hand_over(&lease, 1, &receipt[1]).await, Err(SegmentError::StillRuns)));
    let charge = market.give_back(&lease).await.end.unwrap().charge;
    assert_eq!(market.credits().await, []);
    for _ in 0..2 {
        market.hand_over(&lease, 1, &receipt[1]).await.unwrap();
        assert_eq!(market.credits().await, [Micros(charge.0 * 6 / 20)]);
    }
    assert_eq!(market.audit().await, []);
    let kept = market.db.receipt(Principal::Borrower(market.borrower), lease.id).await.unwrap().unwrap();
    assert_eq!(kept.segments, receipt);
    assert!(kept.verify(chain::signer().key()).is_ok());
}

#[tokio::test]
async fn what_an_operator_has_credited_already_is_not_credited_twice() {
    let market = market().await;
    market.sign_receipts().await;
    let lease = market.borrow().await;
    market.clock.advance(Duration::from_secs(10));
    let charge = market.give_back(&lease).await.end.unwrap().charge;
    let most = money::euros(charge.0 - 7);
    market.db.credit(By::Program, lease.id, most, "slow".to_owned(), "r1".to_owned()).await.unwrap();
    market.hand_over(&lease, 0, &market.receipt(&lease, &[9])[0]).await.unwrap();
    assert_eq!(market.credits().await, [Micros(7)]);
    assert_eq!(market.audit().await, []);
}

#[tokio::test]
async fn what_is_not_the_next_segment_of_the_leases_host_is_refused() {
    let market = market().await;
    market.sign_receipts().await;
    let lease = market.borrow().await;
    let receipt = market.receipt(&lease, &[1, 2, 3]);
    let early = market.hand_over(&lease, 1, &receipt[1]).await;
    assert!(matches!(early, Err(SegmentError::Bad(BadSegment::Number { expected: 0, got: 1 }))), "{early:?}");
    let misnamed = market.hand_over(&lease, 1, &receipt[0]).await;
    assert!(matches!(misnamed, Err(SegmentError::Bad(_))), "{misnamed:?}");
    market.hand_over(&lease, 0, &receipt[0]).await.unwrap();
    let other = market.receipt(&lease, &[0, 0]);
    assert!(matches!(market.hand_over(&lease, 0, &other[0]).await, Err(SegmentError::Other(0))));
    let rewritten = market.hand_over(&lease, 1, &other[1]).await;
    assert!(matches!(rewritten, Err(SegmentError::Bad(BadSegment::Link))), "{rewritten:?}");
    let forged = SignedSegment {
        signature: ReceiptSigner::from_seed([9; 32]).sign(&receipt[1].text),
        text: receipt[1].text.clone(),
    };
    let forged = market.hand_over(&lease, 1, &forged).await;
    assert!(matches!(forged, Err(SegmentError::Bad(BadSegment::Signature(_)))), "{forged:?}");
    let stranger = HostId(Uuid::from_u128(99));
    let strangers = market.db.keep_segment(stranger, lease.id, 1, receipt[1].clone()).await;
    assert!(matches!(strangers, Err(SegmentError::NoSuchLease)));
}

#[tokio::test]
async fn a_receipt_is_the_business_of_its_parties() {
    let market = market().await;
    market.sign_receipts().await;
    let lease = market.borrow().await;
    let carol = borrower(&market.db, "carol", [8; 32]).await;
    for (asker, may) in [
        (Principal::Borrower(market.borrower), true),
        (Principal::Lender(market.lender), true),
        (Principal::Host(market.host), true),
        (Principal::Administrator, true),
        (Principal::Borrower(carol), false),
        (Principal::Lender(LenderId(Uuid::max())), false),
        (Principal::Host(HostId(Uuid::max())), false),
    ] {
        assert_eq!(market.db.receipt(asker, lease.id).await.unwrap().is_some(), may, "{asker:?}");
    }
}

#[tokio::test]
async fn a_credit_that_was_not_written_or_is_another_one_is_found_by_an_audit() {
    let market = market().await;
    market.sign_receipts().await;
    let lease = market.borrow().await;
    market.clock.advance(Duration::from_secs(10));
    let ended = market.give_back(&lease).await;
    // Somebody books a credit as if a receipt gave it.
    let occasion = Occasion::of_receipt(lease.id, market.borrower, market.lender);
    let reference = occasion.reference().unwrap().to_owned();
    let reason = occasion.reason().unwrap().to_owned();
    let one = money::euros(1);
    market.db.credit(By::Program, lease.id, one, reason, reference).await.unwrap();
    assert!(ended.end.unwrap().charge > Micros(1));
    assert_eq!(market.audit().await, [Finding::CreditByReceipt(lease.id)]);
}

#[tokio::test]
async fn violations_are_shown_with_their_lease_once_and_to_nobody_else() {
    let market = market().await;
    let lease = market.borrow().await;
    let text = str::to_owned;
    let violation = |second: i64| Violation {
        at: jiff::Timestamp::from_second(second).unwrap(),
        what: Watched::Affinity,
        subject: text("thread vcpu0"),
        before: text("CPU 1"),
        after: text("CPU 0"),
        restored: true,
    };
    let report = |lease, second| ReportedViolation {
        partition: market.partition,
        lease,
        violation: violation(second),
    };
    for second in [5, 5, 3] {
        let borrower = market.db.keep_violation(market.host, report(Some(lease.id), second)).await.unwrap();
        assert_eq!(borrower, Some(market.borrower));
    }
    assert_eq!(market.db.keep_violation(market.host, report(None, 9)).await.unwrap(), None);
    let stranger = HostId(Uuid::from_u128(99));
    assert_eq!(market.db.keep_violation(stranger, report(Some(lease.id), 9)).await.unwrap(), None);
    let shown = market.db.lease(market.borrower, lease.id).await.unwrap().unwrap();
    assert_eq!(shown.violations, [violation(3), violation(5)]);
}
