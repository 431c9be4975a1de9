//! A registered partition is changed: the registry first, then the host (F7, fig. 7).

use sublet::{
    api::{agent::ChangePartition, problem::Code, registry::MakeLease},
    client::LeaseRequestId,
    domain::{money::Price, resources::Allocation},
};
use uuid::Uuid;

use crate::world::{AN_HOUR, SMALL, world};

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
