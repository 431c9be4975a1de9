//! Hosts, as the registry knows them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::{
    id::{HostId, LenderId},
    tls_key::TlsKey,
};

/// `GET /v1/hosts`: a lender's own, or for an administrator all.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct KnownHosts {
    /// Newest first.
    pub hosts: Vec<KnownHost>,
    pub next_cursor: Option<String>,
}

/// `GET /v1/hosts/{host}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct KnownHost {
    pub host: HostId,
    pub lender: LenderId,
    /// Of the lender's account.
    pub lender_name: String,
    /// Base URL of the host's agent.
    pub address: String,
    /// By which borrowers know it over TLS.
    pub tls_key: Option<TlsKey>,
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub enrolled_at: Timestamp,
    /// Whether it was heard of lately; else its offers are hidden.
    pub is_up: bool,
    /// When it was heard of last: since then it is down, if it is. To the minute where another registry hears it; none: never.
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub heard_at: Option<Timestamp>,
    /// How many are registered: free, lent, or being cleaned after a lease.
    pub partitions: u64,
    /// How many of these are lent.
    pub lent: u64,
}
