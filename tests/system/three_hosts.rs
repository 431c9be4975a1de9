//! One borrower, several hosts.

use std::{collections::BTreeSet, thread};

use futures::future::join_all;
use sublet::{
    api::{
        agent::{CarvePartition, PartitionState},
        problem::Code,
        registry::LedgerEntry,
    },
    client::AgentClient,
    domain::{id::PartitionId, secret::Secret},
};
use sublet_lab::{Host, HostOptions};

use crate::{
    loan::Loan,
    world::{AN_HOUR, SMALL, shell, world},
};

/// A CPU for its owner and one to lend.
fn small_host() -> HostOptions {
    HostOptions { cpus: 2, memory_mib: 1536, disk_mib: 2048, ..HostOptions::default() }
}

fn offer_at(host: &Host) -> PartitionId {
    let world = world();
    let owner = AgentClient::new(&host.address(), Some(Secret::new(host.owner_token().unwrap()))).unwrap();
    let carve = CarvePartition::of(SMALL);
    let view = world.wait(async {
        let carved = owner.carve(&carve).await.unwrap();
        owner.offer(carved.id).await.unwrap()
    });
    assert_eq!(view.state, PartitionState::Offered);
    view.id
}

/// Leases a partition and opens it at whichever host has it.
fn borrow(partition: PartitionId) -> Loan {
    let world = world();
    let granted = world.wait(world.lease(&world.borrower, partition, AN_HOUR)).unwrap();
    let agent = AgentClient::new(&granted.lease.host_address, Some(granted.key.clone())).unwrap();
    let loan = Loan { agent, granted };
    world.wait(loan.open()).unwrap();
    loan
}

#[test]
fn one_borrower_has_leases_on_three_hosts_at_once_with_separate_keys_jobs_and_bills() {
    let world = world();
    let first = world.offer(SMALL);
    let others: Vec<_> = thread::scope(|scope| {
        let coming = ["host-2", "host-3"].map(|name| scope.spawn(|| world.another_host(name, small_host())));
        coming.into_iter().map(|host| host.join().unwrap()).collect()
    });
    let mut partitions = vec![first.id];
    partitions.extend(others.iter().map(|host| offer_at(&host.0)));
    let loans: Vec<_> = partitions.into_iter().map(borrow).collect();

    let hosts: BTreeSet<_> = loans.iter().map(|loan| loan.granted.lease.host).collect();
    assert_eq!(hosts.len(), 3);
    for (loan, other) in [(0, 1), (1, 2), (2, 0)].map(|(loan, other)| (&loans[loan], &loans[other])) {
        let stranger = AgentClient::new(&other.granted.lease.host_address, Some(loan.granted.key.clone()));
        let stranger = Loan { agent: stranger.unwrap(), granted: other.granted.clone() };
        let refused = world.wait(stranger.submit(shell("debian-micro", "true"))).unwrap_err();
        assert_eq!(refused.code(), Some(Code::KeyForOtherHost));
    }
    let jobs = loans.iter().enumerate().map(async |(number, loan)| {
        let job =
            loan.submit(shell("debian-micro", &format!("echo job {number}; exit {number}"))).await.unwrap();
        loan.follow(job.id).await
    });
    for (number, finished) in world.wait(join_all(jobs)).into_iter().enumerate() {
        assert_eq!(finished.stdout(), format!("job {number}\n"));
    }
    let ended: Vec<_> = loans.iter().map(Loan::end).collect();
    let bills = world.wait(world.borrower.ledger()).unwrap().entries;
    for lease in ended {
        // What an emulated host could not deliver is credited, in an entry of its own.
        let is_bill =
            |bill: &&LedgerEntry| bill.used.is_some() && bill.entry.occasion.lease() == Some(lease.id);
        let bill: Vec<_> = bills.iter().filter(is_bill).collect();
        let (host, charge) = (bill[0].used.as_ref().unwrap().host, -bill[0].entry.legs.borrower.0);
        assert_eq!((bill.len(), host, charge), (1, lease.host, lease.end.unwrap().charge.0));
    }
}
