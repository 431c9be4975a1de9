//! What a registry's operator does at the database itself, while registries serve it or not.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use thiserror::Error;
use uuid::Uuid;

use super::{
    accounts::{digest, new_token},
    resource_db::{
        AccountKind, Location, NewToken, OpenError, ResourceDb, SigningKey, StoreError, TokenOwner,
    },
};
use crate::{
    api::{
        secret::Secret,
        token::{Scope, TokenView},
    },
    clock::Clock,
};

/// Longest name of an account.
const NAME_MAX: usize = 64;

#[derive(Debug, Error)]
pub enum OperatorError {
    #[error("a name is 1 to {NAME_MAX} characters of letters, digits, '.', '-', '_' and '@', not {0:?}")]
    Name(String),
    #[error("there is no token {0}")]
    NoSuchToken(Uuid),
    #[error("there is no {} named {name:?}", kind.as_str())]
    NoSuchAccount { kind: AccountKind, name: String },
    #[error("no registry has ever served this database, so there is no signing key to take over from")]
    NeverServed,
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the database cannot be used")]
    Store(#[from] StoreError),
}

/// The database, as its operator uses it.
pub struct Operator(ResourceDb);

/// Whose token is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Administrator,
    Account(AccountKind),
}

impl Operator {
    pub async fn at(database: Location) -> Result<Self, OperatorError> {
        Ok(Self(ResourceDb::open(database, Arc::new(Clock::system()), Box::new(|_| ())).await?))
    }

    /// Makes a token, and the account of this name where there is none.
    pub async fn make_token(
        &self,
        role: Role,
        name: String,
        scope: Scope,
        expires_at: Option<Timestamp>,
    ) -> Result<Secret, OperatorError> {
        if !is_name(&name) {
            return Err(OperatorError::Name(name));
        }
        let (prefix, owner) = match role {
            Role::Administrator => ("admin", TokenOwner::Administrator(name)),
            Role::Account(kind) => (kind.as_str(), TokenOwner::Account(kind, name)),
        };
        let token = new_token(prefix);
        self.0.add_token(owner, NewToken { scope, expires_at, ..NewToken::lasting(digest(&token)) }).await?;
        Ok(token)
    }

    pub async fn tokens(&self) -> Result<Vec<TokenView>, OperatorError> {
        Ok(self.0.tokens().await?)
    }

    pub async fn revoke_token(&self, id: Uuid) -> Result<(), OperatorError> {
        if self.0.revoke_token(id).await? { Ok(()) } else { Err(OperatorError::NoSuchToken(id)) }
    }

    /// A blocked account's tokens are refused, and its hosts' too, until it is unblocked; leases that run go on.
    pub async fn block(
        &self,
        kind: AccountKind,
        name: String,
        is_blocked: bool,
    ) -> Result<(), OperatorError> {
        match self.0.block_account(kind, name.clone(), is_blocked).await? {
            true => Ok(()),
            false => Err(OperatorError::NoSuchAccount { kind, name }),
        }
    }

    pub async fn signing_keys(&self) -> Result<Vec<SigningKey>, OperatorError> {
        Ok(self.0.signing_keys().await?)
    }

    /// Makes another signing key, which takes over `after` from now.
    pub async fn rotate_signing_key(&self, after: Duration) -> Result<SigningKey, OperatorError> {
        if self.0.signing_keys().await?.is_empty() {
            return Err(OperatorError::NeverServed);
        }
        Ok(self.0.add_signing_key(rand::random(), after).await?)
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |letter: char| letter.is_alphanumeric() || ".-_@".contains(letter);
    (1..=NAME_MAX).contains(&name.chars().count()) && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_short_word() {
        assert!(is_name("alice") && is_name("müller@example.org"));
        for wrong in ["", "a b", "a\n", "../x", &"a".repeat(65)] {
            assert!(!is_name(wrong), "{wrong:?}");
        }
    }
}
