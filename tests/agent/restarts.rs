//! What outlives the agent's process.

use std::fs;

use sublet::api::problem::Code;

use crate::server::{Agent, Host, assert_refused, carving, small};

#[tokio::test]
async fn a_partition_outlives_an_agent_that_is_killed() {
    let agent = Agent::start();
    let (host, carved) =
        (agent.owner().host().await.unwrap().host, agent.owner().carve(&carving(small())).await);
    let carved = carved.unwrap();
    let again = Agent::start_on(agent.kill());
    assert_eq!(again.owner().host().await.unwrap().host, host);
    assert_eq!(again.owner().partition(carved.id).await.unwrap(), carved);
    let free = again.owner().host().await.unwrap().free;
    assert_refused(
        again.owner().carve(&carving(small_but(free.cpus + 1))).await,
        Code::InsufficientResources,
    );
}

fn small_but(cpus: u32) -> sublet::domain::resources::Allocation {
    sublet::domain::resources::Allocation { cpus, ..small() }
}

#[tokio::test]
async fn what_a_carving_that_was_cut_off_left_behind_is_swept_away() {
    let host = Agent::start().kill();
    let left = host.state("partitions/00000000-0000-0000-0000-000000000001");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("disk"), b"left").unwrap();
    let _agent = Agent::start_on(host);
    assert!(!left.exists());
}

#[test]
fn a_second_agent_on_the_same_state_is_refused() {
    let agent = Agent::start();
    let second = agent.host.run(&[]);
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success() && said.contains("another agent uses the state directory"), "{said}");
}

#[test]
fn a_configuration_is_checked_without_starting_anything() {
    let host = Host::new();
    assert!(host.run(&["--check"]).status.success());
    assert!(!host.state("").exists());
    let text = fs::read_to_string(host.config()).unwrap();
    fs::write(host.config(), text.replace("memory_mib = 128", "memory_mib = 999999999")).unwrap();
    let refused = host.run(&["--check"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("reserve.memory_mib: the host has only"), "{said}");
}
