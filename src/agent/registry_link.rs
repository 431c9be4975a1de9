//! The host's link to its registry: offers go there before they count here, and each heartbeat's answer says what
//! has become of them.

pub mod reconcile;

use std::{
    path::Path,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use thiserror::Error;
use tokio::sync::Notify;

use super::{
    config::RegistryConfig,
    freeze::receipt::{Receipts, Untold},
    identity::{Enrolment, IdentityError, enrolment_request, read_secret},
    partition::table::{Reports, Table, TableError},
};
use crate::{
    api::{
        problem::Code,
        registry::{ChangeOffer, EnrolHost, Heartbeat, HeartbeatReply, HostContact, OfferPartition},
    },
    client::{ClientError, HostRequestId, RegistryClient, TrustError},
    domain::{
        id::PartitionId,
        partition::Change,
        secret::Secret,
        terms::{Terms, TermsVersion},
    },
};

/// First and longest wait before the registry is called again when it could not be reached.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Most violations, and most segments of receipts, that go with one heartbeat.
const VIOLATIONS_AT_ONCE: u32 = 32;
const SEGMENTS_AT_ONCE: u32 = 32;

#[derive(Debug, Error)]
pub enum LinkError {
    #[error("cannot enrol this host: {0}")]
    NoToken(&'static str),
    #[error("the registry did not enrol this host")]
    Enrol(#[source] ClientError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("[registry]")]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Table(#[from] TableError),
}

/// Enrols the host once; later it is what the registry said then. Waits for a registry that cannot be reached.
pub async fn enrol(
    config: &RegistryConfig,
    advertise: &str,
    state_directory: &Path,
) -> Result<Enrolment, LinkError> {
    if let Some(enrolment) = Enrolment::load(state_directory)? {
        return Ok(enrolment);
    }
    let file = config.enrolment_token_file.as_deref();
    let file = file.ok_or(LinkError::NoToken("set registry.enrolment_token_file"))?;
    let client = RegistryClient::trusting(&config.url, Some(read_secret(file)?), &config.trust()?)?;
    let host = EnrolHost { address: advertise.to_owned() };
    let request = HostRequestId(enrolment_request(state_directory)?);
    let mut retry = Retry::default();
    loop {
        match client.enrol_host(request, &host).await {
            Ok(enrolled) => return Ok(Enrolment::store(state_directory, enrolled)?),
            Err(error) if error.is_unreachable() => {
                tracing::warn!(error = crate::api::http::chain(&error), "waiting for the registry");
                retry.wait().await;
            }
            Err(error) => return Err(LinkError::Enrol(error)),
        }
    }
}

fn client_with(config: &RegistryConfig, token: Secret) -> Result<RegistryClient, LinkError> {
    Ok(RegistryClient::trusting(&config.url, Some(token), &config.trust()?)?)
}

/// Waits that grow.
#[derive(Debug)]
pub struct Retry {
    next: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { next: RETRY.0 }
    }
}

impl Retry {
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(RETRY.1);
    }
}

/// What became of a question to the registry.
#[derive(Debug)]
pub enum Answer<T> {
    Yes(T),
    /// The registry refused.
    No(ClientError),
    /// The registry was not asked, this time.
    NotAsked(ClientError),
    /// It may have been asked: the next heartbeat's answer tells.
    Unknown(ClientError),
}

impl<T> From<Result<T, ClientError>> for Answer<T> {
    fn from(result: Result<T, ClientError>) -> Self {
        match result {
            Ok(answer) => Self::Yes(answer),
            Err(ClientError::Refused(problem)) if problem.status < 500 => {
                Self::No(ClientError::Refused(problem))
            }
            Err(error) if was_not_asked(&error) => Self::NotAsked(error),
            Err(error) => Self::Unknown(error),
        }
    }
}

impl<T> Answer<T> {
    /// It may be the very change that has made another version of what was to be changed: what granted it was lost.
    pub fn to_change(result: Result<T, ClientError>) -> Self {
        match result {
            Err(error) if error.code() == Some(Code::PreconditionFailed) => Self::Unknown(error),
            result => result.into(),
        }
    }
}

fn was_not_asked(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { source, .. } => source.is_connect(),
        ClientError::Address(_) | ClientError::Setup(_) | ClientError::Bearer(_) => true,
        _ => false,
    }
}

/// Says something about an offer for as long as it is the version that the registry has: where an answer was lost, that
/// is not the one the host knows of. Whatever of this comes late, or twice, is of a version that has passed.
pub async fn of_current_version<T, F>(
    known: Option<TermsVersion>,
    say: impl Fn(Option<TermsVersion>) -> F,
) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    match say(known).await {
        Err(ClientError::Refused(problem)) if problem.current_version.is_some() => {
            say(problem.current_version).await
        }
        said => said,
    }
}

/// The registry, as this host speaks to it.
#[derive(Debug)]
pub struct RegistryLink {
    config: RegistryConfig,
    /// By the host's token, which changes.
    client: RwLock<RegistryClient>,
    /// Where borrowers reach this host, and by which key they know it.
    contact: HostContact,
    enrolment: Enrolment,
    table: Table,
    receipts: Receipts,
    /// There is something to tell the registry.
    news: Notify,
}

