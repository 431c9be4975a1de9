//! What an owner sets aside, changes and takes back.

use std::{fs, os::unix::fs::MetadataExt};

use serde_json::json;
use sublet::{
    api::{
        agent::{ChangePartition, GuestState, IssueKey, PartitionState},
        problem::Code,
    },
    domain::{
        money::Price,
        resources::{Allocation, DISK_MAX_MIB},
    },
};
use sublet_vmm_protocol::config::layered_file_bytes;

use crate::server::{Agent, assert_refused, carving, small};

#[tokio::test]
async fn a_partition_is_carved_shown_changed_and_released_and_nothing_leaks() {
    let agent = Agent::start();
    let owner = agent.owner();
    let before = owner.host().await.unwrap().free;
    let carved = owner.carve(&carving(small())).await.unwrap();
    assert_eq!((carved.state, carved.guest.clone()), (PartitionState::Carved, GuestState::Absent));
    assert_eq!(carved.terms.allocation, small());
    assert_eq!(u32::try_from(carved.host_cpus.len()).unwrap(), small().cpus);
    assert!(!carved.host_cpus.contains(&0));
    assert_eq!(owner.partitions().await.unwrap().partitions, std::slice::from_ref(&carved));

    let disk = fs::metadata(agent.host.state(&format!("partitions/{}/disk", carved.id))).unwrap();
    let bytes = layered_file_bytes(2 << 20);
    assert_eq!((disk.len(), disk.blocks() * 512), (bytes, bytes), "the disk is allocated in full");
    let free = owner.host().await.unwrap().free;
    assert_eq!(free.cpus, before.cpus - small().cpus);
    assert!(free.memory_mib <= before.memory_mib - small().memory_mib);

    let price = Price { per_hour_micros: 7, currency: "USD".parse().unwrap() };
    let wanted = Allocation { memory_mib: 128, disk_mib: 5, ..small() };
    let change = ChangePartition { allocation: Some(wanted), price: Some(price), new_key: false };
    let changed = owner.change(carved.id, &change).await.unwrap();
    assert_eq!((changed.terms.allocation, changed.terms.price), (wanted, price));
    let disk = fs::metadata(agent.host.state(&format!("partitions/{}/disk", carved.id))).unwrap();
    assert_eq!(disk.len(), layered_file_bytes(5 << 20));

    owner.release(carved.id).await.unwrap();
    assert_refused(owner.partition(carved.id).await, Code::NotFound);
    let after = owner.host().await.unwrap().free;
    assert_eq!((after.cpus, after.memory_mib), (before.cpus, before.memory_mib));
    assert!(!agent.host.state(&format!("partitions/{}", carved.id)).exists());
}

#[tokio::test]
async fn the_price_is_that_of_the_list_where_none_is_stated() {
    let agent = Agent::start();
    let carved = agent.owner().carve(&carving(small())).await.unwrap();
    let by_list = i64::from(small().cpus) * 20_000 + 64 * 5_000 / 1024;
    assert_eq!(carved.terms.price.per_hour_micros, by_list);
}

#[tokio::test]
async fn more_than_the_host_has_is_refused_and_nothing_is_taken() {
    let agent = Agent::start();
    let owner = agent.owner();
    let before = owner.host().await.unwrap().free;
    for huge in [
        Allocation { cpus: 32, ..small() },
        Allocation { memory_mib: 256 * 1024, ..small() },
        Allocation { disk_mib: DISK_MAX_MIB, ..small() },
    ] {
        assert_refused(owner.carve(&carving(huge)).await, Code::InsufficientResources);
    }
    let after = owner.host().await.unwrap().free;
    assert_eq!((after.cpus, after.memory_mib), (before.cpus, before.memory_mib));
    assert_eq!(owner.partitions().await.unwrap().partitions, []);
    let left = fs::read_dir(agent.host.state("partitions")).unwrap().count();
    assert_eq!(left, 0, "no directory is left behind");
}

#[tokio::test]
async fn a_change_that_does_not_fit_changes_nothing() {
    let agent = Agent::start();
    let owner = agent.owner();
    let carved = owner.carve(&carving(small())).await.unwrap();
    let huge = Allocation { disk_mib: DISK_MAX_MIB, ..small() };
    let change = ChangePartition { allocation: Some(huge), price: None, new_key: false };
    assert_refused(owner.change(carved.id, &change).await, Code::InsufficientResources);
    assert_eq!(owner.partition(carved.id).await.unwrap(), carved);
}

#[tokio::test]
async fn a_repeated_carving_is_the_same_partition() {
    let agent = Agent::start();
    let carve = async |memory_mib: u64| {
        let allocation = Allocation { memory_mib, ..small() };
        let answer = sublet::client::bare()
            .unwrap()
            .post(format!("{}/v1/partitions", agent.address))
            .bearer_auth(agent.owner_token())
            .header("Idempotency-Key", "k1")
            .json(&json!({ "allocation": allocation }))
            .send();
        let answer = answer.await.unwrap();
        (answer.status().as_u16(), answer.json::<serde_json::Value>().await.unwrap())
    };
    let (first, again) = (carve(64).await, carve(64).await);
    assert_eq!((first.0, &first), (201, &again));
    let other = carve(65).await;
    assert_eq!((other.0, &other.1["code"]), (422, &json!("idempotency_key_reused")));
    assert_eq!(agent.owner().partitions().await.unwrap().partitions.len(), 1);
}

#[tokio::test]
async fn an_offer_without_a_working_vmm_fails_and_leaves_the_partition_as_it_was() {
    let agent = Agent::start();
    let owner = agent.owner();
    let carved = owner.carve(&carving(small())).await.unwrap();
    for _ in 0..2 {
        assert_refused(owner.offer(carved.id).await, Code::GuestFailed);
        assert_eq!(owner.partition(carved.id).await.unwrap(), carved);
    }
}

#[tokio::test]
async fn what_is_not_on_offer_is_neither_withdrawn_nor_given_a_key() {
    let agent = Agent::start();
    let owner = agent.owner();
    let carved = owner.carve(&carving(small())).await.unwrap();
    assert_refused(owner.withdraw(carved.id).await, Code::PartitionNotOffered);
    let key = IssueKey { duration_seconds: 60 };
    assert_refused(owner.issue_key(carved.id, &key).await, Code::PartitionNotOffered);
    for duration_seconds in [0, u64::MAX] {
        let key = IssueKey { duration_seconds };
        assert_refused(owner.issue_key(carved.id, &key).await, Code::InvalidRequest);
    }
}
