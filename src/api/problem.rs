//! Errors on the wire: RFC 9457 problem details with a stable code.

use serde::{Deserialize, Serialize};

use crate::domain::{lending_key::KeyRefusal, terms::TermsVersion};

/// `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Problem {
    /// What kind of problem this is; stable, for programs.
    pub code: Code,
    /// The HTTP status, again.
    pub status: u16,
    /// What kind of problem this is, for people.
    pub title: String,
    /// What was wrong this time, with which value, and what to do.
    pub detail: String,
    /// The version that the offer has, where it is another than what was asked for takes it to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_version: Option<TermsVersion>,
}

macro_rules! codes {
    ($($code:ident $status:literal $title:literal),* $(,)?) => {
        /// Every kind of problem that either server answers with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
        #[serde(rename_all = "snake_case")]
        pub enum Code {
            $(#[doc = $title] $code,)*
        }

        impl Code {
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$code,)*];

            pub fn status(self) -> u16 {
                match self { $(Self::$code => $status,)* }
            }

            pub fn title(self) -> &'static str {
                match self { $(Self::$code => $title,)* }
            }
        }
    };
}

codes! {
    MalformedRequest 400 "The request cannot be read",
    Unauthorized 401 "A valid token or key is needed",
    Forbidden 403 "This token or key does not allow that",
    NotFound 404 "There is no such thing",
    MethodNotAllowed 405 "This method is not served here",
    PayloadTooLarge 413 "The request is too large",
    UpgradeRequired 426 "The connection has to be upgraded",
    UnsupportedMediaType 415 "The body must be application/json",
    InvalidRequest 422 "A value is out of its bounds",
    TooManyRequests 429 "Too much is asked at once",
    Internal 500 "The server failed",
    RegistryUnreachable 503 "The registry cannot be reached",
    StorageFailed 503 "The server cannot store anything now",
    StorageFull 507 "The server's disk is full",

    // The agent's.
    InsufficientResources 409 "The host does not have that much to set aside",
    UnknownOsImage 422 "The host has no such OS image",
    PartitionFrozen 409 "A partition on offer or lent does not change here",
    PartitionNotOffered 409 "The partition is not on offer",
    PartitionOffered 409 "The partition is on offer already",
    PartitionLent 409 "The partition is lent",
    PartitionNotReady 409 "The partition is being prepared or cleaned",
    NotBorrowed 409 "The partition was not opened with this key yet",
    OtherImageRunning 409 "Another OS image is running in the partition",
    GuestNotRunning 409 "No guest is running in the partition",
    GuestFailed 502 "The guest could not be started",
    GuestSilent 504 "The guest does not answer",
    GuestPortClosed 502 "Nobody listens at this port of the guest",
    TunnelFailed 502 "The guest could not connect to this port of its own",
    TunnelsUnsupported 501 "The guest's job runner knows no tunnels",
    NetworkUnavailable 409 "The host cannot give a partition that network",
    NoRegistry 409 "This host belongs to no registry",

    // Lending keys, each way in which one fails.
    KeyInvalid 401 "The lending key is not valid",
    KeyExpired 401 "The lending key has expired",
    KeyForOtherHost 403 "The lending key is for another host",
    KeyForOtherPartition 403 "The lending key is for another partition",
    KeyEpochPassed 403 "The lending key is of an earlier lease",
    KeyRevoked 403 "The lending key was revoked",
    KeyAllocationMismatch 409 "The lending key is for another allocation",

    // The registry's.
    TermsChanged 409 "The terms are not those that were accepted",
    AlreadyLent 409 "Somebody else has borrowed the partition",
    HostSilent 409 "The host was not heard of lately",
    LeaseEnded 409 "The lease has ended",
    LeaseNotSettled 409 "The lease is not settled yet",
    LeaseRecalled 409 "The lender wants the partition back",
    RecallNotAllowed 409 "The terms of the lease know no recall",
    CreditExceeded 402 "The borrower's credit does not cover that",
    IdempotencyKeyReused 422 "The idempotency key was used for another request",
    PreconditionFailed 412 "The offer changed in the meantime",
    AccountBlocked 403 "The account is blocked",
    LeaseRuns 409 "The lease has not ended",
    ReceiptRefused 422 "This is not the next segment of the lease's receipt",
    HostCertificateNeeded 403 "Hosts have to show a certificate here",
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            status: code.status(),
            title: code.title().to_owned(),
            detail: detail.into(),
            current_version: None,
        }
    }
}

impl From<&KeyRefusal> for Code {
    fn from(refusal: &KeyRefusal) -> Self {
        match refusal {
            KeyRefusal::Invalid(_) => Self::KeyInvalid,
            KeyRefusal::Expired { .. } => Self::KeyExpired,
            KeyRefusal::Restricted(_) => Self::Forbidden,
            KeyRefusal::Revoked => Self::KeyRevoked,
            KeyRefusal::OtherHost => Self::KeyForOtherHost,
            KeyRefusal::OtherPartition => Self::KeyForOtherPartition,
            KeyRefusal::EpochPassed => Self::KeyEpochPassed,
            KeyRefusal::AllocationMismatch => Self::KeyAllocationMismatch,
        }
    }
}

impl From<KeyRefusal> for Problem {
    fn from(refusal: KeyRefusal) -> Self {
        Self::new(Code::from(&refusal), refusal.to_string())
    }
}

/// Media type of a problem.
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

#[cfg(test)]
mod tests {
    use super::*;

    /// `| code | status | when | what to do |`
    #[test]
    fn each_code_is_explained_in_docs_errors_md_with_its_status_and_what_to_do() {
        let page = include_str!("../../docs/errors.md");
        let rows: Vec<Vec<&str>> = page
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let told: Vec<(&str, &str)> = rows.iter().map(|row| (row[0].trim_matches('`'), row[1])).collect();
        let codes: Vec<(String, String)> = Code::ALL
            .iter()
            .map(|code| {
                (serde_json::to_value(code).unwrap().as_str().unwrap().to_owned(), code.status().to_string())
            })
            .collect();
        let known: Vec<(&str, &str)> =
            codes.iter().map(|(code, status)| (code.as_str(), status.as_str())).collect();
        assert_eq!(told, known, "in the order in which they are declared");
        assert!(rows.iter().all(|row| row.len() == 4 && row.iter().all(|cell| !cell.is_empty())));
    }
}
