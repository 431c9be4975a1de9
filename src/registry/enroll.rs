//! Hosts: how they become known, and how they are heard of.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use jiff::Timestamp;
use uuid::Uuid;

use super::{
    Registry,
    accounts::{self, CertifiedHost, OnlyHost, OnlyLender},
    resource_db::{Enrol, EnrolError, StoreError},
};
use crate::{
    api::{
        http::{JsonBody, PathIds, idempotency_key},
        problem::{Code, Problem},
        registry::{EnrolHost, Heartbeat, HeartbeatReply, HostContact, HostEnrolled, KeyRules},
    },
    domain::id::HostId,
};

/// Longest base URL of a host.
const ADDRESS_MAX: usize = 256;
/// Longest time that an answer is held for.
const HOLD_MAX: Duration = Duration::from_secs(10);

/// Makes a host of the lender's known.
#[utoipa::path(
    post, path = "/v1/hosts", tag = "hosts", request_body = EnrolHost, security(("token" = [])),
    params(("idempotency-key" = Option<String>, Header, description = "Asked again with it, the same host is the answer")),
    responses(
        (status = 201, description = "The host is known", body = HostEnrolled),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn enrol_host(
    State(registry): State<Arc<Registry>>,
    OnlyLender(lender): OnlyLender,
    _: CertifiedHost,
    headers: HeaderMap,
    JsonBody(wish): JsonBody<EnrolHost>,
) -> Result<(StatusCode, Json<HostEnrolled>), Problem> {
    let address = base_url(&wish.address)?;
    let host_token = accounts::new_token("host");
    let enrol = Enrol {
        host: HostId(Uuid::now_v7()),
        lender,
        address,
        token: accounts::digest(&host_token),
        idempotency_key: idempotency_key(&headers)?,
    };
    let host = registry.db.enrol_host(enrol).await?;
    tracing::info!(%host, %lender, "host enrolled");
    let enrolled = HostEnrolled { host, host_token, issuer: registry.issuer.issuer()? };
    Ok((StatusCode::CREATED, Json(enrolled)))
}

fn base_url(text: &str) -> Result<String, Problem> {
    let is_base = |url: &reqwest::Url| {
        ["http", "https"].contains(&url.scheme())
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    };
    let url = reqwest::Url::parse(text).ok().filter(is_base).filter(|_| text.len() <= ADDRESS_MAX);
    url.map(|url| url.as_str().trim_end_matches('/').to_owned()).ok_or_else(|| {
        let detail = format!("address: a base URL such as http://192.0.2.1:7180, not {text:?}");
        Problem::new(Code::InvalidRequest, detail)
    })
}

/// Where borrowers reach the host from now on, and by which key they know it there; leases say so as soon as this answers.
#[utoipa::path(
    put, path = "/v1/hosts/{host}/contact", tag = "hosts", request_body = HostContact,
    params(("host" = HostId, Path)), security(("token" = [])),
    responses(
        (status = 204, description = "That is known now"),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn change_contact(
    State(registry): State<Arc<Registry>>,
    PathIds(host): PathIds<HostId>,
    token: OnlyHost,
    JsonBody(contact): JsonBody<HostContact>,
) -> Result<StatusCode, Problem> {
    token.must_be(host)?;
    let address = base_url(&contact.address)?;
    if contact.tls_key.is_some() && !address.starts_with("https:") {
        let detail = format!("address: must be an https:// URL where there is a tls_key, is {address:?}");
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    registry.db.change_contact(host, HostContact { address, ..contact }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The host lives, says what it did, and learns what changed.
#[utoipa::path(
    post, path = "/v1/hosts/{host}/heartbeat", tag = "hosts", request_body = Heartbeat,
    params(("host" = HostId, Path)), security(("token" = [])),
    responses(
        (status = 200, description = "What the registry knows of the host's partitions", body = HeartbeatReply),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn heartbeat(
    State(registry): State<Arc<Registry>>,
    PathIds(host): PathIds<HostId>,
    token: OnlyHost,
    JsonBody(beat): JsonBody<Heartbeat>,
) -> Result<Json<HeartbeatReply>, Problem> {
    token.must_be(host)?;
    let confirmed_at = registry.confirmed_at(host).await?;
    registry.host_is_heard(host).await?;
    registry.take_report(host, &beat, confirmed_at).await?;
    if let Some(known) = beat.known_revision {
        registry.wait_for_news(host, known, Duration::from_millis(beat.wait_ms)).await?;
        registry.hear(host).await?;
    }
    let register = registry.db.host_register(host).await?;
    let now = registry.clock.now();
    let (generation, issuers) = registry.issuer.trusted();
    let revoked = register.revoked.into_iter().filter(|revoked| revoked.until > now).collect();
    Ok(Json(HeartbeatReply {
        now,
        keys: KeyRules { generation, issuers, revoked },
        revision: register.revision,
        beat_every_ms: u64::try_from(registry.settings.beat_every.as_millis()).unwrap_or(u64::MAX),
        partitions: register.partitions,
    }))
}

/// Most violations of one beat that are passed on.
const VIOLATIONS_MAX: usize = 32;

impl Registry {
    async fn host_is_heard(&self, host: HostId) -> Result<(), StoreError> {
        if self.market.lender(host).is_none() {
            self.market.belongs(host, self.db.lender_of(host).await?);
        }
        self.hear(host).await
    }

    /// What the host did since it was last heard, at `confirmed_at`.
    async fn take_report(
        &self,
        host: HostId,
        beat: &Heartbeat,
        confirmed_at: Timestamp,
    ) -> Result<(), StoreError> {
        for reported in beat.violations.iter().take(VIOLATIONS_MAX) {
            let borrower = self.db.keep_violation(host, reported.clone()).await?;
            self.market.violated(host, reported, borrower);
        }
        if beat.ended.is_empty() && beat.cleaned.is_empty() {
            return Ok(());
        }
        let ignored =
            self.db.host_report(host, beat.ended.clone(), beat.cleaned.clone(), confirmed_at).await?;
        for ignored in ignored {
            tracing::warn!(%host, lease = %ignored.lease, why = ignored.why, "a host's word was ignored");
        }
        Ok(())
    }

    /// Until there is a revision that the host does not know, but not longer than a beat: a host that waits
    /// here must not seem silent.
    async fn wait_for_news(&self, host: HostId, known: u64, wait: Duration) -> Result<(), StoreError> {
        let mut news = self.market.hosts().listen(host);
        if self.db.host_revision(host).await? != known {
            return Ok(());
        }
        tokio::select! {
            _ = news.changed() => {}
            () = tokio::time::sleep(wait.min(HOLD_MAX).min(self.settings.beat_every)) => {}
            () = self.shutdown.clone().wait() => {}
        }
        Ok(())
    }
}

impl From<EnrolError> for Problem {
    fn from(error: EnrolError) -> Self {
        match error {
            EnrolError::IdempotencyKeyReused => Self::new(Code::IdempotencyKeyReused, error.to_string()),
            EnrolError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_address_is_a_base_url_and_nothing_more() {
        assert_eq!(base_url("http://192.0.2.1:7180/").unwrap(), "http://192.0.2.1:7180");
        assert_eq!(base_url("https://host.example/agent").unwrap(), "https://host.example/agent");
        let long = format!("http://{}", "h".repeat(ADDRESS_MAX));
        for wrong in [
            "",
            "host:1",
            "ftp://host",
            "http://",
            "http://u:p@host",
            "http://host/?q",
            "http://host/#f",
            &long,
        ] {
            assert_eq!(base_url(wrong).unwrap_err().code, Code::InvalidRequest, "{wrong}");
        }
    }
}
