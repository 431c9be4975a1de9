//! How a manifest speaks of a blob: what kind it is of, its digest, and how long it is (OCI image-spec 1.1, descriptor).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// Names by which tools know what they show, with their values.
pub type Annotations = BTreeMap<String, String>;

/// Of OCI: what people call it.
pub const TITLE: &str = "org.opencontainers.image.title";
/// Of OCI: when it was built (RFC 3339).
pub const CREATED: &str = "org.opencontainers.image.created";
/// Of OCI: the tag, in the index of a layout.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Ours: the guest's OS, as people call it.
pub const OS: &str = "vnd.sublet.image.os";
/// Ours: how large a disk is, in bytes.
pub const DISK_BYTES: &str = "vnd.sublet.disk.bytes";
/// Ours: the Merkle root over a disk's chunks.
pub const MERKLE_ROOT: &str = "vnd.sublet.disk.merkle-root";

/// What a manifest or an index holds of a blob. Fields of OCI's that we have no use for are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: Annotations,
}

/// For what computer a manifest is, where an index has several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
}

impl Descriptor {
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            artifact_type: None,
            platform: None,
            annotations: Annotations::new(),
        }
    }

    /// Of bytes that are at hand.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// The tag that it has in its layout's index.
    pub fn tag(&self) -> Option<&str> {
        self.annotations.get(REF_NAME).map(String::as_str)
    }
}
