use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::{
    id::{BorrowerId, HostId, LenderId, PartitionId},
    lease::{EndReason, Recall},
    ledger::record::RecordedEnd,
    money::{FeeRate, Price, Rounding},
    receipt::{
        chain::tests as chain,
        credit::{CreditRule, ReceiptTerms},
        segment::Segment,
    },
    resources::Allocation,
    terms::{Epoch, Terms},
};

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn contract() -> Contract {
    let terms = Terms {
        allocation: Allocation { cpus: 1, memory_mib: 256, disk_mib: 64 },
        price: Price { per_hour_micros: 36_000_000, currency: "EUR".parse().unwrap() },
        os_images: ["debian-micro".to_owned()].into(),
        cpu_model: "a CPU".to_owned(),
        network: Default::default(),
        qualities: Default::default(),
        lending: Default::default(),
    };
    Contract {
        terms,
        rounding: Rounding::BegunSecond,
        fee_rate: FeeRate::from_millionths(100_000).unwrap(),
        receipts: None,
    }
}

/// From second 0, asked for 100 seconds.
fn record(lease: u128, end: Option<(i64, EndReason)>) -> LeaseRecord {
    LeaseRecord {
        lease: LeaseId(id(lease)),
        host: HostId(id(1)),
        partition: PartitionId(id(2)),
        borrower: BorrowerId(id(3)),
        lender: LenderId(id(4)),
        epoch: Epoch(5),
        contract: serde_json::to_string(&contract()).unwrap(),
        started_at: at(0),
        asked_until: at(100),
        expires_at: at(80),
        budget: Some(Micros(800_000)),
        recall: Some(Recall { asked_at: at(30), until: at(90) }),
        worst_case: Micros(800_000),
        end: end.map(|(second, reason)| RecordedEnd { at: at(second), reason }),
    }
}

fn sealed(number: u128, occasion: Occasion, legs: Legs, settles: Option<&LeaseRecord>) -> SealedEntry {
    let entry =
        Entry { id: EntryId(id(number)), at: at(200), currency: "EUR".parse().unwrap(), occasion, legs };
    let digest = entry.digest(settles.map(LeaseRecord::digest).as_ref());
    SealedEntry { entry, digest: Some(hex::encode(digest)) }
}

/// Two leases that have ended, one that runs; a deposit, a credit and a payout.
fn export() -> Vec<Line> {
    let (borrower, lender) = (BorrowerId(id(3)), LenderId(id(4)));
    let records = [
        record(10, Some((40, EndReason::Returned))),
        record(11, Some((80, EndReason::BudgetSpent))),
        record(12, None),
    ];
    let settlement = |number, record: &LeaseRecord| {
        let bill = contract().billing(record.started_at, record.end.unwrap().at).settle();
        let occasion = Occasion::Lease { lease: record.lease, borrower, lender };
        sealed(number, occasion, Legs::of_lease(&bill), Some(record))
    };
    let text = str::to_owned;
    let deposit = Occasion::Deposit { borrower, reference: text("transfer 7") };
    let credit = Occasion::Credit {
        lease: records[0].lease,
        borrower,
        lender,
        reason: text("slow"),
        reference: text("r1"),
    };
    let payout = Occasion::Payout { lender, reference: text("transfer 8") };
    let entries = [
        settlement(20, &records[0]),
        settlement(21, &records[1]),
        sealed(22, deposit, Legs::of_deposit(Micros(5_000_000)), None),
        sealed(23, credit, Legs::of_credit(Micros(100_000), contract().fee_rate), None),
        sealed(24, payout, Legs::of_payout(Micros(990_000)), None),
    ];
    let balance = |account, balance, held| Balance {
        account: id(account),
        currency: "EUR".parse().unwrap(),
        balance: Micros(balance),
        held: Micros(held),
    };
    let balances = [balance(3, 5_000_000 - 1_200_000 + 100_000, 800_000), balance(4, 0, 0)];
    let leases = records.into_iter().map(Line::Lease);
    leases
        .chain(entries.into_iter().map(Line::Entry))
        .chain(balances.into_iter().map(Line::Balance))
        .collect()
}

fn audit(lines: Vec<Line>) -> (Audited, Vec<Finding>) {
    let mut auditor = Auditor::default();
    lines.into_iter().for_each(|line| auditor.read(line));
    auditor.finish()
}

#[test]
fn what_agrees_has_no_findings() {
    let (audited, findings) = audit(export());
    assert_eq!(findings, []);
    assert_eq!((audited.leases, audited.entries, audited.balances), (3, 5, 2));
    assert_eq!(audited.charged, [("EUR".parse().unwrap(), Micros(1_100_000))].into());
}

/// The lease that was returned, with a receipt that gives half of its charge, and what was credited by it.
fn export_with_receipt(credited: i64) -> Vec<Line> {
    let terms = ReceiptTerms { key: chain::signer().key(), credit: CreditRule::STANDARD };
    let contract = Contract { receipts: Some(terms), ..contract() };
    let mut record = record(10, Some((20, EndReason::Returned)));
    record.contract = serde_json::to_string(&contract).unwrap();
    let Segment { lease, host, partition, .. } = chain::segment(0, None, 0);
    (record.lease, record.host, record.partition) = (lease, host, partition);
    let (borrower, lender) = (record.borrower, record.lender);
    let bill = contract.billing(record.started_at, record.end.unwrap().at).settle();
    let settled = Occasion::Lease { lease, borrower, lender };
    let credit = Occasion::of_receipt(lease, borrower, lender);
    let credit_legs = Legs::of_credit(Micros(credited), contract.fee_rate);
    let receipt = chain::receipt(&[5_000_000_000, 5_000_000_000]);
    let segments =
        (0..).zip(receipt.segments).map(|(number, segment)| KeptSegment { lease, number, segment });
    let balance = |account: Uuid, balance| Balance {
        account,
        currency: "EUR".parse().unwrap(),
        balance: Micros(balance),
        held: Micros(0),
    };
    let (borrowers, lenders) = (-bill.charge.0 + credited, bill.payment.0 + credit_legs.lender.0);
    let mut lines = vec![
        Line::Entry(sealed(20, settled, Legs::of_lease(&bill), Some(&record))),
        Line::Entry(sealed(21, credit, credit_legs, None)),
        Line::Balance(balance(borrower.0, borrowers)),
        Line::Balance(balance(lender.0, lenders)),
        Line::Lease(record),
    ];
    lines.extend(segments.map(Line::Segment));
    lines
}

