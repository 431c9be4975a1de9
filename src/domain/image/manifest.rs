//! A manifest: the config and the blobs that make an artifact (OCI image-spec 1.1, manifest).

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    bounded,
    descriptor::{Annotations, Descriptor},
    digest::Digest,
    media_type,
};

/// Longest manifest or index that is read, in bytes; distribution-spec 1.1 has registries take so much.
pub const MANIFEST_MAX_BYTES: u64 = 4 << 20;
/// Most layers that a manifest may have, of whatever artifact.
pub const LAYERS_MAX: usize = 128;

/// The only schema there is.
const SCHEMA: u32 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u32,
    media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub config: Descriptor,
    #[serde(deserialize_with = "bounded::list::<_, _, LAYERS_MAX>")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
}

/// Why bytes are no manifest or index.
#[derive(Debug, Error)]
pub enum BadManifest {
    #[error("it is {0} bytes long, and no more than {MANIFEST_MAX_BYTES} are read")]
    TooLong(u64),
    #[error("it cannot be read")]
    Json(#[from] serde_json::Error),
    #[error("its schemaVersion is {0}, and should be {SCHEMA}")]
    Schema(u32),
    #[error("its mediaType is {found:?}, and should be {expected:?}")]
    MediaType { expected: &'static str, found: String },
}

impl Manifest {
    /// Of an artifact of this type, without layers yet.
    pub fn new(artifact_type: &str, config: Descriptor) -> Self {
        Self {
            schema_version: SCHEMA,
            media_type: media_type::MANIFEST.to_owned(),
            artifact_type: Some(artifact_type.to_owned()),
            config,
            layers: Vec::new(),
            subject: None,
            annotations: Annotations::new(),
        }
    }

    pub fn read(bytes: &[u8]) -> Result<Self, BadManifest> {
        check_length(bytes)?;
        let manifest: Self = serde_json::from_slice(bytes)?;
        check_kind(manifest.schema_version, &manifest.media_type, media_type::MANIFEST)?;
        Ok(manifest)
    }

    /// As it is stored, sent and signed.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// What an index says of it.
    pub fn descriptor(&self, bytes: &[u8]) -> Descriptor {
        Descriptor {
            artifact_type: self.artifact_type.clone(),
            annotations: self.annotations.clone(),
            ..Descriptor::of(media_type::MANIFEST, bytes)
        }
    }

    /// Config and layers: all that has to be there before it.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// What it is said to be: by its own word, or by its config's kind, as before artifacts had types.
    pub fn kind(&self) -> &str {
        self.artifact_type.as_deref().unwrap_or(&self.config.media_type)
    }

    /// Whether it is about the manifest of this digest.
    pub fn is_about(&self, subject: &Digest) -> bool {
        self.subject.as_ref().is_some_and(|descriptor| descriptor.digest == *subject)
    }
}

pub(super) fn check_length(bytes: &[u8]) -> Result<(), BadManifest> {
    let length = bytes.len() as u64;
    if length > MANIFEST_MAX_BYTES { Err(BadManifest::TooLong(length)) } else { Ok(()) }
}

pub(super) fn check_kind(schema: u32, found: &str, expected: &'static str) -> Result<(), BadManifest> {
    if schema != SCHEMA {
        return Err(BadManifest::Schema(schema));
    }
    if found == expected {
        return Ok(());
    }
    Err(BadManifest::MediaType { expected, found: found.chars().take(128).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::image::{
        index::Index,
        signature::{ImageSignature, ImageSigner},
    };
    use proptest::prelude::*;

    fn manifest() -> Manifest {
        let mut manifest = Manifest::new(media_type::IMAGE, Descriptor::of(media_type::CONFIG, b"{}"));
        manifest.layers.push(Descriptor::of(media_type::KERNEL, b"kernel"));
        manifest
    }

    fn with_layers(count: usize) -> Vec<u8> {
        let layer = serde_json::to_string(&Descriptor::of("a", b"")).unwrap();
        let layers = vec![layer; count].join(",");
        let config = serde_json::to_string(&manifest().config).unwrap();
        let kind = media_type::MANIFEST;
        format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{config},"layers":[{layers}]}}"#).into()
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        assert_eq!(Manifest::read(&manifest().to_bytes().unwrap()).unwrap(), manifest());
    }

    #[test]
    fn more_layers_than_an_artifact_may_have_are_refused_by_number_or_by_length() {
        assert!(Manifest::read(&with_layers(LAYERS_MAX)).is_ok());
        let error = Manifest::read(&with_layers(LAYERS_MAX + 1)).unwrap_err();
        assert!(matches!(&error, BadManifest::Json(cause) if cause.to_string().contains("more than 128")));
        let bytes = with_layers(1_000_000);
        assert!(matches!(Manifest::read(&bytes), Err(BadManifest::TooLong(_))));
    }

    #[test]
    fn another_kind_of_thing_is_no_manifest() {
        let text = String::from_utf8(manifest().to_bytes().unwrap()).unwrap();
        let index = text.replace(media_type::MANIFEST, media_type::INDEX);
        assert!(matches!(Manifest::read(index.as_bytes()), Err(BadManifest::MediaType { .. })));
        let first = text.replace("\"schemaVersion\":2", "\"schemaVersion\":1");
        assert!(matches!(Manifest::read(first.as_bytes()), Err(BadManifest::Schema(1))));
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_they_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Manifest::read(&bytes);
            let _ = Index::read(&bytes);
            let _ = ImageSignature::read(&bytes);
        }

        #[test]
        fn whatever_byte_is_changed_of_a_manifest_an_index_or_a_signature_it_is_read_or_refused(
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let changed = |mut bytes: Vec<u8>| {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                bytes
            };
            let manifest = manifest().to_bytes().unwrap();
            let index = Index::of(vec![Descriptor::of(media_type::MANIFEST, &manifest)]);
            let signature = ImageSigner::from_seed([1; 32]).sign(Digest::of(&manifest));
            let _ = Manifest::read(&changed(manifest.clone()));
            let _ = Index::read(&changed(index.to_bytes().unwrap()));
            if let Some(read) = ImageSignature::read(&changed(signature.to_bytes().unwrap())) {
                let is_same = read == signature;
                prop_assert_eq!(read.vouches_for(&Digest::of(&manifest)), is_same);
            }
        }
    }
}
