//! The routes, and who answers what is asked below `/v2/`.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, header, request::Parts},
    response::{IntoResponse as _, Response},
    routing::{any, get},
};

use super::{
    ImageServer,
    asked::Asked,
    refusal::{Code, Refusal},
};
use crate::api::{http::around, problem::Problem};

/// Nothing is taken in.
const BODY_MAX_BYTES: usize = 0;
/// By what clients know that this is a registry of the second API.
const API_VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("docker-distribution-api-version"), HeaderValue::from_static("registry/2.0"));

pub(super) fn router(server: Arc<ImageServer>) -> Router {
    let requests = server.metrics.requests.clone();
    // A repository's name may have any number of parts, so what is asked for is read from the path's end.
    let routes = Router::new()
        .route("/v2", any(answer))
        .route("/v2/", any(answer))
        .route("/v2/{*asked}", any(answer))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .with_state(server);
    around(routes, BODY_MAX_BYTES, requests)
}

async fn answer(State(server): State<Arc<ImageServer>>, request: Request) -> Response {
    // A request's body is never looked at.
    let (request, _) = request.into_parts();
    let answered = server.answer(&request).await;
    let mut response = answered.unwrap_or_else(Refusal::into_response);
    response.headers_mut().insert(API_VERSION.0, API_VERSION.1);
    if request.method == Method::HEAD {
        // The headers are those that a GET would have, its length too.
        *response.body_mut() = Body::empty();
    }
    response
}

impl ImageServer {
    async fn answer(self: &Arc<Self>, request: &Parts) -> Result<Response, Refusal> {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Err(Refusal::read_only(&request.method));
        }
        let uri = &request.uri;
        match Asked::read(uri.path())? {
            Asked::Version => Ok(([(header::CONTENT_TYPE, "application/json")], "{}").into_response()),
            Asked::Catalog => self.catalog(uri).await,
            Asked::Tags(name) => self.tags(name, uri).await,
            Asked::Manifest(name, version) => self.manifest(name, version, &request.headers).await,
            Asked::Referrers(name, subject) => self.referrers(name, subject, uri).await,
            Asked::Blob(name, digest) => self.blob(name, digest, request).await,
        }
    }

    /// Does what waits for the disk where it holds up nobody else.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let server = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&server)).await;
        done.unwrap_or_else(|_| Err(Refusal::new(Code::Unknown, "the server failed")))
    }
}

/// Metrics for Prometheus.
async fn metrics(
    State(server): State<Arc<ImageServer>>,
) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], server.metrics_text()?))
}

/// Whether it serves: its directory can be read.
async fn healthz(State(server): State<Arc<ImageServer>>) -> Result<&'static str, Problem> {
    let looked = server.blocking(|server| Ok(server.directory.check())).await;
    match looked {
        Ok(Ok(())) => Ok("ok\n"),
        Ok(Err(error)) => Err(Problem::internal(&error)),
        Err(_) => Err(Problem::internal(&std::io::Error::other("the directory was not looked at"))),
    }
}
