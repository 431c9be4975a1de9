//! Tokens: whose each is, what it is good for, and until when.

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    ResourceDb, StoreError,
    accounts::{AccountKind, Principal, TokenDigest},
    value::{Row, Value, values},
    work::Work,
};
use crate::{
    api::token::{Scope, TokenView},
    domain::id::{BorrowerId, HostId, LenderId},
};

/// What a token that was shown is good for.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    pub token: Uuid,
    pub principal: Principal,
    pub scope: Scope,
    pub expires_at: Option<Timestamp>,
    /// The account, or the lender of the host, was blocked.
    pub is_blocked: bool,
    /// It is shown for the first time, and another goes for it.
    replaces: Option<Uuid>,
}

/// A token as it is made.
#[derive(Debug, Clone, Copy)]
pub struct NewToken {
    pub id: Uuid,
    pub digest: TokenDigest,
    pub scope: Scope,
    pub expires_at: Option<Timestamp>,
}

impl NewToken {
    /// Good for everything its owner may do, until it is revoked.
    pub fn lasting(digest: TokenDigest) -> Self {
        Self { id: Uuid::now_v7(), digest, scope: Scope::Full, expires_at: None }
    }
}

/// Whose token it is to be.
#[derive(Debug, Clone)]
pub enum TokenOwner {
    Account(AccountKind, String),
    Administrator(String),
}

const SELECT: &str = "SELECT t.id, t.scope, t.created_at_us, t.expires_at_us, a.kind, a.name, t.host, t.administrator \
                      FROM access_tokens t LEFT JOIN accounts a ON a.id = t.account";

impl ResourceDb {
    /// Whose token has this digest; one that has expired is nobody's. The first use of a token ends the one that it
    /// replaces.
    pub async fn access(&self, digest: TokenDigest, now: Timestamp) -> Result<Option<Access>, StoreError> {
        let access = self
            .read(move |sql| {
                let select = "SELECT t.id, t.host, t.account, a.kind, t.scope, t.expires_at_us, t.replaces, \
                              CASE WHEN coalesce(a.blocked_at_us, l.blocked_at_us) IS NULL THEN 0 ELSE 1 END \
                              FROM access_tokens t LEFT JOIN accounts a ON a.id = t.account \
                              LEFT JOIN hosts h ON h.id = t.host LEFT JOIN accounts l ON l.id = h.lender \
                              WHERE t.digest = $1 AND (t.expires_at_us IS NULL OR t.expires_at_us > $2)";
                sql.first(select, values![digest, now], Access::of)
            })
            .await?;
        if let Some(Access { token, replaces: Some(replaced), .. }) = access {
            self.write(move |work| {
                work.sql.execute("DELETE FROM access_tokens WHERE id = $1", values![replaced])?;
                work.sql
                    .execute("UPDATE access_tokens SET replaces = NULL WHERE id = $1", values![token])
                    .map(drop)
            })
            .await?;
        }
        Ok(access)
    }

    /// Gives somebody another token, and makes the account where there is none.
    pub async fn add_token(&self, owner: TokenOwner, token: NewToken) -> Result<(), StoreError> {
        self.write(move |work| match &owner {
            TokenOwner::Account(kind, name) => {
                let account = work.account(*kind, name)?;
                work.insert_token(token, values![account, None::<HostId>, None::<Value>], None)
            }
            TokenOwner::Administrator(name) => {
                work.insert_token(token, values![None::<HostId>, None::<HostId>, name.as_str()], None)
            }
        })
        .await
    }

    /// Another token for whom a token is of. `replaced`: it goes when the new one is first used; what was made to replace it
    /// before, and was not used, goes now.
    pub async fn add_token_beside(
        &self,
        beside: Uuid,
        token: NewToken,
        replaced: bool,
    ) -> Result<(), StoreError> {
        self.write(move |work| {
            if replaced {
                work.sql.execute("DELETE FROM access_tokens WHERE replaces = $1", values![beside])?;
            }
            let insert = "INSERT INTO access_tokens (id, digest, account, host, administrator, scope, created_at_us, \
                          expires_at_us, replaces) SELECT $1, $2, account, host, administrator, $3, $4, $5, $6 \
                          FROM access_tokens WHERE id = $7";
            let replaces = replaced.then_some(beside);
            let NewToken { id, digest, scope, expires_at } = token;
            let row = values![id, digest, scope.as_str(), work.now, expires_at, replaces, beside];
            if work.sql.execute(insert, row)? == 1 { Ok(()) } else { Err(StoreError::Lost("access_tokens")) }
        })
        .await
    }

