//! Lists of leases.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Lease;
use crate::domain::id::{HostId, PartitionId};

/// `GET /v1/leases`: a borrower's own, those of a lender's hosts, or for an administrator all.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Leases {
    /// Newest first.
    pub leases: Vec<Lease>,
    pub next_cursor: Option<String>,
}

/// Which of them: the query of `GET /v1/leases`. What is not stated is not asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseQuery {
    /// Only those that run, or only those that have ended.
    pub active: Option<bool>,
    pub host: Option<HostId>,
    pub partition: Option<PartitionId>,
    /// Most in one answer; 1 to 1000, 100 where not stated.
    pub limit: Option<u32>,
    /// `next_cursor` of the answer before.
    pub cursor: Option<Uuid>,
}

impl Lease {
    /// As its lender sees it.
    pub fn for_lender(self) -> Self {
        Self { budget: None, ..self }
    }
}
