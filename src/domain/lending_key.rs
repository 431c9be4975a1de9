//! The lending key: patent (44), (104). A Biscuit whose authority block holds one fact, signed by its issuer
//! (Ed25519); DESIGN §5.
//!
//! ```text
//! lending_key(issuer, host, partition, lease, key, epoch, allocation digest, borrower, expires_at)
//! ```
//!
//! Whoever holds a key can narrow it offline by appending blocks ([`restrict`]), and can put anything into them. So only the
//! authority block's fact counts, and a later block may hold nothing but checks of bounded cost: no facts, no
//! rules, no third party's signature, no regular expressions, no closures. What Biscuit bounds by itself it
//! bounds between two rules, not within one.

use std::{fmt, str::FromStr, time::Duration};

use biscuit_auth::{
    Algorithm, Authorizer, AuthorizerBuilder, AuthorizerLimits, Biscuit, KeyPair, PrivateKey, PublicKey,
    builder::{Binary, Check, Fact, Op, Rule, Term},
    datalog::SymbolTable,
    error::Token as BiscuitError,
};
use jiff::Timestamp;
use thiserror::Error;
use uuid::Uuid;

use super::{
    id::{BorrowerId, HostId, IssuerId, KeyId, LeaseId, PartitionId},
    resources::AllocationDigest,
    secret::Secret,
    terms::Epoch,
};

/// Longest key that is looked at, in characters.
pub const KEY_LENGTH_MAX: usize = 4096;
/// Most blocks of a key: the authority's and those that narrow it.
pub const KEY_BLOCKS_MAX: usize = 8;
/// Most predicates in one query of a narrowing check: what it costs grows with the power of it.
const CHECK_PREDICATES_MAX: usize = 4;
/// The authority's fact, and the authorizer's time and operation: all the facts there are about an admissible key.
const FACTS_OF_A_KEY: usize = 3;
const LIMITS: AuthorizerLimits =
    AuthorizerLimits { max_facts: 16, max_iterations: 4, max_time: Duration::from_secs(5) };

/// What a key says: one partition, for one lease, until one moment (law 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyClaims {
    pub issuer: IssuerId,
    pub host: HostId,
    pub partition: PartitionId,
    pub lease: LeaseId,
    /// By which it is revoked, with all else that was signed under it.
    pub key: KeyId,
    pub epoch: Epoch,
    pub allocation: AllocationDigest,
    pub borrower: BorrowerId,
    /// The first moment at which the key opens nothing any more.
    pub expires_at: Timestamp,
}

/// What the host knows of the partition that a key is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownPartition {
    pub host: HostId,
    pub partition: PartitionId,
    /// Epoch of the latest lease that the host knows of.
    pub epoch: Epoch,
    pub allocation: AllocationDigest,
}

/// Why a key does not open a partition.
#[derive(Debug, Error)]
pub enum KeyRefusal {
    #[error(
        "the lending key is not valid: use it as it was handed out, whole, at the host it was issued for"
    )]
    Invalid(#[source] InvalidKey),
    #[error("the lending key expired at {at}: make a new lease")]
    Expired { at: Timestamp },
    /// Who handed the key on has narrowed it, and a check of theirs fails.
    #[error("whoever handed this lending key on has restricted it, and this is not allowed by it (any more)")]
    Restricted(#[source] BiscuitError),
    #[error("the lending key was revoked: use the one that took its place")]
    Revoked,
    #[error("the lending key is for another host")]
    OtherHost,
    #[error("the lending key is for another partition of this host")]
    OtherPartition,
    #[error("the lending key belongs to an earlier lease of this partition")]
    EpochPassed,
    #[error("the lending key is for another allocation than the partition has")]
    AllocationMismatch,
}

/// What is wrong with a key that is none.
#[derive(Debug, Error)]
pub enum InvalidKey {
    #[error("{0} characters long, more than {KEY_LENGTH_MAX}")]
    TooLong(usize),
    #[error("{0} blocks, more than {KEY_BLOCKS_MAX}")]
    TooManyBlocks(usize),
    #[error("not signed by the issuer, or not a Biscuit")]
    NotSigned(#[source] BiscuitError),
    #[error("an appended block holds more than checks, or checks that cost too much")]
    CostlyBlock,
    #[error("does not hold the one fact of a lending key")]
    NoClaims(#[source] BiscuitError),
    #[error("{0} cannot be read")]
    BadClaim(&'static str),
}

/// Why a key could not be made.
#[derive(Debug, Error)]
pub enum IssueError {
    #[error("epoch {0:?} does not fit a key")]
    Epoch(Epoch),
    #[error("there is no key to sign with yet")]
    NoKey,
    #[error("the lending key could not be signed")]
    Sign(#[source] BiscuitError),
}

/// The signing key of a registry, or of a host that lends directly.
pub struct IssuerKeyPair(KeyPair);

/// Where an issuer's public or secret key is not 64 hexadecimal digits of a valid one.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("an Ed25519 key is 64 hexadecimal digits")]
pub struct NotAnIssuerKey;

impl IssuerKeyPair {
    /// The key pair whose secret is `seed`: 32 bytes from the system's random source.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ed25519(&seed))
    }

    /// Reads what [`Self::secret`] gave.
    pub fn from_secret(secret: &Secret) -> Result<Self, NotAnIssuerKey> {
        let key =
            PrivateKey::from_bytes_hex(secret.reveal(), Algorithm::Ed25519).map_err(|_| NotAnIssuerKey)?;
        Ok(Self(KeyPair::from(&key)))
    }

    /// To be stored where only the issuer can read it: 64 hexadecimal digits.
    pub fn secret(&self) -> Secret {
        Secret::new(self.0.private().to_bytes_hex())
    }

    pub fn public_key(&self) -> IssuerPublicKey {
        IssuerPublicKey(self.0.public())
    }
}

impl fmt::Debug for IssuerKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuerKeyPair({}, …)", self.public_key())
    }
}

/// What a host pins: 64 hexadecimal digits on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IssuerPublicKey(PublicKey);

impl fmt::Display for IssuerPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_bytes_hex())
    }
}

