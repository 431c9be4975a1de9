//! Signatures beside their images: artifacts of their own in the same layout.

use thiserror::Error;

use super::layout::{Layout, LayoutError};
use crate::domain::image::{
    descriptor::Descriptor,
    digest::Digest,
    media_type,
    signature::{EMPTY_CONFIG, ImageSignature, ImageSigner, SIGNATURE_MAX_BYTES, SIGNATURES_MAX},
};

#[derive(Debug, Error)]
pub enum SignError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("cannot write as JSON")]
    Json(#[from] serde_json::Error),
}

/// Vouches for an image of this layout; returns the signature's manifest.
pub fn sign(layout: &Layout, image: Descriptor, signer: &ImageSigner) -> Result<Descriptor, SignError> {
    let signature = signer.sign(image.digest);
    let blob = layout.add_blob(media_type::SIGNATURE_BLOB, &signature.to_bytes()?)?;
    layout.add_blob(media_type::EMPTY, EMPTY_CONFIG)?;
    let manifest = ImageSignature::manifest(blob, image);
    Ok(layout.add_manifest(&manifest, &manifest.to_bytes()?, None)?)
}

/// All signatures of an image that this layout has; whether any of them is good for something, a policy says.
pub fn signatures(layout: &Layout, image: &Digest) -> Result<Vec<ImageSignature>, LayoutError> {
    let mut found = Vec::new();
    for (_, manifest) in layout.referrers(image)?.into_iter().take(SIGNATURES_MAX) {
        if let Some(blob) = ImageSignature::blob_in(&manifest, image) {
            found.extend(ImageSignature::read(&layout.read_blob(blob, SIGNATURE_MAX_BYTES)?));
        }
    }
    Ok(found)
}
