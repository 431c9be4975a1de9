//! Lenders, borrowers, their tokens, and the registry's own signing key.

use rusqlite::{OptionalExtension as _, Row, named_params, types::Type};
use uuid::Uuid;

use super::{
    super::{AccountKind, Principal, StoreError, TokenDigest},
    Sqlite,
    rows::Moment,
    writer::Work,
};
use crate::{
    api::secret::Secret,
    domain::id::{BorrowerId, HostId, IssuerId, LenderId},
};

impl Sqlite {
    /// Whose token has this digest.
    pub async fn principal(&self, digest: TokenDigest) -> Result<Option<Principal>, StoreError> {
        self.read(move |db| {
            let sql = "SELECT t.host, t.account, a.kind FROM tokens t LEFT JOIN accounts a ON a.id = t.account \
                       WHERE t.digest = ?1";
            let whose = |row: &Row<'_>| principal(row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(db.prepare_cached(sql)?.query_row([digest], whose).optional()?)
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
            let (id, secret) = fresh;
            let sql = "INSERT INTO issuer (one, id, secret) VALUES (1, ?1, ?2) ON CONFLICT DO NOTHING";
            work.db.execute(sql, (id.0, secret.reveal()))?;
            let kept = |row: &Row<'_>| Ok((IssuerId(row.get(0)?), Secret::new(row.get::<_, String>(1)?)));
            Ok(work.db.query_row("SELECT id, secret FROM issuer", (), kept)?)
        })
        .await
    }
}

fn principal(host: Option<Uuid>, account: Option<Uuid>, kind: Option<String>) -> rusqlite::Result<Principal> {
    match (host, account, kind.as_deref()) {
        (Some(host), None, None) => Ok(Principal::Host(HostId(host))),
        (None, Some(account), Some("lender")) => Ok(Principal::Lender(LenderId(account))),
        (None, Some(account), Some("borrower")) => Ok(Principal::Borrower(BorrowerId(account))),
        _ => Err(rusqlite::Error::InvalidColumnType(2, "kind".to_owned(), Type::Text)),
    }
}

impl Work<'_> {
    fn account(&self, kind: AccountKind, name: &str) -> Result<Uuid, StoreError> {
        let sql = "INSERT INTO accounts (id, kind, name, created_at_us) VALUES (?1, ?2, ?3, ?4) \
                   ON CONFLICT (kind, name) DO NOTHING";
        self.db.execute(sql, (Uuid::now_v7(), kind.as_str(), name, Moment(self.now)))?;
        let sql = "SELECT id FROM accounts WHERE kind = ?1 AND name = ?2";
        Ok(self.db.query_row(sql, (kind.as_str(), name), |row| row.get(0))?)
    }

    /// A token of an account or of a host.
    pub(super) fn insert_token(
        &self,
        digest: TokenDigest,
        account: Option<Uuid>,
        host: Option<Uuid>,
    ) -> Result<(), StoreError> {
        let sql = "INSERT INTO tokens (digest, account, host, created_at_us) \
                   VALUES (:digest, :account, :host, :now)";
        let values = named_params! {
            ":digest": digest, ":account": account, ":host": host, ":now": Moment(self.now)
        };
        self.db.execute(sql, values)?;
        Ok(())
    }
}
