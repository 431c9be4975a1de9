//! Manifests, and what hangs on them: the image that a name stands for, and who vouches for it.

use reqwest::{Method, StatusCode, header::ACCEPT};

use super::{Access, ImageClientError, ImageRegistry, What};
use crate::domain::image::{
    config::CONFIG_MAX_BYTES,
    contents::Image,
    descriptor::Descriptor,
    digest::Digest,
    index::Index,
    manifest::{MANIFEST_MAX_BYTES, Manifest},
    media_type,
    reference::{RepositoryName, Tag, Version},
    signature::{ImageSignature, SIGNATURE_MAX_BYTES, SIGNATURES_MAX},
};

/// A manifest as it came: its digest is of these bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedManifest {
    pub digest: Digest,
    pub bytes: Vec<u8>,
    pub manifest: Manifest,
}

/// An image at a registry: manifest and config are here, the layers are not.
#[derive(Debug, Clone)]
pub struct RemoteImage {
    pub fetched: FetchedManifest,
    pub config: Vec<u8>,
    pub image: Image,
}

/// What a name stands for.
enum Named {
    Manifest(Box<FetchedManifest>),
    Index(Index),
}

impl ImageRegistry {
    /// The manifest that a tag or digest stands for; of several, by an index, that of the OS image for `architecture`.
    pub async fn manifest(
        &self,
        name: &RepositoryName,
        version: &Version,
        architecture: &str,
    ) -> Result<FetchedManifest, ImageClientError> {
        let index = match self.named(name, version).await? {
            Named::Manifest(fetched) => return Ok(*fetched),
            Named::Index(index) => index,
        };
        let is_fit = |entry: &&Descriptor| {
            let platform = entry.platform.as_ref();
            entry.artifact_type.as_deref() == Some(media_type::IMAGE)
                && platform.is_none_or(|platform| platform.architecture == architecture)
        };
        let what = What::Manifest(name.clone(), version.clone());
        let Some(entry) = index.manifests.iter().find(is_fit) else {
            let (listed, architecture) = (index.manifests.len(), architecture.to_owned());
            return Err(ImageClientError::NoChoice { what, listed, architecture });
        };
        match self.named(name, &Version::Digest(entry.digest)).await? {
            Named::Manifest(fetched) => Ok(*fetched),
            Named::Index(_) => Err(ImageClientError::NestedIndex { what }),
        }
    }

    /// The image that a tag or digest stands for.
    pub async fn image(
        &self,
        name: &RepositoryName,
        version: &Version,
        architecture: &str,
    ) -> Result<RemoteImage, ImageClientError> {
        let fetched = self.manifest(name, version, architecture).await?;
        let what = What::Manifest(name.clone(), Version::Digest(fetched.digest));
        let failed = |source| ImageClientError::Image { what: what.clone(), source: Box::new(source) };
        let about = Image::expects_config(&fetched.manifest).map_err(failed)?;
        let config = self.short_blob(name, about, CONFIG_MAX_BYTES).await?;
        let image = Image::read(&fetched.manifest, &config).map_err(failed)?;
        Ok(RemoteImage { fetched, config, image })
    }

    /// The manifests of this type that are about another one: by the registry's list, or, where it has none, by the index
    /// under the tag that stands for it (distribution-spec 1.1).
    pub async fn referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        artifact_type: &str,
    ) -> Result<Vec<Descriptor>, ImageClientError> {
        let path = format!("referrers/{subject}?artifactType={artifact_type}");
        let request = self.request(Method::GET, name, &path).header(ACCEPT, media_type::INDEX);
        let response = self.send(request, name, Access::Pull).await?;
        let what = What::Referrers(name.clone(), *subject);
        let index = match response.status() {
            StatusCode::OK => {
                let bytes = self.whole(response, &what, MANIFEST_MAX_BYTES).await?;
                Index::read(&bytes).map_err(|source| ImageClientError::Manifest { what, source })?
            }
            // Those from before there was such a list do not all say it alike.
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED => {
                self.tagged_referrers(name, subject).await?
            }
            _ => return Err(self.refusal(response, what).await),
        };
        // A registry need not choose among them.
        let is_wanted = |entry: &Descriptor| entry.artifact_type.as_deref() == Some(artifact_type);
        Ok(index.manifests.into_iter().filter(is_wanted).collect())
    }

    /// The index of a registry that keeps no list of referrers; empty where there is none.
    pub(super) async fn tagged_referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
    ) -> Result<Index, ImageClientError> {
        let version = Version::Tag(Tag::of_referrers(subject));
        match self.named(name, &version).await {
            Ok(Named::Index(index)) => Ok(index),
            Ok(Named::Manifest(_)) | Err(ImageClientError::NotThere { .. }) => Ok(Index::default()),
            Err(error) => Err(error),
        }
    }

    /// The signatures of an image with their manifests; whether any is good for something, a policy says.
    pub async fn signatures(
        &self,
        name: &RepositoryName,
        image: &Digest,
    ) -> Result<Vec<(FetchedManifest, ImageSignature)>, ImageClientError> {
        let mut found = Vec::new();
        let listed = self.referrers(name, image, media_type::SIGNATURE).await?;
        for entry in listed.into_iter().take(SIGNATURES_MAX) {
            let Named::Manifest(fetched) = self.named(name, &Version::Digest(entry.digest)).await? else {
                continue;
            };
            let Some(blob) = ImageSignature::blob_in(&fetched.manifest, image) else { continue };
            let blob = self.short_blob(name, blob, SIGNATURE_MAX_BYTES).await?;
            found.extend(ImageSignature::read(&blob).map(|signature| (*fetched, signature)));
        }
        Ok(found)
    }

    /// What a tag or digest stands for, with the digest that it was asked for by.
    async fn named(&self, name: &RepositoryName, version: &Version) -> Result<Named, ImageClientError> {
        let request = self.request(Method::GET, name, &format!("manifests/{version}"));
        let request = request.header(ACCEPT, format!("{}, {}", media_type::MANIFEST, media_type::INDEX));
        let response = self.send(request, name, Access::Pull).await?;
        let what = What::Manifest(name.clone(), version.clone());
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response, what).await);
        }
        let kind = response.headers().get(reqwest::header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        let bytes = self.whole(response, &what, MANIFEST_MAX_BYTES).await?;
        let digest = Digest::of(&bytes);
        if matches!(version, Version::Digest(expected) if *expected != digest) {
            return Err(ImageClientError::Digest { what, found: digest });
        }
        let failed = |source| ImageClientError::Manifest { what: what.clone(), source };
        match kind.split(';').next().unwrap_or_default().trim() {
            media_type::MANIFEST => {
                let manifest = Manifest::read(&bytes).map_err(failed)?;
                Ok(Named::Manifest(Box::new(FetchedManifest { digest, bytes, manifest })))
            }
            media_type::INDEX => Index::read(&bytes).map(Named::Index).map_err(failed),
            other => Err(ImageClientError::Kind { what, found: other.chars().take(128).collect() }),
        }
    }
}
