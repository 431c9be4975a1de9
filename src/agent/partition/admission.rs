//! Who is let in: the key first, and only then the partition's state, so that a stranger with a wrong key learns
//! nothing of it (`docs/adr/0003-a-wrong-key-learns-nothing.md`).

use super::error::PartitionError;
use crate::{
    api::agent::BorrowPartition,
    domain::{
        id::{HostId, PartitionId},
        lending_key::{KeyClaims, KeyRefusal, KnownPartition},
        partition::{NotAllowed, OpenLease, Partition, State},
    },
};

/// What a key claims, if it is one of this partition of this host, whether there is such a partition or not.
pub fn for_partition(
    claims: KeyClaims,
    host: HostId,
    partition: PartitionId,
) -> Result<KeyClaims, KeyRefusal> {
    if claims.host != host {
        return Err(KeyRefusal::OtherHost);
    }
    if claims.partition != partition { Err(KeyRefusal::OtherPartition) } else { Ok(claims) }
}

/// Whether the key opens the partition as it is: of no earlier lease, and for this allocation.
pub fn compare(claims: &KeyClaims, partition: &Partition) -> Result<(), KeyRefusal> {
    claims.compare(&KnownPartition {
        host: claims.host,
        partition: claims.partition,
        epoch: partition.least_epoch,
        allocation: partition.terms.allocation.digest(),
    })
}

/// F5: what the borrower states beside the key is compared too.
pub fn compare_stated(claims: &KeyClaims, stated: &BorrowPartition) -> Result<(), KeyRefusal> {
    if stated.host != claims.host {
        return Err(KeyRefusal::OtherHost);
    }
    if stated.allocation_digest != claims.allocation {
        return Err(KeyRefusal::AllocationMismatch);
    }
    Ok(())
}

/// S53: the key once more, for the lease that is open.
pub fn admit(claims: &KeyClaims, partition: &Partition) -> Result<(), PartitionError> {
    compare(claims, partition)?;
    match &partition.state {
        State::Lent { lease } if lease.lease == claims.lease => Ok(()),
        State::Lent { .. } => Err(NotAllowed::Lent.into()),
        State::Offered { .. } => Err(PartitionError::NotBorrowed),
        State::Carved | State::Withdrawn | State::Released => Err(NotAllowed::NotOffered.into()),
        State::Offering { .. } | State::Withdrawing | State::Scrubbing { .. } => {
            Err(NotAllowed::NotReady.into())
        }
    }
}

/// The lease that a key opens.
pub fn lease_of(claims: &KeyClaims) -> OpenLease {
    OpenLease {
        lease: claims.lease,
        borrower: claims.borrower,
        epoch: claims.epoch,
        expires_at: claims.expires_at,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::{
        agent::partition::table::tests::row,
        domain::{
            id::{BorrowerId, IssuerId, KeyId, LeaseId},
            lending_key::{self, IssuerKeyPair, Operation},
            partition::Event,
            resources::AllocationDigest,
            terms::Epoch,
        },
    };

    const HOST: HostId = HostId(Uuid::from_u128(1));
    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn claims(epoch: u64) -> KeyClaims {
        KeyClaims {
            issuer: IssuerId(Uuid::from_u128(2)),
            host: HOST,
            partition: row(1).id,
            lease: LeaseId(Uuid::from_u128(epoch.into())),
            key: KeyId(Uuid::from_u128(epoch.into())),
            epoch: Epoch(epoch),
            allocation: row(1).partition.terms.allocation.digest(),
            borrower: BorrowerId(Uuid::from_u128(4)),
            expires_at: "2030-01-01T00:00:00Z".parse().unwrap(),
        }
    }

    fn issuer() -> IssuerKeyPair {
        IssuerKeyPair::from_seed([1; 32])
    }

    fn read_by(issuer: &IssuerKeyPair, claims: &KeyClaims, now: Timestamp) -> Result<KeyClaims, KeyRefusal> {
        let key = lending_key::issue(issuer, claims, [3; 32]).unwrap();
        let issuers = [IssuerKeyPair::from_seed([1; 32]).public_key()];
        let claims = lending_key::read(key.reveal(), &issuers, Operation::Jobs, now)?;
        for_partition(claims, HOST, row(1).id)
    }

    fn offered() -> Partition {
        let events = [Event::Offer, Event::Registered(None)];
        events.into_iter().fold(row(1).partition, |p, event| p.apply(event).unwrap().partition)
    }

    fn lent(epoch: u64) -> Partition {
        offered().apply(Event::Open(lease_of(&claims(epoch)))).unwrap().partition
    }

    #[test]
    fn each_way_a_key_is_wrong_has_its_own_refusal() {
        assert_eq!(read_by(&issuer(), &claims(1), NOW).unwrap(), claims(1));
        let stranger = IssuerKeyPair::from_seed([9; 32]);
        assert!(matches!(read_by(&stranger, &claims(1), NOW), Err(KeyRefusal::Invalid(_))));
        let late = claims(1).expires_at;
        assert!(matches!(read_by(&issuer(), &claims(1), late), Err(KeyRefusal::Expired { .. })));
        let other = KeyClaims { host: HostId(Uuid::nil()), ..claims(1) };
        assert!(matches!(read_by(&issuer(), &other, NOW), Err(KeyRefusal::OtherHost)));
        let other = KeyClaims { partition: row(2).id, ..claims(1) };
        assert!(matches!(read_by(&issuer(), &other, NOW), Err(KeyRefusal::OtherPartition)));
    }

    #[test]
    fn what_the_borrower_states_must_be_what_the_key_says() {
        let stated = |host, digest| BorrowPartition { host, allocation_digest: digest };
        let digest = claims(1).allocation;
        assert!(compare_stated(&claims(1), &stated(HOST, digest)).is_ok());
        let other = compare_stated(&claims(1), &stated(HostId(Uuid::nil()), digest));
        assert!(matches!(other, Err(KeyRefusal::OtherHost)));
        let other = compare_stated(&claims(1), &stated(HOST, AllocationDigest([0; 32])));
        assert!(matches!(other, Err(KeyRefusal::AllocationMismatch)));
    }

    #[test]
    fn a_key_is_admitted_for_the_lease_it_has_opened_and_no_other() {
        assert!(admit(&claims(3), &lent(3)).is_ok());
        let earlier = admit(&claims(2), &lent(3));
        assert!(matches!(earlier, Err(PartitionError::Key(KeyRefusal::EpochPassed))));
        let later = admit(&claims(4), &lent(3));
        assert!(matches!(later, Err(PartitionError::NotAllowed(NotAllowed::Lent))));
        assert!(matches!(admit(&claims(3), &offered()), Err(PartitionError::NotBorrowed)));
    }

    #[test]
    fn the_key_of_another_allocation_is_refused_before_the_state_is_looked_at() {
        let other = KeyClaims { allocation: AllocationDigest([0; 32]), ..claims(3) };
        let refusal = admit(&other, &row(1).partition);
        assert!(matches!(refusal, Err(PartitionError::Key(KeyRefusal::AllocationMismatch))));
    }
}
