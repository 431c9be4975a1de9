//! A host's partitions at the registry: offered, changed, withdrawn (F6, F7, [0055]).

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
};

use super::{Registry, accounts::OnlyHost, resource_db::RegisterError};
use crate::{
    api::{
        http::{JsonBody, PathIds, header_text},
        problem::{Code, Problem},
        registry::{ChangeOffer, OfferPartition, RegisteredPartition},
    },
    domain::{
        id::{HostId, PartitionId},
        registration::RegistrationNotAllowed,
        terms::{Terms, TermsVersion},
    },
};

/// The largest number that every reader of JSON tells apart from its neighbours.
const KNOWN_VERSION_MAX: TermsVersion = TermsVersion((1 << 53) - 1);

/// The version is also the entity tag.
type Registered = ([(header::HeaderName, String); 1], Json<RegisteredPartition>);

/// Offers a partition, or offers it with other terms while it is free. Said again, it changes nothing.
#[utoipa::path(
    put, path = "/v1/hosts/{host}/partitions/{partition}", tag = "partitions", request_body = OfferPartition,
    params(("host" = HostId, Path), ("partition" = PartitionId, Path)), security(("token" = [])),
    responses(
        (status = 200, description = "It was on offer before", body = RegisteredPartition, headers(("etag" = String))),
        (status = 201, description = "It is on offer now", body = RegisteredPartition, headers(("etag" = String))),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn offer_partition(
    State(registry): State<Arc<Registry>>,
    PathIds((host, partition)): PathIds<(HostId, PartitionId)>,
    token: OnlyHost,
    JsonBody(offer): JsonBody<OfferPartition>,
) -> Result<(StatusCode, Registered), Problem> {
    token.must_be(host)?;
    if let Some(known) = offer.known_version.filter(|known| *known > KNOWN_VERSION_MAX) {
        let detail = format!("known_version: at most {}, not {}", KNOWN_VERSION_MAX.0, known.0);
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    let offer = OfferPartition { terms: valid(offer.terms)?, ..offer };
    let (row, is_new) = registry.db.register(host, partition, offer).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, registered(row)))
}

/// Changes the terms of a free partition, and its key where that is asked for, if they are still of the version in `If-Match`.
#[utoipa::path(
    patch, path = "/v1/hosts/{host}/partitions/{partition}", tag = "partitions", request_body = ChangeOffer,
    params(
        ("host" = HostId, Path), ("partition" = PartitionId, Path),
        ("if-match" = String, Header, description = "Version of the terms that are changed, in quotes"),
    ),
    security(("token" = [])),
    responses(
        (status = 200, description = "Changed", body = RegisteredPartition, headers(("etag" = String))),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn change_partition(
    State(registry): State<Arc<Registry>>,
    PathIds((host, partition)): PathIds<(HostId, PartitionId)>,
    token: OnlyHost,
    headers: HeaderMap,
    JsonBody(offer): JsonBody<ChangeOffer>,
) -> Result<Registered, Problem> {
    token.must_be(host)?;
    let version = if_match(&headers)?;
    let offer = ChangeOffer { terms: valid(offer.terms)?, ..offer };
    Ok(registered(registry.db.change(host, partition, version, offer).await?))
}

/// Takes a free partition off the market, if its terms are still of the version in `If-Match`, where that is sent.
#[utoipa::path(
    delete, path = "/v1/hosts/{host}/partitions/{partition}", tag = "partitions",
    params(
        ("host" = HostId, Path), ("partition" = PartitionId, Path),
        ("if-match" = Option<String>, Header, description = "Version of the terms that are taken back, in quotes"),
    ),
    security(("token" = [])),
    responses(
        (status = 204, description = "It is not on offer any more"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn withdraw_partition(
    State(registry): State<Arc<Registry>>,
    PathIds((host, partition)): PathIds<(HostId, PartitionId)>,
    token: OnlyHost,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    token.must_be(host)?;
    let version = if headers.contains_key(header::IF_MATCH) { Some(if_match(&headers)?) } else { None };
    registry.db.withdraw(host, partition, version).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn valid(terms: Terms) -> Result<Terms, Problem> {
    match terms.validate() {
        Ok(()) => Ok(terms),
        Err(error) => Err(Problem::new(Code::InvalidRequest, format!("terms: {error}"))),
    }
}

fn registered(row: RegisteredPartition) -> Registered {
    ([(header::ETAG, format!("\"{}\"", row.version.0))], Json(row))
}

fn if_match(headers: &HeaderMap) -> Result<TermsVersion, Problem> {
    let text = header_text(headers, &header::IF_MATCH).unwrap_or_default();
    let version = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    version.and_then(|version| version.parse().ok()).map(TermsVersion).ok_or_else(|| {
        let detail =
            format!("send If-Match with the version that the terms have, such as \"1\", not {text:?}");
        Problem::new(Code::MalformedRequest, detail)
    })
}

impl From<RegisterError> for Problem {
    fn from(error: RegisterError) -> Self {
        let code = match error {
            RegisterError::NoSuchPartition(_) => Code::NotFound,
            RegisterError::Store(error) => return error.into(),
            RegisterError::NotAllowed(ref refusal) => match refusal {
                RegistrationNotAllowed::Lent => Code::PartitionLent,
                RegistrationNotAllowed::AwaitingClean => Code::PartitionNotReady,
                RegistrationNotAllowed::Withdrawn => Code::NotFound,
                RegistrationNotAllowed::OtherVersion { current, .. }
                | RegistrationNotAllowed::Outdated { current } => {
                    let problem = Self::new(Code::PreconditionFailed, error.to_string());
                    return Self { current_version: Some(*current), ..problem };
                }
                RegistrationNotAllowed::NotLentBy(_) | RegistrationNotAllowed::StillLent(_) => {
                    return Self::internal(&error);
                }
            },
        };
        Self::new(code, error.to_string())
    }
}
