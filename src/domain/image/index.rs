//! An index: the manifests of a layout, or those that one name stands for (OCI image-spec 1.1, index).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    bounded,
    descriptor::{Annotations, Descriptor, REF_NAME},
    digest::Digest,
    manifest::{BadManifest, check_kind, check_length},
    media_type,
    reference::{Tag, Version},
};

/// Most manifests that an index may list.
pub const MANIFESTS_MAX: usize = 16_384;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    schema_version: u32,
    #[serde(default = "index_media_type")]
    media_type: String,
    #[serde(deserialize_with = "bounded::list::<_, _, MANIFESTS_MAX>")]
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
}

/// Layouts of older tools do not say it.
fn index_media_type() -> String {
    media_type::INDEX.to_owned()
}

impl Default for Index {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl Index {
    pub fn of(manifests: Vec<Descriptor>) -> Self {
        let (media_type, annotations) = (index_media_type(), Annotations::new());
        Self { schema_version: 2, media_type, manifests, annotations }
    }

    pub fn read(bytes: &[u8]) -> Result<Self, BadManifest> {
        check_length(bytes)?;
        let index: Self = serde_json::from_slice(bytes)?;
        check_kind(index.schema_version, &index.media_type, media_type::INDEX)?;
        Ok(index)
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// The manifest that a tag or digest stands for.
    pub fn find(&self, version: &Version) -> Option<&Descriptor> {
        self.manifests.iter().find(|descriptor| match version {
            Version::Tag(tag) => descriptor.tag() == Some(tag.as_str()),
            Version::Digest(digest) => descriptor.digest == *digest,
        })
    }

    /// All tags, in the order of their bytes; what could not be one is passed over.
    pub fn tags(&self) -> Vec<Tag> {
        let named = self.manifests.iter().filter_map(Descriptor::tag);
        let mut tags: Vec<Tag> = named.filter_map(|name| name.parse().ok()).collect();
        tags.sort();
        tags.dedup();
        tags
    }

    /// Lists a manifest; a tag leaves whichever had it before, which stays without one.
    pub fn add(&mut self, mut descriptor: Descriptor, tag: Option<&Tag>) {
        descriptor.annotations.remove(REF_NAME);
        if let Some(tag) = tag {
            for other in &mut self.manifests {
                if other.tag() == Some(tag.as_str()) {
                    other.annotations.remove(REF_NAME);
                }
            }
            descriptor.annotations.insert(REF_NAME.to_owned(), tag.to_string());
        }
        self.manifests.retain(|other| (other.digest, other.tag()) != (descriptor.digest, descriptor.tag()));
        self.manifests.push(descriptor);
        self.keep_untagged_once();
    }

    /// An entry without a tag is for what has none.
    fn keep_untagged_once(&mut self) {
        let tagged = self.manifests.iter().filter(|entry| entry.tag().is_some()).map(|entry| entry.digest);
        let mut listed: BTreeSet<Digest> = tagged.collect();
        self.manifests.retain(|entry| entry.tag().is_some() || listed.insert(entry.digest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(bytes: &[u8]) -> Descriptor {
        Descriptor::of(media_type::MANIFEST, bytes)
    }

    fn tag(text: &str) -> Tag {
        text.parse().unwrap()
    }

    #[test]
    fn a_tag_stands_for_the_manifest_that_had_it_last() {
        let mut index = Index::default();
        index.add(manifest(b"old"), Some(&tag("12")));
        index.add(manifest(b"new"), Some(&tag("12")));
        assert_eq!(index.find(&Version::Tag(tag("12"))).unwrap().digest, manifest(b"new").digest);
        assert!(index.find(&Version::Digest(manifest(b"old").digest)).is_some(), "it is there by its digest");
        assert_eq!(index.manifests.len(), 2);
    }

    #[test]
    fn a_manifest_may_have_several_tags_and_is_listed_once_where_it_has_none() {
        let mut index = Index::default();
        index.add(manifest(b"a"), None);
        index.add(manifest(b"a"), None);
        assert_eq!(index.manifests.len(), 1);
        for name in ["b", "a", "a"] {
            index.add(manifest(b"a"), Some(&tag(name)));
        }
        index.add(manifest(b"a"), None);
        assert_eq!(index.tags(), [tag("a"), tag("b")]);
        assert_eq!(index.manifests.len(), 2);
    }

    #[test]
    fn an_index_without_a_media_type_is_one_of_an_older_tool() {
        assert_eq!(Index::read(br#"{"schemaVersion":2,"manifests":[]}"#).unwrap(), Index::default());
        assert!(Index::read(br#"{"schemaVersion":2,"manifests":[],"mediaType":"text/plain"}"#).is_err());
    }
}