impl FromStr for IssuerPublicKey {
    type Err = NotAnIssuerKey;

    fn from_str(text: &str) -> Result<Self, NotAnIssuerKey> {
        PublicKey::from_bytes_hex(text, Algorithm::Ed25519).map(Self).map_err(|_| NotAnIssuerKey)
    }
}

fn ed25519(seed: &[u8; 32]) -> KeyPair {
    let key = PrivateKey::from_bytes(seed, Algorithm::Ed25519);
    // 32 bytes are an Ed25519 secret, whatever they are.
    key.map_or_else(|_| unreachable!("32 bytes"), |key| KeyPair::from(&key))
}

/// Signs a key. `seed` is 32 bytes from the system's random source, for the key pair that a holder narrows it
/// with; the same seed gives the same key again.
pub fn issue(issuer: &IssuerKeyPair, claims: &KeyClaims, seed: [u8; 32]) -> Result<Secret, IssueError> {
    let fact = claims.to_fact()?;
    Biscuit::builder()
        .fact(fact)
        .and_then(|key| key.build_with_key_pair(&issuer.0, SymbolTable::default(), &ed25519(&seed)))
        .and_then(|key| key.to_base64())
        .map(Secret::new)
        .map_err(IssueError::Sign)
}

/// What the key `text` claims, once it is certain that one of `issuers` signed it, that it has not expired at `now`, and
/// that no block appended to it forbids `operation`.
pub fn read(
    text: &str,
    issuers: &[IssuerPublicKey],
    operation: Operation,
    now: Timestamp,
) -> Result<KeyClaims, KeyRefusal> {
    let key = verify(text, issuers).map_err(KeyRefusal::Invalid)?;
    let failed = |error| KeyRefusal::Invalid(InvalidKey::NotSigned(error));
    let mut authorizer = authorizer(&key, operation, now).map_err(failed)?;
    if key.block_count() > 1 && !is_cheap(&authorizer) {
        return Err(KeyRefusal::Invalid(InvalidKey::CostlyBlock));
    }
    let claims = KeyClaims::of(&mut authorizer).map_err(KeyRefusal::Invalid)?;
    if claims.expires_at <= now {
        return Err(KeyRefusal::Expired { at: claims.expires_at });
    }
    authorizer.authorize().map_err(KeyRefusal::Restricted)?;
    Ok(claims)
}

fn verify(text: &str, issuers: &[IssuerPublicKey]) -> Result<Biscuit, InvalidKey> {
    if text.len() > KEY_LENGTH_MAX {
        return Err(InvalidKey::TooLong(text.len()));
    }
    let mut signed = Err(BiscuitError::InternalError);
    for issuer in issuers {
        signed = Biscuit::from_base64(text, issuer.0);
        if signed.is_ok() {
            break;
        }
    }
    let key = signed.map_err(InvalidKey::NotSigned)?;
    let blocks = key.block_count();
    if blocks > KEY_BLOCKS_MAX { Err(InvalidKey::TooManyBlocks(blocks)) } else { Ok(key) }
}

