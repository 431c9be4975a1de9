//! Tokens of the registry, on the wire.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::secret::Secret;

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All that its owner may do.
    #[default]
    Full,
    /// To look, and to change nothing.
    Read,
    /// To enrol hosts, and nothing else.
    Enrol,
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("a scope is full, read or enrol, not {0:?}")]
pub struct NotAScope(String);

impl Scope {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Read => "read",
            Self::Enrol => "enrol",
        }
    }

    /// Whether a call of `method` at `path` is within the scope.
    pub fn allows(self, method: &str, path: &str) -> bool {
        match self {
            Self::Full => true,
            // These ask, in a body, and take nothing.
            Self::Read => {
                method == "GET" || (method == "POST" && ["/v1/search", "/v1/quotes"].contains(&path))
            }
            Self::Enrol => (method, path) == ("POST", "/v1/hosts"),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = NotAScope;

    fn from_str(text: &str) -> Result<Self, NotAScope> {
        let named = [Self::Full, Self::Read, Self::Enrol].into_iter().find(|scope| scope.as_str() == text);
        named.ok_or_else(|| NotAScope(text.to_owned()))
    }
}

/// `POST /v1/tokens`: another token for whoever asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MakeToken {
    #[serde(default)]
    pub scope: Scope,
    /// It is good for so long, 1 to 315,360,000 (ten years); none: until it is revoked.
    #[serde(default)]
    pub valid_seconds: Option<u64>,
}

/// A token just made; shown once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TokenMade {
    pub id: Uuid,
    pub token: Secret,
    pub scope: Scope,
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
}

/// A token as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TokenView {
    pub id: Uuid,
    /// admin, lender, borrower or host.
    pub role: String,
    pub name: String,
    pub scope: Scope,
    #[cfg_attr(feature = "server", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
}

/// `GET /v1/tokens`: those of whoever asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Tokens {
    /// Newest first.
    pub tokens: Vec<TokenView>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_allows_what_it_says_and_no_more() {
        assert!(Scope::Full.allows("DELETE", "/v1/tokens/x"));
        assert!(Scope::Read.allows("GET", "/v1/leases") && Scope::Read.allows("POST", "/v1/search"));
        assert!(!Scope::Read.allows("POST", "/v1/leases") && !Scope::Read.allows("POST", "/v1/tokens"));
        assert!(Scope::Enrol.allows("POST", "/v1/hosts") && !Scope::Enrol.allows("GET", "/v1/ledger"));
        assert_eq!("read".parse(), Ok(Scope::Read));
        assert!("write".parse::<Scope>().is_err());
    }
}
