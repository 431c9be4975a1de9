//! What a holder does with a key offline: looks into it, and narrows it before handing it on.

use std::{collections::BTreeSet, fmt, str::FromStr};

use biscuit_auth::{
    UnverifiedBiscuit,
    builder::{BlockBuilder, Fact},
    error::Token as BiscuitError,
};
use jiff::Timestamp;
use thiserror::Error;

use super::{InvalidKey, KEY_BLOCKS_MAX, KEY_LENGTH_MAX, KeyClaims, ed25519};
use crate::domain::secret::Secret;

/// What a key is shown for. Looking at the partition is part of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// The host and the partition are looked at.
    Look,
    /// The partition is opened for the lease (fig. 5).
    Open,
    /// Jobs are run, listed and cancelled.
    Jobs,
    /// A job's output is followed.
    Logs,
    /// The console is followed.
    Console,
    /// A port of the guest is connected to.
    Tunnel,
    /// The guest is stopped.
    Stop,
    /// The lease is ended.
    Return,
}

impl Operation {
    pub const ALL: [Self; 8] = [
        Self::Look,
        Self::Open,
        Self::Jobs,
        Self::Logs,
        Self::Console,
        Self::Tunnel,
        Self::Stop,
        Self::Return,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Open => "open",
            Self::Jobs => "jobs",
            Self::Logs => "logs",
            Self::Console => "console",
            Self::Tunnel => "tunnel",
            Self::Stop => "stop",
            Self::Return => "return",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("an operation is one of look, open, jobs, logs, console, tunnel, stop and return, not {0:?}")]
pub struct NotAnOperation(String);

impl FromStr for Operation {
    type Err = NotAnOperation;

    fn from_str(text: &str) -> Result<Self, NotAnOperation> {
        let named = Self::ALL.into_iter().find(|operation| operation.as_str() == text);
        named.ok_or_else(|| NotAnOperation(text.to_owned()))
    }
}

/// What a key shall do no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restriction {
    /// The first moment at which it opens nothing any more; of its second the start counts.
    pub until: Option<Timestamp>,
    /// What it is good for, beside looking at the partition; none: what it was.
    pub only: Option<BTreeSet<Operation>>,
}

/// Why a key is not narrowed.
#[derive(Debug, Error)]
pub enum RestrictError {
    #[error("say what the key shall be restricted to")]
    ToNothing,
    #[error("this is not a lending key")]
    NotAKey(#[source] BiscuitError),
    #[error("the key has been restricted {} times, and no host takes one with more", KEY_BLOCKS_MAX - 1)]
    TooManyBlocks,
    #[error("the key would be longer than {KEY_LENGTH_MAX} characters, and no host takes a longer one")]
    TooLong,
}

/// A key that opens less than `key`. `seed` is 32 bytes from the system's random source, for whoever narrows it further.
pub fn restrict(key: &Secret, restriction: &Restriction, seed: [u8; 32]) -> Result<Secret, RestrictError> {
    let before = UnverifiedBiscuit::from_base64(key.reveal()).map_err(RestrictError::NotAKey)?;
    if before.block_count() >= KEY_BLOCKS_MAX {
        return Err(RestrictError::TooManyBlocks);
    }
    let block = BlockBuilder::new().code(restriction.to_string()).map_err(RestrictError::NotAKey)?;
    if block.checks.is_empty() {
        return Err(RestrictError::ToNothing);
    }
    let narrowed = before.append_with_keypair(&ed25519(&seed), block).and_then(|key| key.to_base64());
    let narrowed = narrowed.map_err(RestrictError::NotAKey)?;
    if narrowed.len() > KEY_LENGTH_MAX { Err(RestrictError::TooLong) } else { Ok(Secret::new(narrowed)) }
}

impl fmt::Display for Restriction {
    /// As checks of an appended block.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(until) = self.until {
            write!(f, "check if time($now), $now < {};", until.strftime("%Y-%m-%dT%H:%M:%SZ"))?;
        }
        if let Some(only) = &self.only {
            let only: BTreeSet<_> = only.iter().chain([&Operation::Look]).collect();
            let names: Vec<_> = only.into_iter().map(|operation| format!("\"{operation}\"")).collect();
            write!(f, "check if operation($what), {{{}}}.contains($what);", names.join(", "))?;
        }
        Ok(())
    }
}

/// What stands in a key; whether it is signed, only a host can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    pub claims: KeyClaims,
    /// The checks of those who have narrowed it, as Datalog, a block each.
    pub restrictions: Vec<String>,
}

/// Reads a key without judging it.
pub fn inspect(text: &str) -> Result<Inspected, InvalidKey> {
    if text.len() > KEY_LENGTH_MAX {
        return Err(InvalidKey::TooLong(text.len()));
    }
    let key = UnverifiedBiscuit::from_base64(text).map_err(InvalidKey::NotSigned)?;
    let source = |block| key.print_block_source(block).map_err(InvalidKey::NoClaims);
    let authority = BlockBuilder::new().code(source(0)?).map_err(InvalidKey::NoClaims)?;
    let [fact] = authority.facts.as_slice() else { return Err(InvalidKey::BadClaim("the first block")) };
    let claims = KeyClaims::from_terms(Fact::try_into(fact.clone()).map_err(InvalidKey::NoClaims)?)?;
    let restrictions = (1..key.block_count()).map(source).collect::<Result<_, _>>()?;
    Ok(Inspected { claims, restrictions })
}
