//! Signs the lending keys of this registry, and knows them again.

use uuid::Uuid;

use super::{RegistryError, resource_db::ResourceDb};
use crate::{
    api::{
        problem::{Code, Problem},
        registry::{Issuer, Lease, LeaseGranted},
        secret::Secret,
    },
    domain::{
        id::IssuerId,
        lending_key::{self, IssueError, IssuerKeyPair, KeyClaims, KeyRefusal, KnownPartition},
    },
};

pub(super) struct KeyIssuer {
    id: IssuerId,
    keys: IssuerKeyPair,
}

impl KeyIssuer {
    /// The database's signing key; it gets one when it has none.
    pub(super) async fn load(db: &ResourceDb) -> Result<Self, RegistryError> {
        let fresh = IssuerKeyPair::from_seed(rand::random());
        let (id, secret) = db.issuer((IssuerId(Uuid::now_v7()), fresh.secret())).await?;
        Ok(Self { id, keys: IssuerKeyPair::from_secret(&secret)? })
    }

    /// What a host pins.
    pub(super) fn issuer(&self) -> Issuer {
        Issuer { id: self.id, public_key: self.keys.public_key().to_string() }
    }

    /// The lease with a key to it. Keys are not stored: a lease's claims are the lease's (DESIGN §5).
    pub(super) fn grant(&self, lease: Lease) -> Result<LeaseGranted, IssueError> {
        let claims = KeyClaims {
            issuer: self.id,
            host: lease.host,
            partition: lease.partition,
            lease: lease.id,
            epoch: lease.epoch,
            allocation: lease.terms.allocation.digest(),
            borrower: lease.borrower,
            expires_at: lease.expires_at,
        };
        let key = lending_key::issue(&self.keys, &claims, rand::random())?;
        Ok(LeaseGranted { lease, key, allocation_digest: claims.allocation })
    }

    /// Whether `key` is a key of this lease. It is looked at as of the lease's start: whoever ends a lease that
    /// has just expired is told how it ended, not that the key expired.
    pub(super) fn check(&self, key: &Secret, lease: &Lease) -> Result<(), Problem> {
        let claims = lending_key::read(key.reveal(), &self.keys.public_key(), lease.started_at)?;
        let known = KnownPartition {
            host: lease.host,
            partition: lease.partition,
            epoch: lease.epoch,
            allocation: lease.terms.allocation.digest(),
        };
        claims.compare(&known)?;
        if claims.lease == lease.id {
            Ok(())
        } else {
            Err(Problem::new(Code::from(&KeyRefusal::EpochPassed), "the lending key is of another lease"))
        }
    }
}

impl From<IssueError> for Problem {
    fn from(error: IssueError) -> Self {
        Self::internal(&error)
    }
}
