//! What can go wrong between a registry of images and us.

use std::{fmt, io};

use reqwest::{StatusCode, header::InvalidHeaderValue};
use serde::Deserialize;
use thiserror::Error;

use crate::{
    client::ClientError,
    domain::image::{
        contents::BadImage,
        digest::Digest,
        manifest::BadManifest,
        reference::{RepositoryName, Version},
    },
};

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Manifest(RepositoryName, Version),
    Referrers(RepositoryName, Digest),
    Blob(RepositoryName, Digest),
    Upload(RepositoryName),
    Token(RepositoryName),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(name, Version::Tag(tag)) => write!(f, "the image {name}:{tag}"),
            Self::Manifest(name, Version::Digest(digest)) => write!(f, "the manifest {name}@{digest}"),
            Self::Referrers(name, digest) => write!(f, "the list of what is about {name}@{digest}"),
            Self::Blob(name, digest) => write!(f, "the blob {name}@{digest}"),
            Self::Upload(name) => write!(f, "an upload to {name}"),
            Self::Token(name) => write!(f, "a token for {name}"),
        }
    }
}

#[derive(Debug, Error)]
pub enum ImageClientError {
    #[error(transparent)]
    Setup(#[from] ClientError),
    #[error("{server} cannot be reached")]
    Unreachable { server: String, source: reqwest::Error },
    #[error("{server} broke off its answer")]
    Broken { server: String, source: reqwest::Error },
    #[error("{server} has said nothing for {} s", super::SILENCE_MAX.as_secs())]
    Silent { server: String },
    #[error("{server} does not have {what}")]
    NotThere { server: String, what: What },
    #[error("{server} answered {what} with status {status}{}", .reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default())]
    Refused { server: String, what: What, status: StatusCode, reason: Option<String> },
    #[error("{what} would be {found} bytes long, and no more than {max} are read")]
    TooLong { what: What, max: u64, found: u64 },
    #[error("{what} was to have {expected} bytes, and {found} were sent")]
    Length { what: What, expected: u64, found: u64 },
    #[error("{what} came with the digest {found}")]
    Digest { what: What, found: Digest },
    #[error("{what} was asked for in part, and the registry answered with something else")]
    Range { what: What },
    #[error("{what} cannot be used")]
    Manifest { what: What, source: BadManifest },
    #[error("{what} is a {found:?}, and no manifest of an image")]
    Kind { what: What, found: String },
    #[error("{what} is an index within an index")]
    NestedIndex { what: What },
    #[error("{what} is an index, and not one of its {listed} entries is an OS image for {architecture}")]
    NoChoice { what: What, listed: usize, architecture: String },
    #[error("{what} cannot be used")]
    Image { what: What, source: Box<BadImage> },
    #[error("what came cannot be kept")]
    Keep(#[source] io::Error),
    #[error("{0} sent an upload elsewhere, where we do not follow")]
    Elsewhere(String),
    #[error("what is to be sent cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    #[error("{server} wants to know who we are, in a way that is not known here: {challenge:?}")]
    Challenge { server: String, challenge: String },
    #[error("{0} wants to know who we are, and over plain HTTP others could read it: use https://")]
    PlainSecret(String),
    #[error("the credentials hold characters that cannot be sent")]
    Credentials(#[source] InvalidHeaderValue),
}

impl ImageClientError {
    /// Whether the same may succeed a moment later: the registry was away, or said that it is busy.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Silent { .. } => true,
            Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }
}

/// The explanations of a refusal (distribution-spec 1.1, error codes).
#[derive(Deserialize)]
struct Explanations {
    errors: Vec<Explanation>,
}

#[derive(Deserialize)]
struct Explanation {
    code: String,
    #[serde(default)]
    message: String,
}

/// The first explanation, where there is one.
pub(super) fn reason(body: &[u8]) -> Option<String> {
    let Explanations { errors } = serde_json::from_slice(body).ok()?;
    let Explanation { code, message } = errors.into_iter().next()?;
    let text: String = format!("{code} {message}").chars().filter(|c| !c.is_control()).take(256).collect();
    Some(text.trim_end().to_owned())
}
