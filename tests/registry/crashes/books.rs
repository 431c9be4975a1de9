//! What the registry's books say, over HTTP, against what was heard from it.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Url;
use serde::de::DeserializeOwned;
use sublet::{
    api::{
        registry::{Lease, LeaseGranted, Leases, Ledger, LedgerEntry},
        secret::Secret,
    },
    client::bare,
    domain::{
        id::LeaseId,
        ledger::{Billing, audit::Auditor, entry::Legs},
        money::Price,
    },
};

use super::parties::{BorrowerDiary, Heard, HostDiary};
use crate::{market::end_of, server::Server};

/// Ends what still runs, and compares.
pub(super) async fn compare(server: &Server, heard: Heard) {
    let mut all = Vec::new();
    let mut charges = Vec::new();
    for (token, diary) in &heard.borrowers {
        end_all(server, token, diary).await;
        let leases = leases(server, token).await;
        assert_told(diary, &leases);
        charges.extend(ledger(server, token).await);
        all.extend(leases);
    }
    for (_, _, diary) in &heard.hosts {
        assert_ended(diary, &all);
    }
    println!("{} leases were acknowledged", all.len());
    assert!(!all.is_empty());
    assert_one_lease_at_a_time(&all);
    assert_settled(&all, charges, ledger(server, &heard.lender).await);
    assert_audited(server);
}

/// Page by page.
async fn list<P: DeserializeOwned, T>(
    server: &Server,
    token: &Secret,
    path: &str,
    part: impl Fn(P) -> (Vec<T>, Option<String>),
) -> Vec<T> {
    let mut url: Url = format!("{}{path}?limit=1000", server.address()).parse().unwrap();
    let mut read = Vec::new();
    loop {
        let answer = bare().unwrap().get(url.clone()).bearer_auth(token.reveal()).send().await.unwrap();
        let (rows, next) = part(answer.error_for_status().unwrap().json().await.unwrap());
        read.extend(rows);
        let Some(next) = next else { return read };
        url.set_query(Some(&format!("limit=1000&cursor={next}")));
    }
}

async fn leases(server: &Server, token: &Secret) -> Vec<Lease> {
    list(server, token, "/v1/leases", |page: Leases| (page.leases, page.next_cursor)).await
}

async fn ledger(server: &Server, token: &Secret) -> Vec<LedgerEntry> {
    list(server, token, "/v1/ledger", |page: Ledger| (page.entries, page.next_cursor)).await
}

async fn end_all(server: &Server, token: &Secret, diary: &BorrowerDiary) {
    let client = server.client(token.clone());
    for (lease, granted) in diary.granted.iter().filter(|(lease, _)| !diary.ended.contains_key(*lease)) {
        client.end_lease(*lease, &end_of(granted)).await.expect("an acknowledged key ends its lease");
    }
}

/// Law 6 for leases: all of them, as they were told, and none that nobody was told of.
fn assert_told(diary: &BorrowerDiary, leases: &[Lease]) {
    let known: BTreeMap<LeaseId, &Lease> = leases.iter().map(|lease| (lease.id, lease)).collect();
    assert_eq!(known.len(), leases.len(), "a lease is listed twice");
    let (told, kept): (BTreeSet<_>, BTreeSet<_>) = (diary.granted.keys().collect(), known.keys().collect());
    assert_eq!(told, kept, "acknowledged, and there");
    for (id, LeaseGranted { lease, .. }) in &diary.granted {
        let now = Lease { end: lease.end.clone(), ..known[id].clone() };
        assert_eq!(now, *lease, "a lease changed");
    }
    for (id, ended) in &diary.ended {
        assert_eq!(known[id], ended, "an end changed");
    }
}

/// Law 6 for what hosts said. Who came first, the host or somebody else, gave the reason.
fn assert_ended(diary: &HostDiary, leases: &[Lease]) {
    for lease in diary.ended.keys() {
        let kept = leases.iter().find(|kept| kept.id == *lease);
        assert!(kept.is_some_and(|kept| kept.end.is_some()), "an end that a host was thanked for is lost");
    }
}

/// Law 1, and law 4: of a partition's leases one began after the other's end, with a key of its own.
fn assert_one_lease_at_a_time(leases: &[Lease]) {
    let mut of_partition: BTreeMap<_, Vec<&Lease>> = BTreeMap::new();
    leases.iter().for_each(|lease| of_partition.entry(lease.partition).or_default().push(lease));
    for leases in of_partition.values_mut() {
        leases.sort_by_key(|lease| lease.epoch);
        for pair in leases.windows(2) {
            let ended = pair[0].end.as_ref().expect("all have ended").at;
            assert!(pair[0].epoch < pair[1].epoch && ended <= pair[1].started_at, "laws 1 and 4: {pair:?}");
        }
    }
}

/// Laws 6 and 7: each lease is paid for once, by one and to the other.
fn assert_settled(leases: &[Lease], mut charges: Vec<LedgerEntry>, mut payments: Vec<LedgerEntry>) {
    charges.sort_by_key(|charge| charge.entry.id);
    payments.sort_by_key(|payment| payment.entry.id);
    assert_eq!(charges, payments, "both sides see the same bill");
    let settled: BTreeSet<_> = charges.iter().filter_map(|charge| charge.entry.occasion.lease()).collect();
    let made: BTreeSet<_> = leases.iter().map(|lease| lease.id).collect();
    assert_eq!((charges.len(), settled), (leases.len(), made), "each lease is settled, and once");
    for LedgerEntry { entry, used } in &charges {
        let used = used.as_ref().expect("nothing but leases is booked");
        let bill = Billing {
            started_at: used.started_at,
            ended_at: used.ended_at,
            price: Price { per_hour_micros: used.per_hour_micros, currency: entry.currency },
            rounding: used.rounding,
            fee_rate: used.fee_millionths,
        };
        assert_eq!(Legs::of_lease(&bill.settle()), entry.legs);
        assert!(entry.legs.is_balanced(), "law 7");
    }
    let told: i64 = leases.iter().filter_map(|lease| lease.end.as_ref()).map(|end| end.charge.0).sum();
    assert_eq!(told, -charges.iter().map(|charge| charge.entry.legs.borrower.0).sum::<i64>(), "law 7");
}

/// Balances and what is held are what entries and leases give, too.
pub(super) fn assert_audited(server: &Server) {
    let export = server.database().beside("export.jsonl");
    let output = server.database().run(&["export", export.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let mut auditor = Auditor::default();
    let text = std::fs::read_to_string(export).unwrap();
    text.lines().for_each(|line| auditor.read(serde_json::from_str(line).unwrap()));
    assert_eq!(auditor.finish().1, []);
}
