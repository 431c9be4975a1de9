//! A registered partition is changed: the registry first, then the host (F7, fig. 7).

use std::{
    thread,
    time::{Duration, Instant},
};

use sublet::{
    api::{
        agent::{ChangePartition, PartitionState},
        problem::Code,
        registry::MakeLease,
    },
    client::LeaseRequestId,
    domain::{money::Price, resources::Allocation},
};
use sublet_lab::AgentAction;
use uuid::Uuid;

use crate::world::{AN_HOUR, PATIENCE, SMALL, world};

/// Kills of the agent, each so much later into a change than the one before.
const KILLS: u32 = 6;
const LATER: Duration = Duration::from_millis(60);

#[test]
fn a_free_offer_is_changed_at_registry_and_host_and_lent_on_its_new_terms_alone() {
    let world = world();
    let offer = world.offer(SMALL);
    let before = world.wait(world.shown(&world.borrower, offer.id));
    let allocation = Allocation { memory_mib: 512, ..SMALL };
    let price = Price {
        per_hour_micros: before.terms.price.per_hour_micros + 1,
        currency: before.terms.price.currency,
    };
    let change = ChangePartition { allocation: Some(allocation), price: Some(price), new_key: false };
    let changed = world.wait(world.owner().change(offer.id, &change)).unwrap();

    let after = world.wait(world.shown(&world.borrower, offer.id));
    assert_eq!((after.terms.allocation, after.terms.price), (allocation, price));
    assert_eq!(after.terms, changed.terms);
    assert!(after.terms_version > before.terms_version);

    let old_terms = MakeLease {
        host: before.host,
        partition: before.partition,
        terms_version: before.terms_version,
        duration_seconds: 60,
        budget: None,
    };
    let refused = world.wait(world.borrower.make_lease(LeaseRequestId(Uuid::now_v7()), &old_terms));
    assert_eq!(refused.unwrap_err().code(), Some(Code::TermsChanged));

    let loan = world.borrow(offer.id, AN_HOUR);
    assert_eq!(loan.granted.lease.terms.price, price);
    let memory = loan.shell("awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo").success();
    let memory_mib: u64 = memory.trim().parse().unwrap();
    assert!((SMALL.memory_mib..=allocation.memory_mib).contains(&memory_mib), "{memory_mib} MiB");
    loan.end();
}

#[test]
fn registry_and_host_make_a_change_both_or_neither_though_the_agent_is_killed_in_the_middle_of_it() {
    let world = world();
    let offer = world.offer(SMALL);
    let (mut made, mut terms) = (0, world.wait(world.shown(&world.borrower, offer.id)).terms);
    for kill in 0..KILLS {
        let memory_mib = SMALL.memory_mib + 64 * u64::from(1 + kill);
        let change = ChangePartition {
            allocation: Some(Allocation { memory_mib, ..SMALL }),
            price: Some(Price { per_hour_micros: terms.price.per_hour_micros + 1, ..terms.price }),
            new_key: kill % 2 == 1,
        };
        let owner = world.owner();
        thread::scope(|scope| {
            // What it is answered, if anything, is not known to the dead.
            scope.spawn(|| drop(world.wait(owner.change(offer.id, &change))));
            thread::sleep(LATER * kill);
            world.lab_host.agent(AgentAction::Kill).unwrap();
        });
        world.lab_host.agent(AgentAction::Start).unwrap();
        world.lab_host.wait_for_agent().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let after = loop {
            let host = world.wait_for_partition(offer.id, |view| view.state == PartitionState::Offered);
            let registry = world.wait(world.shown(&world.borrower, offer.id));
            if host.terms == registry.terms {
                break host.terms;
            }
            assert!(Instant::now() < deadline, "they do not agree: {host:?} {registry:?}");
        };
        let wanted = (change.allocation.unwrap(), change.price.unwrap());
        let is = (after.allocation, after.price);
        assert!(is == wanted || is == (terms.allocation, terms.price), "half of it is made: {after:?}");
        made += u32::from(is == wanted);
        terms = after;
    }
    println!("{made} of {KILLS} changes were made");
    let loan = world.borrow(offer.id, AN_HOUR);
    assert_eq!(loan.granted.lease.terms, terms);
    assert_eq!(loan.shell("echo alive").success(), "alive\n");
    loan.end();
}
