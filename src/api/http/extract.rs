//! How a request is read. Each extractor answers what it cannot read with a [`Problem`].

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, HeaderName, header, request::Parts},
    response::IntoResponse,
};
use serde::de::DeserializeOwned;

use crate::api::{
    problem::{Code, Problem},
    secret::Secret,
};

/// A body of `application/json` that is a `T`, and nothing more than a `T`.
#[derive(Debug, Clone, Copy)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        require_json(request.headers())?;
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            match rejection.into_response().status().as_u16() {
                413 => Problem::new(Code::PayloadTooLarge, "the body is longer than this server reads"),
                _ => Problem::new(Code::MalformedRequest, "the body did not arrive whole"),
            }
        })?;
        parse(&body).map(Self)
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // Serde would take a list of a struct's values for the struct.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::new(Code::MalformedRequest, "the body must be a JSON object"));
    }
    serde_json::from_slice(body)
        .map_err(|error| Problem::new(Code::MalformedRequest, format!("the body: {error}")))
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let media_type = header_text(headers, &header::CONTENT_TYPE).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = format!("content-type must be application/json, not {media_type:?}");
    Err(Problem::new(Code::UnsupportedMediaType, detail))
}

/// The names in a path. A path with a name that cannot be one leads nowhere.
#[derive(Debug, Clone, Copy)]
pub struct PathIds<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathIds<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = parts.uri.path().to_owned();
        Path::<T>::from_request_parts(parts, state)
            .await
            .map(|Path(ids)| Self(ids))
            .map_err(|_| Problem::new(Code::NotFound, format!("{path} names nothing there could be")))
    }
}

/// The query of a URL.
#[derive(Debug, Clone, Copy)]
pub struct QueryParams<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Query::<T>::from_request_parts(parts, state).await.map(|Query(query)| Self(query)).map_err(|error| {
            Problem::new(Code::MalformedRequest, format!("the query: {}", error.body_text()))
        })
    }
}

/// The token or lending key of `Authorization: Bearer`.
#[derive(Debug, Clone)]
pub struct Bearer(pub Secret);

impl<S: Send + Sync> FromRequestParts<S> for Bearer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        bearer(&parts.headers).map(|token| Self(Secret::new(token))).ok_or_else(|| {
            Problem::new(Code::Unauthorized, "send \"Authorization: Bearer\" and the token or lending key")
        })
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = header_text(headers, &header::AUTHORIZATION)?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_KEY_MAX: usize = 128;

/// The `Idempotency-Key` of a request that makes something, where it has one.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    if !headers.contains_key(IDEMPOTENCY_KEY) {
        return Ok(None);
    }
    let text = header_text(headers, &IDEMPOTENCY_KEY).unwrap_or_default();
    if (1..=IDEMPOTENCY_KEY_MAX).contains(&text.len()) {
        return Ok(Some(text.to_owned()));
    }
    let detail = format!("Idempotency-Key: 1 to {IDEMPOTENCY_KEY_MAX} characters of ASCII");
    Err(Problem::new(Code::MalformedRequest, detail))
}

/// A header's value, where it is text.
pub fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
