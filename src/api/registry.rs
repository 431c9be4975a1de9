//! The registry's wire types.

mod books;
mod events;
mod hosts;
mod leases;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::secret::Secret;
pub use books::{Act, Acts, Booked, CreditLimit, MakeCredit, MakeDeposit, MakePayout, RecordedAct};
pub use events::{Event, EventKind};
pub use hosts::{KnownHost, KnownHosts};
pub use leases::{LeaseQuery, Leases};

pub use crate::domain::lease::{EndReason, Recall};
use crate::domain::{
    id::{BorrowerId, HostId, IssuerId, KeyId, LeaseId, LenderId, PartitionId},
    ledger::entry::Entry,
    matching::{Conditions, Explanation},
    money::{Amount, Currency, FeeRate, Micros, Rounding},
    receipt::{credit::ReceiptTerms, key::ReceiptKey, segment::Violation},
    resources::AllocationDigest,
    terms::{Epoch, Terms, TermsVersion},
    tls_key::TlsKey,
};

/// `POST /v1/hosts`, with a lender's enrolment token: makes a host known.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct EnrolHost {
    /// Base URL at which borrowers reach the host's agent.
    pub address: String,
}

/// `PUT /v1/hosts/{host}/contact`: where the host is reached from now on, and how it is known there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HostContact {
    /// Base URL at which borrowers reach the host's agent.
    pub address: String,
    /// The key by which they are to know it over TLS; none: by an authority.
    #[serde(default)]
    pub tls_key: Option<TlsKey>,
    /// What it signs receipts with; none: leases that are made from now on have none.
    #[serde(default)]
    pub receipt_key: Option<ReceiptKey>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct HostEnrolled {
    pub host: HostId,
    /// The host's own token from now on; shown once.
    pub host_token: Secret,
    /// Whose lending keys the host shall accept.
    pub issuer: Issuer,
}

/// Somebody who issues lending keys, as the host pins it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Issuer {
    pub id: IssuerId,
    /// Ed25519 public key, 64 hexadecimal digits.
    pub public_key: String,
}

/// `PUT /v1/hosts/{host}/partitions/{partition}`: the offer, whole (fig. 6, S13–S16).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct OfferPartition {
    pub terms: Terms,
    /// The latest version of the offer that the host was told, at most 9,007,199,254,740,991; none: of none yet. An offer that
    /// comes late, or twice, so that the registry has told of a later one since, changes nothing.
    #[serde(default)]
    pub known_version: Option<TermsVersion>,
}

/// `PATCH /v1/hosts/{host}/partitions/{partition}`: what a free partition is offered for from now on (fig. 7, S21–S32).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeOffer {
    pub terms: Terms,
    /// The partition's epoch is raised: no key that was issued before opens it any more.
    #[serde(default)]
    pub new_key: bool,
}

/// A registered partition, as its host sees it; the version is also the `ETag`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct RegisteredPartition {
    pub host: HostId,
    pub partition: PartitionId,
    pub terms: Terms,
    pub version: TermsVersion,
    /// Epoch of the latest lease; 0: never lent.
    pub epoch: Epoch,
    pub state: LendingState,
}

/// Lending state at the registry: patent (105).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LendingState {
    Free,
    Lent {
        lease: LeaseId,
        borrower: BorrowerId,
        #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
        expires_at: Timestamp,
    },
    /// The lease has ended; the host has not confirmed yet that the partition is clean.
    AwaitingClean {
        lease: LeaseId,
    },
}

