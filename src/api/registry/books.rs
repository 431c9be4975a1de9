//! Other people's money, in the hands of who runs the registry.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::{
    id::LeaseId,
    ledger::entry::Entry,
    money::{Amount, Currency, Micros},
};

/// `POST /v1/deposits`: a borrower has paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MakeDeposit {
    /// Name of the borrower's account.
    pub borrower: String,
    /// More than nothing, at most a thousand million units.
    pub amount: Amount,
}

/// `POST /v1/payouts`: a lender was paid all that stands to its credit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MakePayout {
    /// Name of the lender's account.
    pub lender: String,
}

/// `POST /v1/credits`: a borrower gets back a part of what a lease cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MakeCredit {
    pub lease: LeaseId,
    /// More than nothing; no more than the lease cost is credited in all.
    pub amount: Amount,
    /// Why, for both sides to read.
    pub reason: String,
}

/// `PUT /v1/credit-limits`: what a borrower's running leases may cost beyond what it has paid in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreditLimit {
    /// Name of the borrower's account.
    pub borrower: String,
    /// In other currencies it has nothing then, unless there is a limit there too.
    pub currency: Currency,
    /// None: no bound in this currency.
    #[serde(default)]
    pub limit: Option<Micros>,
}

/// What was written into the ledger: an entry a currency. Asked again with the same `Idempotency-Key`, the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Booked {
    pub entries: Vec<Entry>,
}

/// `GET /v1/acts`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Acts {
    /// Newest first.
    pub acts: Vec<RecordedAct>,
    pub next_cursor: Option<String>,
}

/// Something that was done with accounts, and who did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct RecordedAct {
    /// That of the entry in the ledger, where it made one.
    pub id: Uuid,
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// None: it was done with the registry's program, at the database itself.
    pub administrator: Option<String>,
    /// The token that was shown.
    pub token: Option<Uuid>,
    pub act: Act,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Act {
    Deposit { borrower: String, amount: Amount, reference: String },
    Payout { lender: String, amount: Amount, reference: String },
    Credit { lease: LeaseId, amount: Amount, reason: String, reference: String },
    CreditLimit { borrower: String, currency: Currency, limit: Option<Micros> },
}
