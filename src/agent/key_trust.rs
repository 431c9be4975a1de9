//! Which lending keys open this host's partitions: whose, and which of those no longer. The registry says so with each
//! heartbeat's answer; the host keeps it, so that it judges keys without calling home.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::identity::{self, IdentityError};
use crate::{
    api::registry::KeyRules,
    domain::{
        id::KeyId,
        lending_key::{self, IssuerPublicKey, KeyClaims, KeyRefusal, NotAnIssuerKey, Operation},
        secret::Secret,
    },
};

#[derive(Debug, Error)]
pub enum KeyTrustError {
    #[error(transparent)]
    File(#[from] IdentityError),
    #[error("an issuer's key cannot be read")]
    Key(#[from] NotAnIssuerKey),
}

/// What the host goes by; it survives the agent.
#[derive(Debug)]
pub struct KeyTrust {
    path: PathBuf,
    /// Signs keys for the owner's own partitions, whoever else is trusted.
    own: IssuerPublicKey,
    trusted: RwLock<Arc<Trusted>>,
    /// One at a time changes what is trusted.
    learning: Mutex<()>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Trusted {
    /// Grows with each change of the issuers: an answer that was overtaken changes nothing.
    generation: u64,
    issuers: Vec<IssuerPublicKey>,
    /// Until when each is to be remembered: by then it has expired.
    revoked: BTreeMap<KeyId, Timestamp>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    generation: u64,
    issuers: Vec<String>,
    revoked: BTreeMap<KeyId, Timestamp>,
}

impl KeyTrust {
    /// As it was learnt last; at first only `issuer` is trusted.
    pub fn load(
        state_directory: &Path,
        issuer: IssuerPublicKey,
        own: IssuerPublicKey,
    ) -> Result<Self, KeyTrustError> {
        let path = state_directory.join("key-trust.json");
        let trusted = match identity::read::<Stored>(&path)? {
            Some(stored) => Trusted {
                generation: stored.generation,
                issuers: parse(&stored.issuers)?,
                revoked: stored.revoked,
            },
            None => Trusted { generation: 0, issuers: vec![issuer], revoked: BTreeMap::new() },
        };
        Ok(Self { path, own, trusted: RwLock::new(Arc::new(trusted)), learning: Mutex::new(()) })
    }

    /// What a key claims that is trusted, has not expired and allows `operation`.
    pub fn read(&self, key: &Secret, operation: Operation, now: Timestamp) -> Result<KeyClaims, KeyRefusal> {
        let trusted = self.now_trusted();
        let claims = lending_key::read(key.reveal(), &trusted.issuers, operation, now)?;
        if trusted.revoked.contains_key(&claims.key) { Err(KeyRefusal::Revoked) } else { Ok(claims) }
    }

    /// What a key claims that the host itself has issued: such a key opens the owner's own partitions.
    pub fn read_own(
        &self,
        key: &Secret,
        operation: Operation,
        now: Timestamp,
    ) -> Result<KeyClaims, KeyRefusal> {
        lending_key::read(key.reveal(), &[self.own], operation, now)
    }

    /// Whether a key that was read before has been revoked since.
    pub fn is_revoked(&self, key: KeyId) -> bool {
        self.now_trusted().revoked.contains_key(&key)
    }

    /// What the registry has said; kept before it counts. What is revoked stays so until it has expired at `now`.
    pub fn learn(&self, rules: &KeyRules, now: Timestamp) -> Result<(), KeyTrustError> {
        let _one = self.learning.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.now_trusted();
        let mut after = Trusted::clone(&before);
        if rules.generation >= before.generation && !rules.issuers.is_empty() {
            after.generation = rules.generation;
            after.issuers = parse(&rules.issuers)?;
        }
        after.revoked.extend(rules.revoked.iter().map(|revoked| (revoked.key, revoked.until)));
        after.revoked.retain(|_, until| *until > now);
        if after == *before {
            return Ok(());
        }
        let stored = Stored {
            generation: after.generation,
            issuers: after.issuers.iter().map(IssuerPublicKey::to_string).collect(),
            revoked: after.revoked.clone(),
        };
        identity::write(&self.path, &stored)?;
        *self.trusted.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        Ok(())
    }

    fn now_trusted(&self) -> Arc<Trusted> {
        Arc::clone(&self.trusted.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn parse(issuers: &[String]) -> Result<Vec<IssuerPublicKey>, NotAnIssuerKey> {
    issuers.iter().map(|issuer| issuer.parse()).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        api::registry::RevokedKey,
        domain::{
            id::{BorrowerId, HostId, IssuerId, LeaseId, PartitionId},
            lending_key::{IssuerKeyPair, issue},
            resources::AllocationDigest,
            terms::Epoch,
        },
    };

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn later() -> Timestamp {
        "2030-01-01T00:00:00Z".parse().unwrap()
    }

    fn issuer(number: u8) -> IssuerKeyPair {
        IssuerKeyPair::from_seed([number; 32])
    }

    fn key(issuer: &IssuerKeyPair, key: u128) -> Secret {
        let claims = KeyClaims {
            issuer: IssuerId(Uuid::nil()),
            host: HostId(Uuid::nil()),
            partition: PartitionId(Uuid::nil()),
            lease: LeaseId(Uuid::nil()),
            key: KeyId(Uuid::from_u128(key)),
            epoch: Epoch(1),
            allocation: AllocationDigest([0; 32]),
            borrower: BorrowerId(Uuid::nil()),
            expires_at: later(),
        };
        issue(issuer, &claims, [9; 32]).unwrap()
    }

    fn rules(generation: u64, issuers: &[&IssuerKeyPair]) -> KeyRules {
        let issuers = issuers.iter().map(|issuer| issuer.public_key().to_string()).collect();
        KeyRules { generation, issuers, revoked: Vec::new() }
    }

    fn load(directory: &tempfile::TempDir) -> KeyTrust {
        KeyTrust::load(directory.path(), issuer(1).public_key(), issuer(7).public_key()).unwrap()
    }

    fn opens(trust: &KeyTrust, key: &Secret) -> bool {
        trust.read(key, Operation::Jobs, NOW).is_ok()
    }

    #[test]
    fn a_key_signed_by_a_retired_key_is_never_accepted_again() {
        let directory = tempfile::tempdir().unwrap();
        let trust = load(&directory);
        let (old, new) = (key(&issuer(1), 1), key(&issuer(2), 2));
        assert!(opens(&trust, &old) && !opens(&trust, &new));
        trust.learn(&rules(1, &[&issuer(1), &issuer(2)]), NOW).unwrap();
        assert!(opens(&trust, &old) && opens(&trust, &new), "they overlap");
        trust.learn(&rules(2, &[&issuer(2)]), NOW).unwrap();
        assert!(!opens(&trust, &old) && opens(&trust, &new));
        trust.learn(&rules(1, &[&issuer(1), &issuer(2)]), NOW).unwrap();
        assert!(!opens(&trust, &old), "an answer that was overtaken");
        assert!(!opens(&load(&directory), &old), "and the agent was restarted");
    }

    #[test]
    fn a_revoked_key_is_refused_until_it_has_expired_whatever_is_said_later() {
        let directory = tempfile::tempdir().unwrap();
        let trust = load(&directory);
        let (one, other) = (key(&issuer(1), 1), key(&issuer(1), 2));
        let revoked = vec![RevokedKey { key: KeyId(Uuid::from_u128(1)), until: later() }];
        trust.learn(&KeyRules { revoked, ..rules(0, &[]) }, NOW).unwrap();
        trust.learn(&rules(0, &[]), NOW).unwrap();
        for trust in [trust, load(&directory)] {
            assert!(matches!(trust.read(&one, Operation::Look, NOW), Err(KeyRefusal::Revoked)));
            assert!(opens(&trust, &other));
            trust.learn(&rules(0, &[]), later()).unwrap();
            assert!(!trust.is_revoked(KeyId(Uuid::from_u128(1))), "by then it has expired");
        }
    }

    #[test]
    fn the_hosts_own_keys_are_told_from_those_of_whom_it_trusts() {
        let directory = tempfile::tempdir().unwrap();
        let trust = load(&directory);
        let (own, registrys) = (key(&issuer(7), 1), key(&issuer(1), 2));
        assert!(!opens(&trust, &own) && trust.read_own(&own, Operation::Jobs, NOW).is_ok());
        assert!(opens(&trust, &registrys) && trust.read_own(&registrys, Operation::Jobs, NOW).is_err());
    }

    #[test]
    fn an_answer_without_issuers_leaves_them_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let trust = load(&directory);
        trust.learn(&KeyRules::default(), NOW).unwrap();
        assert!(opens(&trust, &key(&issuer(1), 1)));
    }
}
