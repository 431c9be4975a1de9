//! What is counted: what its description says.

use std::collections::BTreeSet;

use crate::{server::Server, store::Store};

/// Names in a section of the description.
fn described(section: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let (_, after) = text.split_once(&format!("\n## {section}\n")).unwrap();
    let section = after.split("\n## ").next().unwrap();
    let first = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    first.flat_map(|names| names.split(", ")).map(|name| name.trim_matches('`').to_owned()).collect()
}

#[test]
fn all_that_is_counted_is_described_and_all_that_is_described_is_counted() {
    let store = Store::with_kernel();
    let server = Server::start(&store.path());
    let manifest = store.manifest("debian/micro", &store.digest("debian/micro"));
    let layer = &manifest["layers"][0];
    server.get(&format!("/v2/debian/micro/blobs/{}", layer["digest"].as_str().unwrap()));
    assert_eq!(server.metric("sublet_images_sent_bytes_total"), layer["size"]);
    assert_eq!(server.metric("sublet_images_streams"), 0);
    let text = String::from_utf8(server.get("/metrics").body).unwrap();
    let counted = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let counted: BTreeSet<_> = counted.map(str::to_owned).collect();
    assert_eq!(counted, &described("All") | &described("Image server"));
}