/// `POST /v1/hosts/{host}/heartbeat`: the host lives, and says what it did since.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Leases whose partitions the host has cleaned since their end.
    #[serde(default)]
    pub cleaned: Vec<LeaseId>,
    /// Leases that ended at the host, and how it came.
    #[serde(default)]
    pub ended: Vec<EndedAtHost>,
    /// The revision of the last answer; with `wait_ms` the registry answers as soon as it has a newer one.
    #[serde(default)]
    pub known_revision: Option<u64>,
    /// What the host has seen changed behind its agent's back, and mended, since it was last heard.
    #[serde(default)]
    pub violations: Vec<ReportedViolation>,
    /// How long the registry may hold the answer, in milliseconds; at most 10,000.
    #[serde(default)]
    pub wait_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReportedViolation {
    pub partition: PartitionId,
    /// Which lease the partition was opened for; none: it was on offer.
    #[serde(default)]
    pub lease: Option<LeaseId>,
    pub violation: Violation,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct EndedAtHost {
    pub lease: LeaseId,
    pub reason: EndReason,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct HeartbeatReply {
    /// The registry's clock.
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub now: Timestamp,
    /// Grows whenever something below changes.
    pub revision: u64,
    /// Which lending keys the host shall accept.
    #[serde(default)]
    pub keys: KeyRules,
    /// The host is hidden when nothing is heard of it for two and a half times this long, in milliseconds.
    pub beat_every_ms: u64,
    /// All of the host's partitions that are registered; one that is missing is not.
    pub partitions: Vec<RegisteredPartition>,
}

/// Which lending keys a host shall accept; it goes by them until it is told of others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct KeyRules {
    /// Grows with each change of the issuers' keys.
    pub generation: u64,
    /// Public keys (Ed25519, 64 hexadecimal digits) by one of which a key must be signed.
    pub issuers: Vec<String>,
    /// Keys of leases that run, which are not to be accepted all the same.
    pub revoked: Vec<RevokedKey>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct RevokedKey {
    pub key: KeyId,
    /// By then it has expired.
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub until: Timestamp,
}

/// `POST /v1/search`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Search {
    #[serde(default)]
    pub conditions: Conditions,
    /// Most offers in one answer; 1 to 1000, 20 where not stated.
    #[serde(default)]
    pub limit: Option<u32>,
    /// `next_cursor` of the answer before.
    #[serde(default)]
    pub cursor: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SearchReply {
    /// Cheapest first, then least waste.
    pub offers: Vec<Offer>,
    pub next_cursor: Option<String>,
    /// Why other offers do not match; only where none does.
    pub explanation: Option<Explanation>,
}

/// A free partition and its terms: what a borrower accepts (S44).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Offer {
    pub host: HostId,
    pub partition: PartitionId,
    pub terms: Terms,
    pub terms_version: TermsVersion,
}

/// `POST /v1/leases`: accepts the very terms that were shown (S45).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MakeLease {
    pub host: HostId,
    pub partition: PartitionId,
    pub terms_version: TermsVersion,
    /// The lease ends by itself after so many seconds; 1 to what the terms allow, at most 31,536,000 (365 days).
    pub duration_seconds: u64,
    /// Most that the lease may cost, in the currency of its price: once it is spent the lease ends.
    #[serde(default)]
    pub budget: Option<Amount>,
}

/// `POST /v1/quotes`: what a lease would cost at most; it asks for what [`MakeLease`] would, and takes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AskQuote {
    pub host: HostId,
    pub partition: PartitionId,
    pub duration_seconds: u64,
    #[serde(default)]
    pub budget: Option<Amount>,
}

/// What a lease of the partition would be, were it made with these terms. Nothing is reserved: the version of the
/// terms says whether they are still these when the lease is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Quote {
    pub host: HostId,
    /// Base URL of the host's agent.
    pub host_address: String,
    pub partition: PartitionId,
    pub terms: Terms,
    pub terms_version: TermsVersion,
    pub rounding: Rounding,
    #[serde(default)]
    pub receipts: Option<ReceiptTerms>,
    /// The lease ends after so many seconds unless it is returned or recalled before.
    pub ends_after_seconds: u64,
    /// For which reason then.
    pub ends_for: EndReason,
    /// What it costs then.
    pub worst_case: Amount,
}

/// `POST /v1/leases/{lease}/renew`. Said again, it changes nothing; the answer always has a key until the lease's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RenewLease {
    /// How long the lease shall be in all, from its start; not less than it is. What the terms allow, at most 365 days.
    pub duration_seconds: u64,
    /// Most that it may cost in all, not less than before; none: as before.
    #[serde(default)]
    pub budget: Option<Amount>,
}

