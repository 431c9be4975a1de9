//! Lenders and borrowers, and who may ask what.

use uuid::Uuid;

use super::{StoreError, value::values, work::Work};
use crate::domain::id::{BorrowerId, HostId, LenderId};

/// SHA-256 of a token: all that is stored of it.
pub type TokenDigest = [u8; 32];

/// Whose token it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal {
    Lender(LenderId),
    Borrower(BorrowerId),
    Host(HostId),
    /// Who runs the registry.
    Administrator,
}

impl Principal {
    /// As tokens say it.
    pub fn role(self) -> &'static str {
        match self {
            Self::Lender(_) => "lender",
            Self::Borrower(_) => "borrower",
            Self::Host(_) => "host",
            Self::Administrator => "admin",
        }
    }
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

impl Work<'_> {
    /// The account of this name; it is made where there is none.
    pub(super) fn account(&mut self, kind: AccountKind, name: &str) -> Result<Uuid, StoreError> {
        let insert = "INSERT INTO accounts (id, kind, name, created_at_us) VALUES ($1, $2, $3, $4) \
                      ON CONFLICT (kind, name) DO NOTHING";
        self.sql.execute(insert, values![Uuid::now_v7(), kind.as_str(), name, self.now])?;
        let select = "SELECT id FROM accounts WHERE kind = $1 AND name = $2";
        self.sql.one(select, values![kind.as_str(), name], |mut row| row.take())
    }
}
