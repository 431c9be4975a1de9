//! Data of the events of `GET /v1/events`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::{
    id::{BorrowerId, HostId, LeaseId, PartitionId},
    lease::EndReason,
    terms::{Terms, TermsVersion},
};

/// What happened, and to what; of the other fields those that belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Event {
    /// Also the event's name.
    pub kind: EventKind,
    /// The registry's clock.
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<PartitionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms_version: Option<TermsVersion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub borrower: Option<BorrowerId>,
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<EndReason>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Event {
    pub fn new(kind: EventKind, at: Timestamp) -> Self {
        Self {
            kind,
            at,
            host: None,
            partition: None,
            terms: None,
            terms_version: None,
            lease: None,
            borrower: None,
            expires_at: None,
            reason: None,
            detail: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The stream begins: from here on nothing is missed.
    Following,
    /// Events may have been missed between the last that was read and this one: read again what matters.
    Reread,
    /// The stream ends: its reader was too slow. Come again, and read again what matters.
    Dropped,
    OfferRegistered,
    OfferChanged,
    OfferWithdrawn,
    /// Somebody has borrowed the partition.
    OfferTaken,
    /// The partition is free again.
    OfferFree,
    LeaseMade,
    LeaseRenewed,
    LeaseRecalled,
    /// Another key took the place of the lease's: the one before opens nothing any more.
    KeyRevoked,
    LeaseEnded,
    /// A host has seen what was set aside changed behind its agent's back.
    Violation,
    HostUp,
    HostDown,
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Following => "following",
            Self::Reread => "reread",
            Self::Dropped => "dropped",
            Self::OfferRegistered => "offer_registered",
            Self::OfferChanged => "offer_changed",
            Self::OfferWithdrawn => "offer_withdrawn",
            Self::OfferTaken => "offer_taken",
            Self::OfferFree => "offer_free",
            Self::LeaseMade => "lease_made",
            Self::LeaseRenewed => "lease_renewed",
            Self::LeaseRecalled => "lease_recalled",
            Self::KeyRevoked => "key_revoked",
            Self::LeaseEnded => "lease_ended",
            Self::Violation => "violation",
            Self::HostUp => "host_up",
            Self::HostDown => "host_down",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_named_as_its_kind_is_written() {
        for kind in
            [EventKind::Following, EventKind::OfferTaken, EventKind::LeaseRecalled, EventKind::HostDown]
        {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn what_does_not_belong_to_an_event_is_left_out() {
        let event = Event::new(EventKind::HostUp, Timestamp::UNIX_EPOCH);
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(text, r#"{"kind":"host_up","at":"1970-01-01T00:00:00Z"}"#);
    }
}
