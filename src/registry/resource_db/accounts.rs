//! Lenders, borrowers, their tokens, and the registry's own signing key.

use uuid::Uuid;

use super::{
    ResourceDb, StoreError,
    value::{Row, values},
    work::Work,
};
use crate::{
    api::secret::Secret,
    domain::id::{BorrowerId, HostId, IssuerId, LenderId},
};

/// SHA-256 of a token: all that is stored of it.
pub type TokenDigest = [u8; 32];

/// Whose token it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal {
    Lender(LenderId),
    Borrower(BorrowerId),
    Host(HostId),
}

/// Of what kind an account is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountKind {
    Lender,
    Borrower,
}

impl AccountKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lender => "lender",
            Self::Borrower => "borrower",
        }
    }
}

impl ResourceDb {
    /// Whose token has this digest.
    pub async fn principal(&self, digest: TokenDigest) -> Result<Option<Principal>, StoreError> {
        self.read(move |sql| {
            let whose = "SELECT t.host, t.account, a.kind FROM tokens t LEFT JOIN accounts a ON a.id = t.account \
                         WHERE t.digest = $1";
            sql.first(whose, values![digest], principal)
        })
        .await
    }

    /// Gives the account of this name another token, and makes the account where there is none.
    pub async fn add_token(
        &self,
        kind: AccountKind,
        name: String,
        digest: TokenDigest,
    ) -> Result<(), StoreError> {
        self.write(move |work| {
            let account = work.account(kind, &name)?;
            work.insert_token(digest, Some(account), None)
        })
        .await
    }

    /// The registry's identity and signing key; `fresh` becomes it where there is none yet.
    pub async fn issuer(&self, fresh: (IssuerId, Secret)) -> Result<(IssuerId, Secret), StoreError> {
        self.write(move |work| {
            let (id, secret) = &fresh;
            let insert = "INSERT INTO issuer (one, id, secret) VALUES (1, $1, $2) ON CONFLICT DO NOTHING";
            work.sql.execute(insert, values![*id, secret.reveal()])?;
            let kept = |mut row: Row| Ok((row.take()?, Secret::new(row.take::<String>()?)));
            work.sql.one("SELECT id, secret FROM issuer", &[], kept)
        })
        .await
    }
}

fn principal(mut row: Row) -> Result<Principal, StoreError> {
    match (row.take()?, row.take()?, row.take::<Option<String>>()?.as_deref()) {
        (Some(host), None, None) => Ok(Principal::Host(host)),
        (None, Some(account), Some("lender")) => Ok(Principal::Lender(LenderId(account))),
        (None, Some(account), Some("borrower")) => Ok(Principal::Borrower(BorrowerId(account))),
        _ => Err(row.unreadable()),
    }
}

impl Work<'_> {
    fn account(&mut self, kind: AccountKind, name: &str) -> Result<Uuid, StoreError> {
        let insert = "INSERT INTO accounts (id, kind, name, created_at_us) VALUES ($1, $2, $3, $4) \
                      ON CONFLICT (kind, name) DO NOTHING";
        self.sql.execute(insert, values![Uuid::now_v7(), kind.as_str(), name, self.now])?;
        let select = "SELECT id FROM accounts WHERE kind = $1 AND name = $2";
        self.sql.one(select, values![kind.as_str(), name], |mut row| row.take())
    }

    /// A token of an account or of a host.
    pub(super) fn insert_token(
        &mut self,
        digest: TokenDigest,
        account: Option<Uuid>,
        host: Option<HostId>,
    ) -> Result<(), StoreError> {
        let insert = "INSERT INTO tokens (digest, account, host, created_at_us) VALUES ($1, $2, $3, $4)";
        self.sql.execute(insert, values![digest, account, host, self.now])?;
        Ok(())
    }
}
