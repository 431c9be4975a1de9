//! Image registries: the OCI distribution API (distribution-spec 1.1), as whoever pulls or pushes an image uses it. Nothing
//! that a registry says is taken at its word: lengths are bounded before anything is read, and digests are computed here.

mod auth;
mod blobs;
mod error;
mod manifests;
mod push;

use std::{sync::Arc, time::Duration};

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use tokio::time::timeout;
use uuid::Uuid;

use super::{http::http_client, trust::Trust};
use crate::{
    api::REQUEST_ID_HEADER,
    domain::image::reference::{RegistryAddress, RepositoryName},
};
use auth::Authorizations;

pub use auth::{BadCredentials, Credentials};
pub use error::{ImageClientError, What};
pub use manifests::{FetchedManifest, RemoteImage};

/// How long a registry may take to begin an answer, and between two pieces of one.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a registry may be away in the middle of a blob.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest explanation of a refusal that is read, in bytes.
const REFUSAL_MAX_BYTES: u64 = 64 * 1024;

/// One registry of images, and who we are to it. Clones share what was learnt.
#[derive(Debug, Clone)]
pub struct ImageRegistry {
    client: reqwest::Client,
    address: RegistryAddress,
    base: String,
    authorizations: Arc<Authorizations>,
    patience: Duration,
    request_id: Option<Uuid>,
}

/// What a request is for: registries give out tokens by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Access {
    Pull,
    Push,
}

impl ImageRegistry {
    /// `credentials`: where the registry does not let everybody in.
    pub fn new(
        address: &RegistryAddress,
        credentials: Option<Credentials>,
        trust: &Trust,
    ) -> Result<Self, ImageClientError> {
        let base = address.base();
        let client = http_client(&base, trust)?;
        let authorizations = Arc::new(Authorizations::new(credentials));
        let address = address.clone();
        Ok(Self { client, address, base, authorizations, patience: PATIENCE, request_id: None })
    }

    /// Waits this long for a registry that goes away in the middle of a blob, from the last byte that came.
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Names all its requests `id`, so that they can be found in the logs of several servers.
    pub fn traced(self, id: Uuid) -> Self {
        Self { request_id: Some(id), ..self }
    }

    /// A request about something of a repository's.
    fn request(&self, method: Method, name: &RepositoryName, rest: &str) -> RequestBuilder {
        self.request_to(method, &format!("{}/v2/{name}/{rest}", self.base))
    }

    fn request_to(&self, method: Method, url: &str) -> RequestBuilder {
        let id = self.request_id.unwrap_or_else(Uuid::new_v4);
        self.client.request(method, url).header(REQUEST_ID_HEADER, id.to_string())
    }

    /// Sends, as whoever the registry wants to see, and waits for the answer's head.
    async fn send(
        &self,
        request: RequestBuilder,
        name: &RepositoryName,
        access: Access,
    ) -> Result<Response, ImageClientError> {
        // What has a body that comes as a stream cannot be said twice; a request without one came before it.
        let again = request.try_clone();
        let authorization = self.authorizations.known(name, access);
        let response = self.answer(authorized(request, authorization)).await?;
        let (StatusCode::UNAUTHORIZED, Some(again)) = (response.status(), again) else { return Ok(response) };
        match self.authenticate(&response, name, access).await? {
            Some(authorization) => self.answer(authorized(again, Some(authorization))).await,
            None => Ok(response),
        }
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Response, ImageClientError> {
        let server = || self.base.clone();
        let answered = timeout(SILENCE_MAX, request.send()).await;
        let answered = answered.map_err(|_| ImageClientError::Silent { server: server() })?;
        answered.map_err(|source| ImageClientError::Unreachable { server: server(), source })
    }

    /// The next piece of an answer.
    async fn piece(&self, response: &mut Response) -> Result<Option<bytes::Bytes>, ImageClientError> {
        let server = || self.base.clone();
        let piece = timeout(SILENCE_MAX, response.chunk()).await;
        let piece = piece.map_err(|_| ImageClientError::Silent { server: server() })?;
        piece.map_err(|source| ImageClientError::Broken { server: server(), source })
    }

    /// A short answer, whole; one that is longer is not read.
    async fn whole(
        &self,
        mut response: Response,
        what: &What,
        max: u64,
    ) -> Result<Vec<u8>, ImageClientError> {
        let too_long = |found| ImageClientError::TooLong { what: what.clone(), max, found };
        if let Some(length) = response.content_length().filter(|length| *length > max) {
            return Err(too_long(length));
        }
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece(&mut response).await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > max {
                return Err(too_long(bytes.len() as u64));
            }
        }
        Ok(bytes)
    }

    /// Why an answer is not the one that was wanted.
    async fn refusal(&self, response: Response, what: What) -> ImageClientError {
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            return ImageClientError::NotThere { server: self.base.clone(), what };
        }
        let said = self.whole(response, &what, REFUSAL_MAX_BYTES).await.unwrap_or_default();
        ImageClientError::Refused { server: self.base.clone(), what, status, reason: error::reason(&said) }
    }
}

fn authorized(
    request: RequestBuilder,
    authorization: Option<reqwest::header::HeaderValue>,
) -> RequestBuilder {
    match authorization {
        Some(authorization) => request.header(reqwest::header::AUTHORIZATION, authorization),
        None => request,
    }
}
