//! What every server of ours has in common: how a request is read, how a problem is answered, and what stands
//! around the handlers. No answer of the framework's own gets out: each failure is a [`Problem`].

mod extract;
mod listen;
mod listener;
mod metrics;
mod serve;
mod tls;

use std::{any::Any, error::Error, fmt::Write as _};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware,
    response::{IntoResponse, Response},
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    trace::TraceLayer,
};
use tracing::Span;

pub use extract::{Bearer, JsonBody, PathIds, QueryParams, header_text, idempotency_key};
pub use listen::{Listen, ListenError, Opened, TlsFiles};
pub use listener::{Peer, PeerCertificate};
pub use metrics::RequestMetrics;
pub use serve::{NotLoopback, ServedAt, Shutdown, init_logs, on_hangup, plain_http_allowed, serve};
pub use tls::{ServerIdentity, ServerTls, TlsError};

use super::{
    REQUEST_ID_HEADER,
    problem::{Code, PROBLEM_MEDIA_TYPE, Problem},
};

/// Names a request in the logs of both sides; taken from the request where it has a sane one.
const REQUEST_ID: HeaderName = HeaderName::from_static(REQUEST_ID_HEADER);
/// Longest id that is taken over.
const REQUEST_ID_MAX: usize = 64;

/// Puts around all routes of a server what each of them needs: request ids, traces, metrics, the body limit,
/// and problems for what no handler answers.
pub fn around(routes: Router, body_max_bytes: usize, metrics: RequestMetrics) -> Router {
    routes
        .fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(body_max_bytes))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(metrics, metrics::observe))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(TraceLayer::new_for_http().make_span_with(request_span))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .layer(middleware::map_request(only_sane_id))
}

/// An id that could not stand in a log as it is, is replaced by one of ours.
async fn only_sane_id(mut request: Request) -> Request {
    let is_sane = |id: &str| {
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.:".contains(letter);
        (1..=REQUEST_ID_MAX).contains(&id.len()) && id.chars().all(allowed)
    };
    if !header_text(request.headers(), &REQUEST_ID).is_some_and(is_sane) {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

async fn no_such_path(uri: Uri) -> Problem {
    Problem::new(
        Code::NotFound,
        format!(
            "nothing is served at {}; GET /openapi.json lists what is, where the server has one",
            uri.path()
        ),
    )
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(Code::MethodNotAllowed, format!("{method} is not served at {}", uri.path()))
}

fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let text = cause.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| cause.downcast_ref::<String>().cloned());
    tracing::error!(panic = text.as_deref().unwrap_or("of unknown kind"), "a handler panicked");
    Problem::internal_without_cause().into_response()
}

fn request_span(request: &Request) -> Span {
    let id = header_text(request.headers(), &REQUEST_ID).unwrap_or("none");
    tracing::info_span!("request", id, method = %request.method(), path = request.uri().path())
}

impl Problem {
    /// A failure of the server itself: the log gets the causes, the client does not.
    pub fn internal(error: &dyn Error) -> Self {
        tracing::error!(error = chain(error), "a request failed");
        Self::internal_without_cause()
    }

    fn internal_without_cause() -> Self {
        Self::new(Code::Internal, "the server's log says more, under this answer's x-request-id")
    }
}

/// An error and all its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing into a String cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_MEDIA_TYPE)], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests;
