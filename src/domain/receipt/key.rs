//! The keys that receipts are signed with: Ed25519 (RFC 8032).

use std::{fmt, str::FromStr};

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::domain::secret::Secret;

/// What is signed begins with this, so that a signature over something else is never taken for one of a receipt's.
const CONTEXT: &[u8] = b"sublet receipt 1\n";

/// Whom a signature is from; 64 hexadecimal digits on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "server", schema(value_type = String, pattern = "^[0-9a-f]{64}$"))]
#[serde(try_from = "String", into = "String")]
pub struct ReceiptKey([u8; 32]);

/// 128 hexadecimal digits on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "server", schema(value_type = String, pattern = "^[0-9a-f]{128}$"))]
#[serde(try_from = "String", into = "String")]
pub struct Signature([u8; 64]);

#[derive(Debug, Error, PartialEq, Eq)]
#[error("{what} is {digits} hexadecimal digits, not {got:?}")]
pub struct NotHex {
    what: &'static str,
    digits: usize,
    got: String,
}

/// The private half; only the host has it.
pub struct ReceiptSigner(SigningKey);

impl ReceiptSigner {
    /// The key whose secret is `seed`: 32 bytes from the system's random source.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// Reads what [`Self::secret`] gave.
    pub fn from_secret(secret: &Secret) -> Result<Self, NotHex> {
        // What is wrong with a secret is not shown.
        let hidden = |_| NotHex { what: "a receipt's secret key", digits: 64, got: "…".to_owned() };
        digits("", secret.reveal()).map(Self::from_seed).map_err(hidden)
    }

    /// To be stored where only the host can read it: 64 hexadecimal digits.
    pub fn secret(&self) -> Secret {
        Secret::new(hex::encode(self.0.to_bytes()))
    }

    pub fn key(&self) -> ReceiptKey {
        ReceiptKey(self.0.verifying_key().to_bytes())
    }

    pub fn sign(&self, text: &str) -> Signature {
        Signature(self.0.sign(&signed(text)).to_bytes())
    }
}

impl fmt::Debug for ReceiptSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiptSigner({}, …)", self.key())
    }
}

impl ReceiptKey {
    /// Whether `signature` is this key's, over exactly this text.
    pub fn has_signed(&self, text: &str, signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(&signed(text), &signature).is_ok())
    }
}

fn signed(text: &str) -> Vec<u8> {
    [CONTEXT, text.as_bytes()].concat()
}

fn digits<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], NotHex> {
    let mut bytes = [0; N];
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(NotHex { what, digits: 2 * N, got: text.to_owned() }),
    }
}

impl From<[u8; 32]> for ReceiptKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<&[u8]> for Signature {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

macro_rules! hexadecimal {
    ($name:ident, $what:literal) => {
        impl FromStr for $name {
            type Err = NotHex;

            fn from_str(text: &str) -> Result<Self, NotHex> {
                digits($what, text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NotHex;

            fn try_from(text: String) -> Result<Self, NotHex> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(bytes: $name) -> Self {
                hex::encode(bytes.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

hexadecimal!(ReceiptKey, "a receipt's key");
hexadecimal!(Signature, "a receipt's signature");

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> ReceiptSigner {
        ReceiptSigner::from_seed([7; 32])
    }

    #[test]
    fn a_text_is_signed_by_one_key_and_no_other_text_is() {
        let signature = signer().sign("text");
        assert!(signer().key().has_signed("text", &signature));
        assert!(!signer().key().has_signed("texT", &signature));
        assert!(!ReceiptSigner::from_seed([8; 32]).key().has_signed("text", &signature));
    }

    #[test]
    fn keys_and_signatures_are_read_as_they_were_written() {
        let (key, signature) = (signer().key(), signer().sign(""));
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(signature.to_string().parse(), Ok(signature));
        assert_eq!(ReceiptSigner::from_secret(&signer().secret()).unwrap().key(), key);
        assert!("7f".parse::<ReceiptKey>().unwrap_err().to_string().contains("64 hexadecimal digits"));
    }

    #[test]
    fn a_secret_that_is_none_is_not_shown() {
        let error = ReceiptSigner::from_secret(&Secret::new("hunter2")).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hunter2"));
    }
}
