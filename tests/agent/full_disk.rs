//! A host whose own disk has no room left: it says so, and nothing that it said is lost.

use std::{fs, path::PathBuf, process::Command};

use sublet::{
    api::{
        agent::{ChangePartition, PartitionView},
        problem::Code,
    },
    client::ClientError,
    domain::money::Price,
};

use crate::server::{Agent, Host, assert_refused, carving, small};

/// Writes until there is no room, in smaller and smaller pieces.
fn fill(file: &PathBuf) {
    let script = "for size in 64k 4k; do dd if=/dev/zero bs=$size >>\"$1\" 2>/dev/null; done; true";
    assert!(Command::new("sh").args(["-c", script, "sh"]).arg(file).status().unwrap().success());
}

/// Another price is one more thing to store.
async fn reprice(
    agent: &Agent,
    carved: &PartitionView,
    per_hour_micros: i64,
) -> Result<PartitionView, ClientError> {
    let price = Price { per_hour_micros, ..carved.terms.price };
    let change = ChangePartition { allocation: None, price: Some(price), new_key: false };
    agent.owner().change(carved.id, &change).await
}

#[tokio::test]
async fn a_full_disk_is_said_and_exactly_what_was_acknowledged_is_kept() {
    let agent = Agent::start_with_little_room(Host::new(), "96m");
    let owner = agent.owner();
    let carved = owner.carve(&carving(small())).await.unwrap();
    let filler = agent.own_state("filler");
    fill(&filler);

    let mut acknowledged = carved.clone();
    let refused = loop {
        match reprice(&agent, &carved, acknowledged.terms.price.per_hour_micros + 1).await {
            Ok(changed) => acknowledged = changed,
            refused => break refused,
        }
    };
    assert_refused(refused, Code::StorageFull);
    assert_eq!(owner.partition(carved.id).await.unwrap(), acknowledged);

    fs::remove_file(&filler).unwrap();
    let changed = reprice(&agent, &carved, 7).await.unwrap();
    assert_eq!(owner.partition(carved.id).await.unwrap(), changed);
}