#[test]
fn a_credit_by_a_receipt_is_recomputed_from_it() {
    let (audited, findings) = audit(export_with_receipt(100_000));
    assert_eq!((findings, audited.receipts), (vec![], 1));
    let lease = chain::subject().lease;
    assert_eq!(audit(export_with_receipt(99_999)).1, [Finding::CreditByReceipt(lease)]);
    let mut without: Vec<_> = export_with_receipt(100_000);
    without.retain(|line| !matches!(line, Line::Segment(_)));
    assert_eq!(audit(without).1, [Finding::CreditByReceipt(lease)]);
    let mut forged = export_with_receipt(100_000);
    if let Some(Line::Segment(kept)) = forged.last_mut() {
        kept.segment.text = kept.segment.text.replace("5000000000", "4000000000");
    }
    assert_eq!(audit(forged).1, [Finding::Receipt(lease)]);
}

#[test]
fn a_payout_in_two_currencies_is_two_entries_of_one_reference() {
    let mut lines = export();
    let payout = lines.iter().find_map(|line| match line {
        Line::Entry(sealed) if matches!(sealed.entry.occasion, Occasion::Payout { .. }) => {
            Some(sealed.clone())
        }
        _ => None,
    });
    let SealedEntry { entry, .. } = payout.unwrap();
    let entry = Entry { id: EntryId(id(25)), currency: "USD".parse().unwrap(), ..entry };
    let digest = Some(hex::encode(entry.digest(None)));
    let balance =
        Balance { account: id(4), currency: entry.currency, balance: entry.legs.lender, held: Micros(0) };
    lines.extend([Line::Entry(SealedEntry { entry, digest }), Line::Balance(balance)]);
    assert_eq!(audit(lines).1, []);
}

#[test]
fn an_export_is_read_as_it_was_written() {
    for line in export().into_iter().chain(export_with_receipt(1)) {
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line, "{text}");
    }
}

#[test]
fn a_line_that_is_missing_or_there_twice_is_found() {
    for place in 0..export().len() {
        let (mut without, mut twice) = (export(), export());
        let removed = without.remove(place);
        assert!(!audit(without).1.is_empty(), "{removed:?}");
        twice.push(removed.clone());
        let balance = matches!(removed, Line::Balance(_));
        assert!(balance || !audit(twice).1.is_empty(), "{removed:?}");
    }
}

/// Each value in the line that is no object or list: where it is, and how it may be changed.
fn leaves(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| leaves(value, format!("{path}/{name}"), found));
        }
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(at, value)| leaves(value, format!("{path}/{at}"), found));
        }
        _ => found.push(path),
    }
}

/// Another value of the same kind.
fn tampered(value: &Value, by: i64) -> Value {
    match value {
        Value::Number(number) => json!(number.as_i64().unwrap() + by),
        Value::String(text) => match (text.parse::<Timestamp>(), text.parse::<Uuid>()) {
            (Ok(moment), _) => json!(moment + jiff::SignedDuration::from_micros(by)),
            (_, Ok(id)) => json!(Uuid::from_u128(id.as_u128() ^ u128::from(by.unsigned_abs()))),
            _ if text == "EUR" => json!("USD"),
            _ if text.starts_with('{') => {
                json!(text.replace("36000000", &(36_000_000 + by.abs()).to_string()))
            }
            _ => match EndReason::ALL.iter().find(|reason| reason.as_str() == text) {
                Some(EndReason::HostLost) => json!("recalled"),
                Some(_) => json!("host_lost"),
                None => json!(format!("{text}{by}")),
            },
        },
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_field_that_is_tampered_with_is_found(
        line in 0..10usize, field in any::<prop::sample::Index>(),
        by in prop_oneof![1..10i64, -10..0i64, 1..10_000_000_000i64]
    ) {
        let mut lines = export();
        let mut value = serde_json::to_value(&lines[line]).unwrap();
        let mut paths = Vec::new();
        leaves(&value, String::new(), &mut paths);
        let path = field.get(&paths);
        let found = value.pointer_mut(path).unwrap();
        let other = tampered(found, by);
        prop_assume!(other != *found);
        *found = other;
        // What cannot be read any more is found by whoever reads it.
        if let Ok(changed) = serde_json::from_value(value) {
            // Of a lease that runs nothing is sealed yet: what its end and its worst case depend on is found.
            let running = matches!(&lines[line], Line::Lease(lease) if lease.end.is_none());
            let free = ["/lease/lease", "/lease/host", "/lease/partition", "/lease/lender", "/lease/epoch",
                "/lease/recall/asked_at", "/lease/recall/until", "/lease/asked_until", "/lease/started_at",
                "/lease/contract", "/lease/budget"];
            prop_assume!(!(running && free.contains(&path.as_str())));
            lines[line] = changed;
            let (_, findings) = audit(lines);
            prop_assert!(!findings.is_empty(), "{} was changed", path);
        }
    }
}
