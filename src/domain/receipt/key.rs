//! The keys that receipts are signed with: Ed25519 (RFC 8032).

use std::fmt;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

pub use crate::domain::hexadecimal::NotHex;
use crate::domain::{
    hexadecimal::{digits, hexadecimal},
    secret::Secret,
};

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

/// The private half; only the host has it.
pub struct ReceiptSigner(SigningKey);

impl ReceiptSigner {
    /// The key whose secret is `seed`: 32 bytes from the system's random source.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// Reads what [`Self::secret`] gave.
    pub fn from_secret(secret: &Secret) -> Result<Self, NotHex> {
        digits("a receipt's secret key", secret.reveal()).map(Self::from_seed).map_err(NotHex::hidden)
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

impl From<[u8; 32]> for ReceiptKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl Signature {
    pub fn bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl From<[u8; 64]> for Signature {
    fn from(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<&[u8]> for Signature {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

hexadecimal!(ReceiptKey, "a receipt's key");
hexadecimal!(Signature, "a signature");

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
