//! Errors as clients of OCI registries read them (distribution-spec 1.1, error codes).

use std::{error::Error, io};

use axum::{
    Json,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::api::http::chain;

/// What kind of refusal it is; by its name on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Code {
    BlobUnknown,
    DigestInvalid,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    #[serde(rename = "UNSUPPORTED")]
    ReadOnly,
    #[serde(rename = "TOOMANYREQUESTS")]
    TooManyRequests,
    PaginationNumberInvalid,
    RangeInvalid,
    /// No code of the specification's: the path leads nowhere.
    NotFound,
    /// No code of the specification's: the server failed.
    Unknown,
}

impl Code {
    fn status(self) -> StatusCode {
        match self {
            Self::DigestInvalid | Self::NameInvalid | Self::PaginationNumberInvalid => {
                StatusCode::BAD_REQUEST
            }
            Self::BlobUnknown | Self::ManifestUnknown | Self::NameUnknown | Self::NotFound => {
                StatusCode::NOT_FOUND
            }
            Self::ReadOnly => StatusCode::METHOD_NOT_ALLOWED,
            Self::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::ManifestInvalid | Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A refusal, with what was wrong this time.
#[derive(Debug)]
pub(super) struct Refusal {
    code: Code,
    message: String,
    /// The header that goes with it.
    header: Option<(header::HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Explanations {
    errors: [Explanation; 1],
}

#[derive(Serialize)]
struct Explanation {
    code: Code,
    message: String,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), header: None }
    }

    pub(super) fn with(self, name: header::HeaderName, value: HeaderValue) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    /// Nobody writes here.
    pub(super) fn read_only(method: &Method) -> Self {
        let message = format!("{method} is not served: images are put into the server's directory");
        Self::new(Code::ReadOnly, message).with(header::ALLOW, HeaderValue::from_static("GET, HEAD"))
    }

    /// The log gets what went wrong, the client does not.
    pub(super) fn failed(code: Code, what: &str, error: &dyn Error) -> Self {
        tracing::error!(error = chain(error), what, "cannot be served");
        Self::new(code, format!("{what} cannot be served; the server's log says why"))
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> Code {
        self.code
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::failed(Code::Unknown, "this", &error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { code, message, header } = self;
        let body = Explanations { errors: [Explanation { code, message }] };
        let mut response = (code.status(), Json(body)).into_response();
        response.headers_mut().extend(header);
        response
    }
}