/// A lease just made: all that the borrower needs (S46–S48).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct LeaseGranted {
    pub lease: Lease,
    /// Opens the partition at the host, until the lease's end.
    pub key: Secret,
    /// To be shown to the host with the key.
    pub allocation_digest: AllocationDigest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Lease {
    pub id: LeaseId,
    pub host: HostId,
    /// Base URL of the host's agent.
    pub host_address: String,
    /// The key that the host proves to have over TLS: whoever has another is not the host. None: the address says how it is
    /// known.
    #[serde(default)]
    pub host_tls_key: Option<TlsKey>,
    pub partition: PartitionId,
    pub borrower: BorrowerId,
    pub lender: LenderId,
    pub terms: Terms,
    pub rounding: Rounding,
    /// Name of the lending key: what was signed under another is not good any more.
    pub key: KeyId,
    pub epoch: Epoch,
    /// When billing started: the moment the registry made the lease.
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub started_at: Timestamp,
    /// When the time that was asked for is over; renewal moves it.
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub asked_until: Timestamp,
    /// When the lease ends unless it is ended before; the host knows it too.
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
    /// For which reason it ends then.
    pub expires_for: EndReason,
    /// Most that it may cost; what the borrower would pay at most is not told to the lender.
    pub budget: Option<Micros>,
    /// What it costs if it runs until then.
    pub worst_case: Micros,
    /// The lender wants the partition back.
    pub recall: Option<Recall>,
    /// By which its receipt is checked, and what follows from that; none: it has no receipt.
    #[serde(default)]
    pub receipts: Option<ReceiptTerms>,
    /// What its host has found changed behind its agent's back, oldest first, at most 100; not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
    /// None: the lease is active.
    pub end: Option<LeaseEnd>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct LeaseEnd {
    /// When billing ended: the moment the registry received the end (S58), on its own clock.
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    pub reason: EndReason,
    pub charge: Micros,
    pub currency: Currency,
}

/// `POST /v1/leases/{id}/end`: the row is found by borrower, host, partition and key together (S58–S59).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct EndLease {
    pub host: HostId,
    pub partition: PartitionId,
    pub key: Secret,
}

/// `GET /v1/ledger`: a borrower's or a lender's entries.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Ledger {
    /// Newest first.
    pub entries: Vec<LedgerEntry>,
    pub next_cursor: Option<String>,
}

/// An entry of the ledger; its legs sum to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct LedgerEntry {
    #[serde(flatten)]
    pub entry: Entry,
    /// What the lease that it settles was billed for: with it the entry can be recomputed [0041, 0096].
    pub used: Option<LeaseUse>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct LeaseUse {
    pub host: HostId,
    pub partition: PartitionId,
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub started_at: Timestamp,
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub ended_at: Timestamp,
    pub reason: EndReason,
    pub per_hour_micros: i64,
    pub rounding: Rounding,
    /// The registry's share of the charge, in millionths, as the lease says.
    pub fee_millionths: FeeRate,
}

/// `GET /v1/balances`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Balances {
    pub balances: Vec<AccountBalance>,
}

/// How an account stands in one currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct AccountBalance {
    pub currency: Currency,
    /// What all entries have added to it; less than nothing: it is owed.
    pub balance: Micros,
    /// What all leases of the borrower that run could cost at most.
    pub held: Micros,
    /// Most that `held` may be beyond `balance`; none: no bound, unless there is one in another currency.
    pub limit: Option<Micros>,
}

/// `GET /v1/statements/{yyyy-mm}`: one account's month, by UTC. A month that is over stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Statement {
    #[cfg_attr(feature = "server", schema(example = "2026-11"))]
    pub month: String,
    pub account: Account,
    /// Whether the month is over.
    pub is_final: bool,
    pub sums: Vec<StatementSum>,
    /// Oldest first.
    pub entries: Vec<LedgerEntry>,
    pub next_cursor: Option<String>,
}

/// Whose money it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(tag = "role", content = "id", rename_all = "snake_case")]
pub enum Account {
    Borrower(BorrowerId),
    Lender(LenderId),
}

/// A month in one currency: `closing = opening + leases + credits + deposits + payouts`, each as it adds to the account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct StatementSum {
    pub currency: Currency,
    pub opening: Micros,
    pub leases: Micros,
    pub credits: Micros,
    pub deposits: Micros,
    pub payouts: Micros,
    pub closing: Micros,
}