fn authorizer(key: &Biscuit, operation: Operation, now: Timestamp) -> Result<Authorizer, BiscuitError> {
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    AuthorizerBuilder::new()
        .set_limits(LIMITS)
        .fact(Fact::new("time".to_owned(), vec![Term::Date(seconds)]))?
        .fact(Fact::new("operation".to_owned(), vec![Term::Str(operation.to_string())]))?
        .policy("allow if true")?
        .build(key)
}

fn is_cheap(authorizer: &Authorizer) -> bool {
    let (facts, rules, checks, _) = authorizer.dump();
    facts.len() == FACTS_OF_A_KEY && rules.is_empty() && checks.iter().all(is_cheap_check)
}

fn is_cheap_check(check: &Check) -> bool {
    check.queries.iter().all(|query: &Rule| {
        query.body.len() <= CHECK_PREDICATES_MAX
            && query.scopes.is_empty()
            && query.expressions.iter().flat_map(|expression| &expression.ops).all(is_cheap_operation)
    })
}

fn is_cheap_operation(operation: &Op) -> bool {
    !matches!(operation, Op::Closure(..) | Op::Binary(Binary::Regex))
}

/// The terms of the fact, as Biscuit gives them back.
type Claimed = (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>, i64, Vec<u8>, Vec<u8>, String);

impl KeyClaims {
    fn to_fact(&self) -> Result<Fact, IssueError> {
        let epoch = i64::try_from(self.epoch.0).map_err(|_| IssueError::Epoch(self.epoch))?;
        let id = |id: Uuid| Term::Bytes(id.as_bytes().to_vec());
        let terms = vec![
            id(self.issuer.0),
            id(self.host.0),
            id(self.partition.0),
            id(self.lease.0),
            id(self.key.0),
            Term::Integer(epoch),
            Term::Bytes(self.allocation.0.to_vec()),
            id(self.borrower.0),
            // Biscuit's own dates are whole seconds.
            Term::Str(self.expires_at.to_string()),
        ];
        Ok(Fact::new("lending_key".to_owned(), terms))
    }

    fn of(authorizer: &mut Authorizer) -> Result<Self, InvalidKey> {
        let query =
            "claims($i, $h, $p, $l, $k, $e, $a, $b, $t) <- lending_key($i, $h, $p, $l, $k, $e, $a, $b, $t)";
        Self::from_terms(authorizer.query_exactly_one(query).map_err(InvalidKey::NoClaims)?)
    }

    fn from_terms(claimed: Claimed) -> Result<Self, InvalidKey> {
        let (issuer, host, partition, lease, key, epoch, allocation, borrower, expires_at) = claimed;
        let bad = |what| move |_| InvalidKey::BadClaim(what);
        let digest = allocation.try_into().map_err(|_| InvalidKey::BadClaim("allocation"))?;
        Ok(Self {
            issuer: IssuerId(uuid(&issuer, "issuer")?),
            host: HostId(uuid(&host, "host")?),
            partition: PartitionId(uuid(&partition, "partition")?),
            lease: LeaseId(uuid(&lease, "lease")?),
            key: KeyId(uuid(&key, "key")?),
            epoch: Epoch(u64::try_from(epoch).map_err(|_| InvalidKey::BadClaim("epoch"))?),
            allocation: AllocationDigest(digest),
            borrower: BorrowerId(uuid(&borrower, "borrower")?),
            expires_at: expires_at.parse().map_err(bad("expires_at"))?,
        })
    }

    /// Whether these claims open the partition that the host knows; each mismatch is a refusal of its own.
    ///
    /// An epoch above the known one is that of a lease the host has not heard of yet.
    pub fn compare(&self, known: &KnownPartition) -> Result<(), KeyRefusal> {
        if self.host != known.host {
            return Err(KeyRefusal::OtherHost);
        }
        if self.partition != known.partition {
            return Err(KeyRefusal::OtherPartition);
        }
        if self.epoch < known.epoch {
            return Err(KeyRefusal::EpochPassed);
        }
        if self.allocation != known.allocation { Err(KeyRefusal::AllocationMismatch) } else { Ok(()) }
    }
}

fn uuid(bytes: &[u8], what: &'static str) -> Result<Uuid, InvalidKey> {
    Uuid::from_slice(bytes).map_err(|_| InvalidKey::BadClaim(what))
}

mod restriction;

pub use restriction::{Inspected, NotAnOperation, Operation, RestrictError, Restriction, inspect, restrict};

#[cfg(test)]
mod tests;
