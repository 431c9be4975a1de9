//! Requests over connections that are kept, and how long their answers take.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::net::TcpStream;

#[derive(Debug, Error)]
pub enum LoadError {
    #[error("cannot connect to the registry")]
    Connect(#[source] std::io::Error),
    #[error("the registry broke the connection")]
    Broken(#[from] hyper::Error),
    #[error("a request cannot be put into words")]
    Request(#[from] hyper::http::Error),
    #[error("{path} was answered with {status}: {text}")]
    Refused { path: String, status: StatusCode, text: String },
    #[error("the answer is not what was asked for")]
    Answer(#[from] serde_json::Error),
    #[error("a connection's task ended")]
    Task(#[from] tokio::task::JoinError),
    #[error("the offer of a host that has died is still found")]
    StillFound,
    #[error("a search that is to find something found nothing: {0}")]
    NothingFound(String),
}

/// One kept connection.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> Result<Self, LoadError> {
        let stream = TcpStream::connect(address).await.map_err(LoadError::Connect)?;
        stream.set_nodelay(true).map_err(LoadError::Connect)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with its sender; an error is seen there.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    pub(super) async fn post(&mut self, path: &str, token: &str, body: &Value) -> Result<Bytes, LoadError> {
        self.send(Method::POST, path, token, body.to_string().into(), None).await
    }

    pub(super) async fn put(&mut self, path: &str, token: &str, body: &Value) -> Result<Bytes, LoadError> {
        self.send(Method::PUT, path, token, body.to_string().into(), None).await
    }

    /// The whole answer, where it says success.
    pub(super) async fn send(
        &mut self,
        method: Method,
        path: &str,
        token: &str,
        body: Bytes,
        idempotency_key: Option<&str>,
    ) -> Result<Bytes, LoadError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "registry")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json");
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request.body(Full::new(body))?).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        if status.is_success() {
            return Ok(answer);
        }
        let text = String::from_utf8_lossy(&answer).into_owned();
        Err(LoadError::Refused { path: path.to_owned(), status, text })
    }
}

/// The time that `share` of all stay within, in milliseconds.
pub(super) fn percentile_ms(took: &mut [Duration], share: f64) -> f64 {
    took.sort();
    let at = (took.len() as f64 * share).ceil() as usize;
    took.get(at.saturating_sub(1)).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
}
