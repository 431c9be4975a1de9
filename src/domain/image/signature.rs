//! Signatures of images: Ed25519 (RFC 8032) over a manifest's digest, which stands for all there is in the image. A signature
//! says who vouches for an image, and nothing of the name that it goes by.

use std::fmt;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{descriptor::Descriptor, digest::Digest, manifest::Manifest, media_type};
pub use crate::domain::hexadecimal::NotHex;
use crate::domain::{
    hexadecimal::{digits, hexadecimal},
    receipt::key::Signature,
    secret::Secret,
};

/// What is signed begins with this, so that a signature over something else is never taken for one over an image.
const CONTEXT: &str = "sublet image 1\n";
/// Longest signature blob that is read, in bytes.
pub const SIGNATURE_MAX_BYTES: u64 = 4 * 1024;
/// Most signatures of one image that are looked at.
pub const SIGNATURES_MAX: usize = 64;
/// The config of an artifact that has none (OCI image-spec 1.1).
pub const EMPTY_CONFIG: &[u8] = b"{}";

/// Who vouches for images; 64 hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageKey([u8; 32]);

hexadecimal!(ImageKey, "a key for images");

/// The private half.
pub struct ImageSigner(SigningKey);

impl ImageSigner {
    /// The key whose secret is `seed`: 32 bytes from the system's random source.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// Reads what [`Self::secret`] gave.
    pub fn from_secret(secret: &Secret) -> Result<Self, NotHex> {
        digits("a secret key for images", secret.reveal()).map(Self::from_seed).map_err(NotHex::hidden)
    }

    /// To be kept where only its owner can read it: 64 hexadecimal digits.
    pub fn secret(&self) -> Secret {
        Secret::new(hex::encode(self.0.to_bytes()))
    }

    pub fn key(&self) -> ImageKey {
        ImageKey(self.0.verifying_key().to_bytes())
    }

    /// Vouches for the image with this manifest.
    pub fn sign(&self, digest: Digest) -> ImageSignature {
        let signature = self.0.sign(signed(&digest).as_bytes()).to_bytes();
        ImageSignature { key: self.key(), digest, signature: Signature::from(signature) }
    }
}

impl fmt::Debug for ImageSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageSigner({}, …)", self.key())
    }
}

/// What is in the blob of a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSignature {
    pub key: ImageKey,
    /// Of the manifest.
    pub digest: Digest,
    pub signature: Signature,
}

impl ImageSignature {
    /// None: it is no signature of ours, and so vouches for nothing.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Whether its key has signed the image with this manifest.
    pub fn vouches_for(&self, digest: &Digest) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(self.signature.bytes());
        self.digest == *digest
            && VerifyingKey::from_bytes(&self.key.0)
                .is_ok_and(|key| key.verify_strict(signed(digest).as_bytes(), &signature).is_ok())
    }

    /// The manifest that carries it; `blob` is its own.
    pub fn manifest(blob: Descriptor, subject: Descriptor) -> Manifest {
        let mut manifest =
            Manifest::new(media_type::SIGNATURE, Descriptor::of(media_type::EMPTY, EMPTY_CONFIG));
        manifest.layers.push(blob);
        manifest.subject = Some(Descriptor { annotations: Default::default(), ..subject });
        manifest
    }

    /// The blob with a signature of `subject`, where a manifest carries one.
    pub fn blob_in<'a>(manifest: &'a Manifest, subject: &Digest) -> Option<&'a Descriptor> {
        let [blob] = manifest.layers.as_slice() else { return None };
        let is_signature = manifest.kind() == media_type::SIGNATURE
            && manifest.is_about(subject)
            && blob.media_type == media_type::SIGNATURE_BLOB
            && blob.size <= SIGNATURE_MAX_BYTES;
        is_signature.then_some(blob)
    }
}

fn signed(digest: &Digest) -> String {
    format!("{CONTEXT}{digest}")
}

/// Whose images are taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignaturePolicy {
    /// Keys whose word is taken.
    pub trusted: Vec<ImageKey>,
    /// Whether an image for which none of them vouches is refused.
    pub required: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Vouched {
    /// A trusted key vouches for it.
    By(ImageKey),
    /// Nobody does, and nobody has to.
    ByNobody,
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("no trusted key has signed the image {digest}; it has {signatures} signatures in all")]
pub struct NotVouchedFor {
    digest: Digest,
    signatures: usize,
}

impl SignaturePolicy {
    /// Whether an image may be used, by what signatures of it were found.
    pub fn judge(&self, digest: &Digest, signatures: &[ImageSignature]) -> Result<Vouched, NotVouchedFor> {
        let is_trusted = |signature: &&ImageSignature| {
            self.trusted.contains(&signature.key) && signature.vouches_for(digest)
        };
        match signatures.iter().find(is_trusted) {
            Some(signature) => Ok(Vouched::By(signature.key)),
            None if self.required => Err(NotVouchedFor { digest: *digest, signatures: signatures.len() }),
            None => Ok(Vouched::ByNobody),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(seed: u8) -> ImageSigner {
        ImageSigner::from_seed([seed; 32])
    }

    fn image() -> Digest {
        Digest::of(b"manifest")
    }

    #[test]
    fn a_signature_vouches_for_one_image_and_is_read_as_it_was_written() {
        let signature = signer(7).sign(image());
        assert!(signature.vouches_for(&image()));
        assert!(!signature.vouches_for(&Digest::of(b"other")));
        let read = ImageSignature::read(&signature.to_bytes().unwrap()).unwrap();
        assert_eq!(read, signature);
        let moved = ImageSignature { digest: Digest::of(b"other"), ..read };
        assert!(!moved.vouches_for(&Digest::of(b"other")));
        assert_eq!(ImageSignature::read(b"{}"), None);
    }

    #[test]
    fn a_receipts_signature_over_the_same_text_vouches_for_nothing() {
        let receipt = crate::domain::receipt::key::ReceiptSigner::from_seed([7; 32]);
        let signature = receipt.sign(&signed(&image()));
        assert!(!ImageSignature { signature, ..signer(7).sign(image()) }.vouches_for(&image()));
    }

    #[test]
    fn a_policy_takes_the_word_of_keys_that_it_trusts() {
        let (trusted, required) = (vec![signer(1).key(), signer(2).key()], true);
        let policy = SignaturePolicy { trusted, required };
        let others = [signer(3).sign(image()), signer(1).sign(Digest::of(b"other"))];
        assert_eq!(policy.judge(&image(), &others), Err(NotVouchedFor { digest: image(), signatures: 2 }));
        let ours = [signer(3).sign(image()), signer(2).sign(image())];
        assert_eq!(policy.judge(&image(), &ours), Ok(Vouched::By(signer(2).key())));
        let lax = SignaturePolicy { required: false, ..policy };
        assert_eq!(lax.judge(&image(), &others), Ok(Vouched::ByNobody));
        assert_eq!(lax.judge(&image(), &ours), Ok(Vouched::By(signer(2).key())));
    }

    #[test]
    fn a_forged_signature_by_a_trusted_key_vouches_for_nothing() {
        let forged = ImageSignature { key: signer(1).key(), ..signer(3).sign(image()) };
        let policy = SignaturePolicy { trusted: vec![signer(1).key()], required: true };
        assert!(policy.judge(&image(), &[forged]).is_err());
    }

    #[test]
    fn a_secret_key_is_read_as_it_was_written_and_not_shown() {
        let read = ImageSigner::from_secret(&signer(7).secret()).unwrap();
        assert_eq!(read.key(), signer(7).key());
        let error = ImageSigner::from_secret(&Secret::new("hunter2")).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hunter2"));
    }
}
