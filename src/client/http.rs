//! What every call has in common: the base address, the bearer, and errors.

use std::time::Duration;

use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Upgraded,
    header::{ACCEPT, CONNECTION, CONTENT_TYPE, InvalidHeaderValue, UPGRADE},
};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use uuid::Uuid;

use super::trust::{Trust, TrustError, no_tls};
use crate::api::{
    REQUEST_ID_HEADER,
    problem::{Code, PROBLEM_MEDIA_TYPE, Problem},
    secret::Secret,
};

/// How long a call may take, beyond what it asks the server to wait.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum ClientError {
    #[error("{0:?} is not the address of a server; it looks like http://host:port")]
    Address(String),
    #[error("cannot speak TLS with {server}")]
    Trust { server: String, source: Box<TrustError> },
    #[error("{0:?} is reached without TLS, so that it cannot prove that it has the key that is asked of it")]
    NoTls(String),
    #[error("cannot make an HTTP client")]
    Setup(#[source] reqwest::Error),
    #[error("the token or key holds characters that cannot be sent")]
    Bearer(#[source] InvalidHeaderValue),
    #[error("{server} cannot be reached")]
    Unreachable { server: String, source: reqwest::Error },
    #[error("{} ({})", .0.detail, .0.title)]
    Refused(Box<Problem>),
    #[error("{server} answered with status {status} and no explanation")]
    Unexplained { server: String, status: StatusCode },
    #[error("{server} answered with something else than was asked for")]
    Answer { server: String, source: reqwest::Error },
    #[error("{server} did not turn the connection into a tunnel")]
    Upgrade { server: String, source: reqwest::Error },
    #[error("{server} has not answered for {} s", CALL_TIMEOUT.as_secs())]
    Silent { server: String },
    #[error("{server} sent an event that cannot be read")]
    Event { server: String, source: serde_json::Error },
    #[error("{server} broke the stream of events")]
    Stream { server: String, source: eventsource_stream::EventStreamError<reqwest::Error> },
}

impl ClientError {
    /// The stable code, where the server refused with one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(problem) => Some(problem.code),
            _ => None,
        }
    }

    /// Whether the same call may succeed later: the server did not answer at all.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// HTTP without TLS, a bearer, or knowledge of either server: to see what a server answers to what no client of ours says.
pub fn bare() -> Result<reqwest::Client, ClientError> {
    let config = no_tls()
        .map_err(|source| ClientError::Trust { server: "any".to_owned(), source: Box::new(source) })?;
    reqwest::Client::builder().tls_backend_preconfigured(config).build().map_err(ClientError::Setup)
}

/// HTTP with one server, and TLS where its address has it.
pub(super) fn http_client(base: &str, trust: &Trust) -> Result<reqwest::Client, ClientError> {
    let url = reqwest::Url::parse(base).ok().filter(reqwest::Url::has_host);
    let url = url.ok_or_else(|| ClientError::Address(base.to_owned()))?;
    let config = match url.scheme() {
        "https" => trust.config(),
        _ if trust.needs_tls() => return Err(ClientError::NoTls(base.to_owned())),
        _ => no_tls(),
    };
    let config =
        config.map_err(|source| ClientError::Trust { server: base.to_owned(), source: Box::new(source) })?;
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(ClientError::Setup)
}

/// One server and who we are to it.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    client: reqwest::Client,
    base: String,
    bearer: Option<Secret>,
    /// Names all requests; none: each has a name of its own.
    trace: Option<Uuid>,
}

impl Connection {
    pub(super) fn new(base: &str, bearer: Option<Secret>, trust: &Trust) -> Result<Self, ClientError> {
        let client = http_client(base, trust)?;
        Ok(Self { client, base: base.trim_end_matches('/').to_owned(), bearer, trace: None })
    }

    /// Names all requests from now on, so that they can be found in the logs of several servers.
    pub(super) fn trace(&mut self, id: Uuid) {
        self.trace = Some(id);
    }

    pub(super) fn server(&self) -> String {
        self.base.clone()
    }

    /// A request to `path`, with the bearer.
    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let id = self.trace.unwrap_or_else(Uuid::new_v4);
        let request = self.client.request(method, format!("{}{path}", self.base));
        let request = request.header(REQUEST_ID_HEADER, id.to_string());
        match &self.bearer {
            Some(secret) => request.bearer_auth(secret.reveal()),
            None => request,
        }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(self.request(Method::GET, path)).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.call(self.request(Method::POST, path).json(body)).await
    }

    /// Sends, and reads the answer as `T`.
    pub(super) async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request.timeout(CALL_TIMEOUT)).await?;
        response.json().await.map_err(|source| ClientError::Answer { server: self.server(), source })
    }

    /// Sends, and wants nothing but success.
    pub(super) async fn call_for_nothing(&self, request: RequestBuilder) -> Result<(), ClientError> {
        self.send(request.timeout(CALL_TIMEOUT)).await.map(drop)
    }

    /// Sends, and turns every refusal into an error.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = self.answer(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// Has the server turn the connection into one of `protocol`.
    pub(super) async fn upgrade(&self, path: &str, protocol: &str) -> Result<Upgraded, ClientError> {
        let request = self.request(Method::GET, path).header(CONNECTION, "Upgrade").header(UPGRADE, protocol);
        let answered = tokio::time::timeout(CALL_TIMEOUT, self.answer(request)).await;
        let response = answered.map_err(|_| ClientError::Silent { server: self.server() })??;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(response).await);
        }
        response.upgrade().await.map_err(|source| ClientError::Upgrade { server: self.server(), source })
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        request
            .header(ACCEPT, "application/json, text/event-stream, application/problem+json")
            .send()
            .await
            .map_err(|source| ClientError::Unreachable { server: self.server(), source })
    }

    async fn refusal(&self, response: Response) -> ClientError {
        let status = response.status();
        let is_problem = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(PROBLEM_MEDIA_TYPE.as_bytes()));
        match response.json::<Problem>().await {
            Ok(problem) if is_problem => ClientError::Refused(Box::new(problem)),
            _ => ClientError::Unexplained { server: self.server(), status },
        }
    }
}
