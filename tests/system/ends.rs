//! The end of a lease, and its bill.

use std::{fs, time::Duration};

use sublet::{
    api::{
        agent::{GuestEnd, GuestState, PartitionState},
        problem::Code,
        registry::{EndReason, LedgerEntry},
    },
    client::RegistryClient,
    domain::{money::Micros, secret::Secret},
};

use crate::world::{AN_HOUR, SMALL, shell, world};

#[test]
fn the_bill_is_the_terms_price_for_each_begun_second_and_the_ledger_says_the_same() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    loan.shell("true").success();
    let lease = loan.end();
    let end = lease.end.clone().unwrap();
    assert_eq!(end.reason, EndReason::Returned);
    let used = end.at.duration_since(lease.started_at);
    let seconds = used.as_secs() + i64::from(used.subsec_nanos() > 0);
    assert_eq!(end.charge, Micros(lease.terms.price.per_hour_micros * seconds / 3600));

    let ledger = world.wait(world.borrower.ledger()).unwrap();
    let of_lease =
        |entry: &&LedgerEntry| entry.used.is_some() && entry.entry.occasion.lease() == Some(lease.id);
    let entry = ledger.entries.iter().find(of_lease).unwrap();
    assert_eq!(entry.entry.legs.borrower.0, -end.charge.0);
    assert!(entry.entry.legs.is_balanced());
}

#[test]
fn a_partition_returned_at_the_host_ends_its_lease_at_the_registry() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    loan.shell("true").success();
    world.wait(loan.agent.give_back(offer.id)).unwrap();
    world.wait_for_partition(offer.id, |view| view.state == PartitionState::Offered);
    let lease = world.wait(world.borrower.lease(loan.granted.lease.id)).unwrap();
    assert_eq!(lease.end.unwrap().reason, EndReason::Returned);
    let refused = world.wait(loan.submit(shell("debian-micro", "true"))).unwrap_err();
    assert!(matches!(refused.code(), Some(Code::KeyEpochPassed | Code::LeaseEnded)), "{refused}");
}

#[test]
fn a_lease_whose_time_is_up_ends_by_itself_and_the_partition_is_on_offer_again() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, Duration::from_secs(5));
    world.wait_for_partition(offer.id, |view| view.state == PartitionState::Offered && view.lease.is_none());
    let lease = world.wait(world.borrower.lease(loan.granted.lease.id)).unwrap();
    let end = lease.end.unwrap();
    assert_eq!((end.reason, end.at), (EndReason::Expired, lease.expires_at));
}

#[test]
fn a_recalled_lease_ends_after_its_notice_at_registry_and_host() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    let token = fs::read_to_string(world.directory.join("alice.token")).unwrap();
    let lender = RegistryClient::new(&world.registry, Some(Secret::new(token.trim()))).unwrap();
    let recalled = world.wait(lender.recall_lease(loan.granted.lease.id)).unwrap();
    let seen = world.wait(world.borrower.lease(recalled.id)).unwrap();
    assert_eq!(seen.recall, recalled.recall, "the borrower sees it at once");
    assert_eq!((seen.expires_at, seen.expires_for), (recalled.recall.unwrap().until, EndReason::Recalled));
    world.wait_for_partition(offer.id, |view| view.state == PartitionState::Offered && view.lease.is_none());
    let end = world.wait(world.borrower.lease(recalled.id)).unwrap().end.unwrap();
    assert_eq!((end.reason, end.at), (EndReason::Recalled, seen.expires_at));
}

#[test]
fn a_lease_ends_announced_and_in_time_however_the_hosts_wall_clock_is_set() {
    let world = world();
    let step = |seconds: i64| world.on_host(&format!("date -s @$(($(date +%s) + {seconds}))"));
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, Duration::from_secs(75));
    world.wait(async {
        let job = loan.submit(shell("debian-micro", "echo begun; tail -f /dev/null")).await.unwrap();
        loan.wait_for_output(job.id, "begun").await;
    });
    step(86_400);
    let running = GuestState::Running { image: "debian-micro".to_owned() };
    assert_eq!(world.wait(loan.agent.partition(offer.id)).unwrap().guest, running);
    step(-2 * 86_400);
    // Its power button was pressed, and it has heeded that.
    let over = GuestState::Off { how: GuestEnd::LeaseEnded };
    world.wait_for_partition(offer.id, |view| view.state == PartitionState::Lent && view.guest == over);
    world.wait_for_partition(offer.id, |view| view.state == PartitionState::Offered && view.lease.is_none());
    step(86_400);
    let lease = world.wait(world.borrower.lease(loan.granted.lease.id)).unwrap();
    let end = lease.end.unwrap();
    assert_eq!((end.reason, end.at), (EndReason::Expired, lease.expires_at));
}
