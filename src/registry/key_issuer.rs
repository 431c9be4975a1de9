//! Signs the lending keys of this registry, and knows them again. What it signs with changes: hosts hear of a new key
//! before it signs, and of the end of an old one once nothing that it signed is good any more.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    Registry, RegistryError,
    resource_db::{ResourceDb, SigningKey},
};
use crate::{
    api::{
        http::chain,
        problem::{Code, Problem},
        registry::{Issuer, Lease, LeaseGranted},
        secret::Secret,
    },
    clock::Clock,
    domain::{
        id::IssuerId,
        lending_key::{
            self, IssueError, IssuerKeyPair, IssuerPublicKey, KeyClaims, KeyRefusal, KnownPartition,
            NotAnIssuerKey, Operation,
        },
    },
};

/// How often it is looked what there is to sign with.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// For how long after a key has taken over a registry may not have seen it.
const MARGIN: Duration = Duration::from_secs(5);

pub(super) struct KeyIssuer {
    id: IssuerId,
    clock: Arc<Clock>,
    keys: RwLock<Arc<Keys>>,
}

/// All keys there ever were, oldest first.
struct Keys(Vec<Key>);

struct Key {
    public: IssuerPublicKey,
    /// None: it was retired.
    pair: Option<IssuerKeyPair>,
    signs_from: Timestamp,
}

impl KeyIssuer {
    /// The database's signing keys; it gets one when it has none.
    pub(super) async fn load(db: &ResourceDb, clock: Arc<Clock>) -> Result<Self, RegistryError> {
        let fresh = IssuerKeyPair::from_seed(rand::random());
        let id = db.issuer((IssuerId(Uuid::now_v7()), fresh.secret())).await?;
        let keys = Keys::of(db.signing_keys().await?)?;
        Ok(Self { id, clock, keys: RwLock::new(Arc::new(keys)) })
    }

    /// What a host pins first.
    pub(super) fn issuer(&self) -> Result<Issuer, IssueError> {
        let keys = self.keys();
        Ok(Issuer { id: self.id, public_key: keys.signing(self.clock.now())?.public_key().to_string() })
    }

    /// Which keys hosts are to trust, and the number of this answer: of two the one with the higher is the later.
    pub(super) fn trusted(&self) -> (u64, Vec<String>) {
        let keys = self.keys();
        let trusted: Vec<_> = keys.0.iter().filter(|key| key.pair.is_some()).collect();
        // Each key adds one when it is made and one when it is retired.
        let changes = keys.0.len() + (keys.0.len() - trusted.len());
        (changes as u64, trusted.into_iter().map(|key| key.public.to_string()).collect())
    }

    /// The lease with a key to it. Keys are not stored: a lease's claims are the lease's (DESIGN §5).
    pub(super) fn grant(&self, lease: Lease) -> Result<LeaseGranted, IssueError> {
        let claims = KeyClaims {
            issuer: self.id,
            host: lease.host,
            partition: lease.partition,
            lease: lease.id,
            key: lease.key,
            epoch: lease.epoch,
            allocation: lease.terms.allocation.digest(),
            borrower: lease.borrower,
            expires_at: lease.expires_at,
        };
        let key = lending_key::issue(self.keys().signing(self.clock.now())?, &claims, rand::random())?;
        Ok(LeaseGranted { lease, key, allocation_digest: claims.allocation })
    }

    /// Whether `key` is a key of this lease, good for ending it. It is looked at as of the lease's start: whoever ends a
    /// lease that has just expired is told how it ended, not that the key expired.
    pub(super) fn check(&self, key: &Secret, lease: &Lease) -> Result<(), Problem> {
        let ever: Vec<_> = self.keys().0.iter().map(|key| key.public).collect();
        let claims = lending_key::read(key.reveal(), &ever, Operation::Return, lease.started_at)?;
        let known = KnownPartition {
            host: lease.host,
            partition: lease.partition,
            epoch: lease.epoch,
            allocation: lease.terms.allocation.digest(),
        };
        claims.compare(&known)?;
        if claims.lease != lease.id {
            return Err(Problem::new(
                Code::from(&KeyRefusal::EpochPassed),
                "the lending key is of another lease",
            ));
        }
        if claims.key == lease.key { Ok(()) } else { Err(KeyRefusal::Revoked.into()) }
    }

    async fn look_again(&self, db: &ResourceDb) -> Result<(), RegistryError> {
        if self.trusted().1.len() > 1 {
            db.retire_signing_keys(MARGIN).await?;
        }
        let keys = Keys::of(db.signing_keys().await?)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(())
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Keys {
    fn of(stored: Vec<SigningKey>) -> Result<Self, NotAnIssuerKey> {
        let key = |key: SigningKey| {
            let pair = key.secret.as_ref().map(IssuerKeyPair::from_secret).transpose()?;
            Ok(Key { public: key.public_key, pair, signs_from: key.signs_from })
        };
        stored.into_iter().map(key).collect::<Result<_, _>>().map(Self)
    }

    /// The latest whose time has come.
    fn signing(&self, now: Timestamp) -> Result<&IssuerKeyPair, IssueError> {
        let mut ready = self.0.iter().rev().filter(|key| key.signs_from <= now);
        ready.find_map(|key| key.pair.as_ref()).ok_or(IssueError::NoKey)
    }
}

/// Follows the keys in the database, which other processes change as well.
pub(super) async fn run(registry: Arc<Registry>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = registry.shutdown.clone().wait() => return,
        }
        if let Err(error) = registry.issuer.look_again(&registry.db).await {
            tracing::error!(
                error = chain(&error),
                "the signing keys cannot be read: those that are known go on"
            );
        }
    }
}

impl From<IssueError> for Problem {
    fn from(error: IssueError) -> Self {
        Self::internal(&error)
    }
}