    /// The tokens of whom a token is of, newest first.
    pub async fn tokens_beside(&self, beside: Uuid) -> Result<Vec<TokenView>, StoreError> {
        self.read(move |sql| {
            let select = format!(
                "{SELECT} JOIN access_tokens mine ON mine.id = $1 AND t.account IS NOT DISTINCT FROM mine.account \
                 AND t.host IS NOT DISTINCT FROM mine.host \
                 AND t.administrator IS NOT DISTINCT FROM mine.administrator ORDER BY t.id DESC"
            );
            sql.all(&select, values![beside], view)
        })
        .await
    }

    /// All tokens, newest first.
    pub async fn tokens(&self) -> Result<Vec<TokenView>, StoreError> {
        self.read(|sql| sql.all(&format!("{SELECT} ORDER BY t.id DESC"), &[], view)).await
    }

    /// False: there is no such token.
    pub async fn revoke_token(&self, id: Uuid) -> Result<bool, StoreError> {
        self.write(move |work| {
            Ok(work.sql.execute("DELETE FROM access_tokens WHERE id = $1", values![id])? == 1)
        })
        .await
    }

    /// False: there is no such account.
    pub async fn block_account(
        &self,
        kind: AccountKind,
        name: String,
        is_blocked: bool,
    ) -> Result<bool, StoreError> {
        self.write(move |work| {
            let update = "UPDATE accounts SET blocked_at_us = $1 WHERE kind = $2 AND name = $3";
            let since = is_blocked.then_some(work.now);
            Ok(work.sql.execute(update, values![since, kind.as_str(), name.as_str()])? == 1)
        })
        .await
    }
}

impl Work<'_> {
    /// A host's own token.
    pub(super) fn insert_host_token(&mut self, host: HostId, token: NewToken) -> Result<(), StoreError> {
        self.insert_token(token, values![None::<HostId>, host, None::<Value>], None)
    }

    /// `whose`: account, host and administrator, one of them.
    fn insert_token(
        &mut self,
        token: NewToken,
        whose: &[Value],
        replaces: Option<Uuid>,
    ) -> Result<(), StoreError> {
        let insert = "INSERT INTO access_tokens (id, digest, scope, created_at_us, expires_at_us, replaces, account, \
                      host, administrator) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let NewToken { id, digest, scope, expires_at } = token;
        let row = values![id, digest, scope.as_str(), self.now, expires_at, replaces];
        self.sql.execute(insert, &[row, whose].concat()).map(drop)
    }
}

impl Access {
    fn of(mut row: Row) -> Result<Self, StoreError> {
        let token = row.take()?;
        let whose = (row.take()?, row.take()?, row.take::<Option<String>>()?);
        let principal = match (whose.0, whose.1, whose.2.as_deref()) {
            (Some(host), None, None) => Principal::Host(host),
            (None, Some(account), Some("lender")) => Principal::Lender(LenderId(account)),
            (None, Some(account), Some("borrower")) => Principal::Borrower(BorrowerId(account)),
            (None, None, None) => Principal::Administrator,
            _ => return Err(row.unreadable()),
        };
        let (scope, expires_at, replaces) = (row.take_word()?, row.take()?, row.take()?);
        Ok(Self { token, principal, scope, expires_at, replaces, is_blocked: row.take::<i64>()? != 0 })
    }
}

fn view(mut row: Row) -> Result<TokenView, StoreError> {
    let (id, scope, created_at, expires_at) = (row.take()?, row.take_word()?, row.take()?, row.take()?);
    let (kind, name) = (row.take::<Option<String>>()?, row.take::<Option<String>>()?);
    let (host, administrator) = (row.take::<Option<HostId>>()?, row.take::<Option<String>>()?);
    let (role, name) = match (kind, name, host, administrator) {
        (Some(kind), Some(name), None, None) => (kind, name),
        (None, None, Some(host), None) => ("host".to_owned(), host.to_string()),
        (None, None, None, Some(name)) => ("admin".to_owned(), name),
        _ => return Err(row.unreadable()),
    };
    Ok(TokenView { id, role, name, scope, created_at, expires_at })
}
