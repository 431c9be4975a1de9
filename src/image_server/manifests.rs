//! Manifests and indexes, by tag or digest.

use std::{io::Read as _, sync::Arc};

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, de::IgnoredAny};

use super::{
    ImageServer,
    blobs::{is_known, named},
    directory::Opened,
    refusal::{Code, Refusal},
};
use crate::domain::image::{
    digest::Digest,
    manifest::MANIFEST_MAX_BYTES,
    media_type,
    reference::{RepositoryName, Version},
};

/// What Docker called manifest and index before OCI did: layouts of other tools may have them.
const OF_DOCKER: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

impl ImageServer {
    pub(super) async fn manifest(
        self: &Arc<Self>,
        name: RepositoryName,
        version: Version,
        headers: &HeaderMap,
    ) -> Result<Response, Refusal> {
        let found = self.blocking(move |server| {
            let digest = match &version {
                Version::Digest(digest) => *digest,
                Version::Tag(_) => {
                    let index = server.directory.index(&name)?;
                    index.find(&version).ok_or_else(|| unknown(&name, &version))?.digest
                }
            };
            let (bytes, kind) =
                server.read_manifest(&name, &digest)?.ok_or_else(|| unknown(&name, &version))?;
            Ok((digest, bytes, kind))
        });
        let (digest, bytes, kind) = found.await?;
        if is_known(headers, &digest) {
            return Ok((StatusCode::NOT_MODIFIED, HeaderMap::from_iter(named(&digest))).into_response());
        }
        let mut headers = HeaderMap::from_iter(named(&digest));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CONTENT_LENGTH, bytes.len().into());
        Ok((headers, bytes).into_response())
    }

    /// A manifest's bytes and media type. None: there is no such blob, or it is no manifest.
    pub(super) fn read_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<(Vec<u8>, &'static str)>, Refusal> {
        let Some(Opened { file, bytes: length }) = self.directory.blob(name, digest)? else {
            return Ok(None);
        };
        if length > MANIFEST_MAX_BYTES {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(MANIFEST_MAX_BYTES).read_to_end(&mut bytes)?;
        if Digest::of(&bytes) != *digest {
            tracing::error!(%name, %digest, "a manifest is damaged");
            return Err(Refusal::new(
                Code::ManifestInvalid,
                format!("the manifest {digest} is damaged here"),
            ));
        }
        Ok(kind_of(&bytes).map(|kind| (bytes, kind)))
    }
}

fn unknown(name: &RepositoryName, version: &Version) -> Refusal {
    Refusal::new(Code::ManifestUnknown, format!("{name} has no manifest {version}"))
}

/// As much of a manifest as says what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    media_type: Option<String>,
    config: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
}

fn kind_of(bytes: &[u8]) -> Option<&'static str> {
    let kind: Kind = serde_json::from_slice(bytes).ok()?;
    let known = [media_type::MANIFEST, media_type::INDEX].into_iter().chain(OF_DOCKER);
    match kind.media_type {
        Some(said) => known.into_iter().find(|known| *known == said),
        // OCI does not insist on it.
        None if kind.manifests.is_some() => Some(media_type::INDEX),
        None => kind.config.map(|_| media_type::MANIFEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_what_it_says_or_what_it_holds() {
        assert_eq!(kind_of(br#"{"config":{},"layers":[]}"#), Some(media_type::MANIFEST));
        assert_eq!(kind_of(br#"{"manifests":[]}"#), Some(media_type::INDEX));
        let said = format!(r#"{{"mediaType":"{}"}}"#, OF_DOCKER[0]);
        assert_eq!(kind_of(said.as_bytes()), Some(OF_DOCKER[0]));
        for none in [&b"{}"[..], b"[]", b"\xff", br#"{"mediaType":"text/html","config":{}}"#] {
            assert_eq!(kind_of(none), None);
        }
    }
}
