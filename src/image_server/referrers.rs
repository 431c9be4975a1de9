//! What is about a manifest (distribution-spec 1.1, listing referrers): signatures, first of all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    extract::Query,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header},
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;

use super::{
    ImageServer,
    refusal::{Code, Refusal},
};
use crate::domain::image::{
    descriptor::Descriptor, digest::Digest, index::Index, manifest::Manifest, media_type,
    reference::RepositoryName,
};

/// Most manifests of which it is remembered what they are about.
const REMEMBERED_MAX: usize = 65_536;

/// What manifests are about, by their digests, so that each is read once: what has a digest does not change. None: it is about
/// no other.
#[derive(Default)]
pub(super) struct Subjects(Mutex<HashMap<Digest, Option<Arc<Referrer>>>>);

/// A manifest about another.
struct Referrer {
    subject: Digest,
    /// What a list says of it.
    descriptor: Descriptor,
}

#[derive(Deserialize)]
struct Filter {
    #[serde(rename = "artifactType")]
    artifact_type: Option<String>,
}

impl ImageServer {
    pub(super) async fn referrers(
        self: &Arc<Self>,
        name: RepositoryName,
        subject: Digest,
        uri: &Uri,
    ) -> Result<Response, Refusal> {
        let Query(Filter { artifact_type }) = Query::try_from_uri(uri)
            .map_err(|error| Refusal::new(Code::NotFound, format!("the query: {}", error.body_text())))?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type::INDEX));
        if artifact_type.is_some() {
            let filters = HeaderName::from_static("oci-filters-applied");
            headers.insert(filters, HeaderValue::from_static("artifactType"));
        }
        let found = self.blocking(move |server| server.about(&name, &subject)).await?;
        let is_wanted =
            |descriptor: &Descriptor| artifact_type.is_none() || descriptor.artifact_type == artifact_type;
        let index = Index::of(found.into_iter().filter(is_wanted).collect());
        let bytes = index.to_bytes().map_err(|error| Refusal::failed(Code::Unknown, "the list", &error))?;
        Ok((headers, bytes).into_response())
    }

    /// All that a repository's index lists and that is about one manifest.
    fn about(&self, name: &RepositoryName, subject: &Digest) -> Result<Vec<Descriptor>, Refusal> {
        let mut found = Vec::new();
        for entry in self.directory.index(name)?.manifests {
            if let Some(referrer) = self.referrer(name, &entry.digest)?
                && referrer.subject == *subject
            {
                found.push(referrer.descriptor.clone());
            }
        }
        Ok(found)
    }

    fn referrer(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<Arc<Referrer>>, Refusal> {
        if let Some(known) = self.subjects.known(digest) {
            return Ok(known);
        }
        // One that is missing may come yet.
        let Some((bytes, _)) = self.read_manifest(name, digest)? else { return Ok(None) };
        let referrer = Manifest::read(&bytes).ok().and_then(|manifest| {
            let subject = manifest.subject.as_ref()?.digest;
            let descriptor =
                Descriptor { artifact_type: Some(manifest.kind().to_owned()), ..manifest.descriptor(&bytes) };
            Some(Arc::new(Referrer { subject, descriptor }))
        });
        self.subjects.learn(*digest, referrer.clone());
        Ok(referrer)
    }
}

impl Subjects {
    fn known(&self, digest: &Digest) -> Option<Option<Arc<Referrer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    fn learn(&self, digest: Digest, referrer: Option<Arc<Referrer>>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(digest, referrer);
    }
}
