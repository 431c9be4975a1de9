//! What the job runner in the guest has measured there, signed by it.
//!
//! The runner makes a key of its own each time it is started and shows its public half in the guest
//! (`/run/sublet-receipt.key`). Whoever compares that with the receipt's knows that the host has passed on what the runner
//! said; what that proves, and what not, is in `docs/threat-model.md`.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::key::{ReceiptKey, Signature};

/// Most CPUs of a guest, and most characters of its word: what a guest says is bounded.
pub const GUEST_WORD_MAX: usize = 4096;

/// What a runner said, exactly as it said it: JSON of one [`Measured`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestWord {
    pub text: String,
    /// The runner's own.
    pub key: ReceiptKey,
    pub signature: Signature,
}

/// Since the guest was started. It counts in its own time, of which a stop of the whole machine is no part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Of the nonce that the host gave this boot: SHA-256, 64 hexadecimal digits.
    pub boot: String,
    pub up_ms: u64,
    pub cpus: Vec<GuestCpu>,
}

/// As the guest's kernel counts it (proc(5), `/proc/stat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestCpu {
    pub busy_ms: u64,
    pub idle_ms: u64,
    pub steal_ms: u64,
}

impl GuestWord {
    /// What it says, if it is of the boot that has this nonce digest and signed by its own key.
    pub fn measured(&self) -> Option<Measured> {
        let fits = self.text.len() <= GUEST_WORD_MAX && self.key.has_signed(&self.text, &self.signature);
        fits.then(|| serde_json::from_str(&self.text).ok()).flatten()
    }
}

/// How a boot is named in what its runner signs: the nonce itself stays between host and guest.
pub fn boot_name(nonce: &str) -> String {
    hex::encode(Sha256::digest(nonce))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::receipt::key::ReceiptSigner;

    fn word(text: &str) -> GuestWord {
        let signer = ReceiptSigner::from_seed([1; 32]);
        GuestWord { text: text.to_owned(), key: signer.key(), signature: signer.sign(text) }
    }

    #[test]
    fn a_word_is_read_where_its_own_key_has_signed_it() {
        let said = word(r#"{"boot":"00","up_ms":9,"cpus":[{"busy_ms":1,"idle_ms":2,"steal_ms":3}]}"#);
        assert_eq!(said.measured().unwrap().cpus, [GuestCpu { busy_ms: 1, idle_ms: 2, steal_ms: 3 }]);
        let other = GuestWord { text: said.text.replace("\"steal_ms\":3", "\"steal_ms\":0"), ..said };
        assert_eq!(other.measured(), None);
        assert_eq!(word("nonsense").measured(), None);
    }
}
