//! What must be refused, with a stable code and nothing changed.

use sublet::{
    api::{
        agent::{BorrowPartition, CarvePartition, ChangePartition, PartitionState},
        problem::Code,
    },
    client::{ClientError, RegistryClient},
    domain::{id::HostId, resources::Allocation, secret::Secret},
};
use uuid::Uuid;

use crate::world::{AN_HOUR, SMALL, shell, world};

fn code<T>(refused: Result<T, ClientError>) -> Option<Code> {
    refused.err().and_then(|error| error.code())
}

#[test]
fn a_lent_partition_is_neither_lent_again_nor_changed_nor_withdrawn() {
    let world = world();
    let offer = world.offer(SMALL);
    let carol = std::fs::read_to_string(world.token("borrower", "carol")).unwrap();
    let carol = RegistryClient::new(&world.registry, Some(Secret::new(carol.trim()))).unwrap();
    let shown = world.wait(world.shown(&carol, offer.id));
    let loan = world.borrow(offer.id, AN_HOUR);
    let owner = world.owner();
    let before = world.wait(owner.partition(offer.id)).unwrap();

    let wish = sublet::api::registry::MakeLease {
        host: shown.host,
        partition: shown.partition,
        terms_version: shown.terms_version,
        duration_seconds: 60,
        budget: None,
    };
    let second = carol.make_lease(sublet::client::LeaseRequestId(Uuid::now_v7()), &wish);
    assert_eq!(code(world.wait(second)), Some(Code::AlreadyLent));
    let allocation = Some(Allocation { memory_mib: 512, ..SMALL });
    let bigger = ChangePartition { allocation, price: None, new_key: false };
    assert_eq!(code(world.wait(owner.change(offer.id, &bigger))), Some(Code::PartitionFrozen));
    assert_eq!(code(world.wait(owner.withdraw(offer.id))), Some(Code::PartitionFrozen));
    assert_eq!(code(world.wait(owner.release(offer.id))), Some(Code::PartitionFrozen));
    assert_eq!(world.wait(owner.partition(offer.id)).unwrap(), before);
    loan.end();
}

#[test]
fn a_key_opens_its_own_partition_and_no_other() {
    let world = world();
    let (mine, other) = (world.offer(SMALL), world.offer(SMALL));
    let loan = world.borrow(mine.id, AN_HOUR);
    let exchange =
        BorrowPartition { host: loan.granted.lease.host, allocation_digest: loan.granted.allocation_digest };
    let elsewhere = BorrowPartition { host: HostId(Uuid::nil()), ..exchange.clone() };
    let digest = Allocation { cpus: 2, ..SMALL }.digest();
    let misread = BorrowPartition { allocation_digest: digest, ..exchange.clone() };
    let stranger = world.agent_with(&Secret::new("not a key"));

    assert_eq!(code(world.wait(loan.agent.borrow(other.id, &exchange))), Some(Code::KeyForOtherPartition));
    assert_eq!(code(world.wait(loan.agent.borrow(mine.id, &elsewhere))), Some(Code::KeyForOtherHost));
    assert_eq!(code(world.wait(loan.agent.borrow(mine.id, &misread))), Some(Code::KeyAllocationMismatch));
    assert_eq!(code(world.wait(stranger.borrow(mine.id, &exchange))), Some(Code::KeyInvalid));
    assert_eq!(code(world.wait(stranger.partition(mine.id))), Some(Code::KeyInvalid));
    assert_eq!(world.wait(world.owner().partition(other.id)).unwrap().state, PartitionState::Offered);
    loan.end();
}

#[test]
fn an_unknown_os_and_an_allocation_larger_than_the_host_are_refused_by_name() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    let unknown = world.wait(loan.submit(shell("plan9", "true"))).unwrap_err();
    assert_eq!(unknown.code(), Some(Code::UnknownOsImage));
    assert!(unknown.to_string().contains("plan9"), "{unknown}");
    let path = world.wait(loan.submit(shell("../../etc", "true"))).unwrap_err();
    assert_eq!(path.code(), Some(Code::UnknownOsImage));

    let huge = CarvePartition::of(Allocation { cpus: 32, ..SMALL });
    let before = world.wait(world.owner().host()).unwrap().free;
    assert_eq!(code(world.wait(world.owner().carve(&huge))), Some(Code::InsufficientResources));
    assert_eq!(world.wait(world.owner().host()).unwrap().free, before);
    loan.end();
}
