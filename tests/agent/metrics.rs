//! What is counted: what its description says.

use std::collections::BTreeSet;

use crate::server::{Agent, carving, small};

/// Names in a section of the description.
fn described(section: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let (_, after) = text.split_once(&format!("\n## {section}\n")).unwrap();
    let section = after.split("\n## ").next().unwrap();
    let first = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    first.flat_map(|names| names.split(", ")).map(|name| name.trim_matches('`').to_owned()).collect()
}

#[tokio::test]
async fn all_that_is_counted_is_described_and_all_that_is_described_is_counted() {
    let agent = Agent::start();
    agent.owner().carve(&carving(small())).await.unwrap();
    let url = format!("{}/metrics", agent.address);
    let text = sublet::client::bare().unwrap().get(url).send().await.unwrap().text().await.unwrap();
    assert!(
        text.contains(
            "sublet_http_requests_total{method=\"POST\",path=\"/v1/partitions\",status=\"201\"} 1\n"
        ),
        "{text}"
    );
    assert!(text.contains("sublet_partitions{state=\"carved\"} 1\n"), "{text}");
    let counted = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let counted: BTreeSet<_> = counted.map(str::to_owned).collect();
    assert_eq!(counted, &(&described("All") | &described("Registry and agent")) | &described("Agent"));
}
