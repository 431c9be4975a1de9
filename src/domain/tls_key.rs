//! The key by which a host is known over TLS: whoever holds its private half is the host, whatever the certificate
//! around it says.

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

const PREFIX: &str = "sha256//";

/// SHA-256 of a public key (its `SubjectPublicKeyInfo` in DER); on the wire `sha256//` and 44 characters of base64, as
/// curl's `--pinnedpubkey` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "server", schema(value_type = String, pattern = "^sha256//[A-Za-z0-9+/]{43}=$"))]
#[serde(try_from = "String", into = "String")]
pub struct TlsKey([u8; 32]);

#[derive(Debug, Error, PartialEq, Eq)]
#[error("a TLS key is \"sha256//\" and the base64 of 32 bytes, not {0:?}")]
pub struct NotATlsKey(String);

impl TlsKey {
    /// Of a public key, as a certificate holds it.
    pub fn of(subject_public_key_info: &[u8]) -> Self {
        Self(Sha256::digest(subject_public_key_info).into())
    }
}

impl fmt::Display for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", BASE64_STANDARD.encode(self.0))
    }
}

impl FromStr for TlsKey {
    type Err = NotATlsKey;

    fn from_str(text: &str) -> Result<Self, NotATlsKey> {
        let bytes = text.strip_prefix(PREFIX).and_then(|code| BASE64_STANDARD.decode(code).ok());
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| NotATlsKey(text.to_owned()))
    }
}

impl TryFrom<String> for TlsKey {
    type Error = NotATlsKey;

    fn try_from(text: String) -> Result<Self, NotATlsKey> {
        text.parse()
    }
}

impl From<TlsKey> for String {
    fn from(key: TlsKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_as_curl_takes_it_and_read_again() {
        let key = TlsKey::of(b"");
        assert_eq!(key.to_string(), "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(serde_json::to_string(&key).unwrap(), format!("\"{key}\""));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for wrong in
            ["", "sha256//", "sha256//AAAA", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "sha256//*"]
        {
            assert!(wrong.parse::<TlsKey>().is_err(), "{wrong}");
        }
    }
}
