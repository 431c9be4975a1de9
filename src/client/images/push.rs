//! Pushing: blobs that a registry does not have yet, and then the manifest.

use std::io;

use bytes::Bytes;
use futures::{Stream, stream};
use reqwest::{
    Body, Method, Response, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{Access, ImageClientError, ImageRegistry, What};
use crate::domain::image::{
    descriptor::Descriptor,
    digest::Digest,
    manifest::Manifest,
    media_type,
    reference::{RepositoryName, Tag, Version},
};

/// How much is read and sent at once, in bytes.
const PIECE_BYTES: usize = 1 << 20;

impl ImageRegistry {
    /// Whether a registry has a blob, with its length.
    pub async fn has_blob(&self, name: &RepositoryName, blob: &Descriptor) -> Result<bool, ImageClientError> {
        let request = self.request(Method::HEAD, name, &format!("blobs/{}", blob.digest));
        let response = self.send(request, name, Access::Push).await?;
        match response.status() {
            StatusCode::OK => {
                let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
                Ok(length == Some(&blob.size.to_string()))
            }
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refusal(response, What::Blob(name.clone(), blob.digest)).await),
        }
    }

    /// Sends a blob in one go; `source` has its bytes. `progress` is told how much was sent.
    pub async fn push_blob(
        &self,
        name: &RepositoryName,
        blob: &Descriptor,
        source: impl AsyncRead + Send + Unpin + 'static,
        progress: impl FnMut(u64) + Send + 'static,
    ) -> Result<(), ImageClientError> {
        let request = self.request(Method::POST, name, "blobs/uploads/").header(CONTENT_LENGTH, 0);
        let response = self.send(request, name, Access::Push).await?;
        let mut url = self.place(response, name).await?;
        url.query_pairs_mut().append_pair("digest", &blob.digest.to_string());
        let request = self
            .request_to(Method::PUT, url.as_str())
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, blob.size)
            .body(Body::wrap_stream(pieces(source, progress)));
        self.created(self.push(request, name).await?, What::Blob(name.clone(), blob.digest)).await.map(drop)
    }

    /// Puts a manifest under a tag, or its digest, once its blobs are there. One that is about another is listed with it: by the
    /// registry, or by us where it keeps no such list.
    pub async fn push_manifest(
        &self,
        name: &RepositoryName,
        tag: Option<&Tag>,
        manifest: &Manifest,
        bytes: &[u8],
    ) -> Result<(), ImageClientError> {
        let version = tag.map_or_else(|| Version::Digest(Digest::of(bytes)), |tag| Version::Tag(tag.clone()));
        let response = self.put_manifest(name, version, media_type::MANIFEST, bytes.to_vec()).await?;
        match &manifest.subject {
            Some(subject) if !response.headers().contains_key("oci-subject") => {
                self.list_referrer(name, &subject.digest, manifest.descriptor(bytes)).await
            }
            _ => Ok(()),
        }
    }

    /// Keeps the index under the tag that stands for what is about a manifest.
    async fn list_referrer(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        referrer: Descriptor,
    ) -> Result<(), ImageClientError> {
        let mut index = self.tagged_referrers(name, subject).await?;
        index.add(referrer, None);
        let version = Version::Tag(Tag::of_referrers(subject));
        self.put_manifest(name, version, media_type::INDEX, index.to_bytes()?).await.map(drop)
    }

    async fn put_manifest(
        &self,
        name: &RepositoryName,
        version: Version,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> Result<Response, ImageClientError> {
        let request = self.request(Method::PUT, name, &format!("manifests/{version}"));
        let request = request.header(CONTENT_TYPE, media_type).body(bytes);
        let response = self.send(request, name, Access::Push).await?;
        self.created(response, What::Manifest(name.clone(), version)).await
    }

    /// Sends what cannot be sent twice, and takes as long as it takes; the registry answers at its end.
    async fn push(
        &self,
        request: reqwest::RequestBuilder,
        name: &RepositoryName,
    ) -> Result<Response, ImageClientError> {
        let request = super::authorized(request, self.authorizations.known(name, Access::Push));
        let failed = |source| ImageClientError::Unreachable { server: self.base.clone(), source };
        request.send().await.map_err(failed)
    }

    async fn created(&self, response: Response, what: What) -> Result<Response, ImageClientError> {
        match response.status() {
            StatusCode::CREATED => Ok(response),
            _ => Err(self.refusal(response, what).await),
        }
    }

    /// Where an upload is to go: at the same registry.
    async fn place(&self, response: Response, name: &RepositoryName) -> Result<Url, ImageClientError> {
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refusal(response, What::Upload(name.clone())).await);
        }
        let elsewhere = || ImageClientError::Elsewhere(self.base.clone());
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let url = response.url().join(location.ok_or_else(elsewhere)?).map_err(|_| elsewhere())?;
        if url.origin() == response.url().origin() { Ok(url) } else { Err(elsewhere()) }
    }
}

fn pieces<R: AsyncRead + Send + Unpin + 'static>(
    source: R,
    progress: impl FnMut(u64) + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::try_unfold((source, progress, 0), |(mut source, mut progress, mut sent)| async move {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let read = (&mut source).take(PIECE_BYTES as u64).read_to_end(&mut piece).await?;
        sent += read as u64;
        progress(sent);
        Ok((read > 0).then(|| (Bytes::from(piece), (source, progress, sent))))
    })
}