impl RegistryLink {
    pub fn new(
        config: RegistryConfig,
        contact: HostContact,
        enrolment: Enrolment,
        (table, receipts): (Table, Receipts),
    ) -> Result<Self, LinkError> {
        let client = RwLock::new(client_with(&config, enrolment.host_token.clone())?);
        Ok(Self { config, client, contact, enrolment, table, receipts, news: Notify::new() })
    }

    fn client(&self) -> RegistryClient {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the registry where borrowers reach this host, and by which key they know it: both may be others than before.
    pub async fn introduce(&self) -> Result<(), ClientError> {
        self.client().change_contact(self.enrolment.host, &self.contact).await
    }

    /// Has the registry give the host another token. It is kept before it is used, and the old one is good until then.
    pub async fn rotate_token(&self, state_directory: &Path) -> Result<(), LinkError> {
        let token = self.client().rotate_token().await?.token;
        Enrolment::change_token(state_directory, token.clone())?;
        let client = client_with(&self.config, token)?;
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        // Its first use ends the old one.
        self.beat(None, 0).await.map(drop)
    }

    /// Reads again whom the host takes for its registry, and what it shows of itself; it counts for calls from now on.
    pub fn renew_trust(&self, state_directory: &Path) -> Result<(), LinkError> {
        let stored = Enrolment::load(state_directory)?.map(|enrolment| enrolment.host_token);
        let token = stored.unwrap_or_else(|| self.enrolment.host_token.clone());
        let client = client_with(&self.config, token)?;
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }

    /// F6: registers the offer, whose latest version `known` is as far as the host was told.
    pub async fn register(
        &self,
        partition: PartitionId,
        terms: &Terms,
        known: Option<TermsVersion>,
    ) -> Answer<TermsVersion> {
        let (client, host) = (self.client(), self.enrolment.host);
        let registered = of_current_version(known, |known_version| {
            let (client, offer) = (client.clone(), OfferPartition { terms: terms.clone(), known_version });
            async move { client.offer_partition(host, partition, &offer).await }
        });
        registered.await.map(|registered| registered.version).into()
    }

    /// F7: changes the offer, if it is still of `version`.
    pub async fn change(
        &self,
        partition: PartitionId,
        version: TermsVersion,
        change: &Change,
    ) -> Answer<TermsVersion> {
        let offer = ChangeOffer { terms: change.terms.clone(), new_key: change.new_key };
        let changed = self.client().change_partition(self.enrolment.host, partition, version, &offer).await;
        Answer::to_change(changed.map(|changed| changed.version))
    }

    /// Takes the offer back; first tells what the registry may be waiting for.
    pub async fn withdraw(&self, partition: PartitionId, known: Option<TermsVersion>) -> Answer<()> {
        let told = self.beat(None, 0).await;
        if let Err(LinkError::Client(error)) = told {
            return Err(error).into();
        }
        let (client, host) = (self.client(), self.enrolment.host);
        let say = |version| {
            let client = client.clone();
            async move { client.withdraw_partition(host, partition, version).await }
        };
        match of_current_version(known, say).await {
            Err(error) if error.code() == Some(Code::NotFound) => Answer::Yes(()),
            withdrawn => withdrawn.into(),
        }
    }

    /// There is something new to report.
    pub fn tell(&self) {
        self.news.notify_one();
    }

    /// Waits until there is something new to report.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// One heartbeat, with all that there is to report; what was told is forgotten.
    pub async fn beat(&self, known_revision: Option<u64>, wait_ms: u64) -> Result<HeartbeatReply, LinkError> {
        let reports = self.table.reports().await?;
        let (violations, last) = self.receipts.violations(VIOLATIONS_AT_ONCE).await?;
        let segments = self.receipts.untold(SEGMENTS_AT_ONCE).await?;
        // An answer that waits for news would hold up what there is to report.
        let waits = reports.is_empty() && violations.is_empty() && segments.is_empty();
        let wait_ms = if waits { wait_ms } else { 0 };
        let Reports { ended, cleaned } = reports.clone();
        let heartbeat = Heartbeat { cleaned, ended, known_revision, wait_ms, violations };
        let reply = self.client().heartbeat(self.enrolment.host, &heartbeat).await?;
        self.table.told(reports).await?;
        self.receipts.told_violations(last).await?;
        // After the heartbeat, so that a lease that ended here has ended there when the last of its receipt comes.
        self.hand_over(segments).await?;
        Ok(reply)
    }

    /// Has the registry keep segments of receipts. What it will never take is not told again.
    async fn hand_over(&self, segments: Vec<Untold>) -> Result<(), LinkError> {
        for Untold { lease, number, segment } in segments {
            let Err(error) = self.client().put_segment(lease, number, &segment).await else {
                self.receipts.told(lease, number).await?;
                continue;
            };
            match error.code() {
                // Told again with the next heartbeat, which is not to come at once.
                Some(Code::LeaseRuns) => tokio::time::sleep(RETRY.0).await,
                Some(Code::NotFound | Code::ReceiptRefused | Code::InvalidRequest) => {
                    let error = crate::api::http::chain(&error);
                    tracing::warn!(%lease, number, error, "the registry takes no such segment of a receipt");
                    self.receipts.told(lease, number).await?;
                }
                _ => return Err(error.into()),
            }
        }
        Ok(())
    }
}
