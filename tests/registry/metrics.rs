//! What is counted: what its description says, and what the ledger holds.

use std::collections::BTreeSet;

use crate::{
    market::{Host, end, lease, terms, wish},
    server::Server,
};

/// Names in a section of the description.
fn described(section: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let (_, after) = text.split_once(&format!("\n## {section}\n")).unwrap();
    let section = after.split("\n## ").next().unwrap();
    let first = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    first.flat_map(|names| names.split(", ")).map(|name| name.trim_matches('`').to_owned()).collect()
}

async fn metrics(server: &Server) -> String {
    let url = format!("{}/metrics", server.address());
    sublet::client::bare().unwrap().get(url).send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn all_that_is_counted_is_described_and_all_that_is_described_is_counted() {
    let server = Server::start();
    let (lender, bob) = (server.lender("alice"), server.borrower("bob"));
    let offer = Host::enrol(&server, &lender).await.offer(terms(1, 3_600_000_000)).await;
    let granted = lease(&bob, &wish(&offer, 600)).await.unwrap();
    let running = metrics(&server).await;
    let held = format!("sublet_ledger_held_micros{{currency=\"EUR\"}} {}", granted.lease.worst_case.0);
    assert!(running.contains(&held), "{running}");
    let charge = end(&bob, &granted).await.unwrap().end.unwrap().charge.0;
    let text = metrics(&server).await;
    let ledger = |side: &str| format!("sublet_ledger_micros{{currency=\"EUR\",side=\"{side}\"}} ");
    for (side, sum) in [("borrowers", -charge), ("lenders", charge), ("fees", 0), ("outside", 0)] {
        assert!(text.contains(&format!("{}{sum}\n", ledger(side))), "{side}: {text}");
    }
    assert!(
        text.contains("sublet_http_requests_total{method=\"POST\",path=\"/v1/leases\",status=\"201\"} 1\n"),
        "{text}"
    );
    let counted = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let counted: BTreeSet<_> = counted.map(str::to_owned).collect();
    assert_eq!(counted, &(&described("All") | &described("Registry and agent")) | &described("Registry"));
}
