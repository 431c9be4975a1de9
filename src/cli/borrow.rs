//! Leases: made, opened at the host, renewed, ended.

use std::process::ExitCode;

use serde::Serialize;
use uuid::Uuid;

use super::{
    CliError,
    args::{BorrowArguments, LeaseDuration, RenewArguments},
    context::Context,
    lease_store::KeptLease,
    report::{Report, allocation, price},
    search::offers,
};
use crate::{
    api::{
        agent::BorrowPartition,
        problem::Code,
        registry::{EndLease, Lease, MakeLease, Offer, RenewLease},
    },
    client::{ClientError, LeaseRequestId, RegistryClient},
    domain::{id::LeaseId, money::Amount},
};

pub(super) async fn borrow(context: &Context, arguments: &BorrowArguments) -> Result<ExitCode, CliError> {
    let registry = context.registry()?;
    let mut found = offers(&registry, arguments.conditions.conditions(arguments.image.as_deref())).await?;
    if let Some(wanted) = arguments.partition {
        found.retain(|offer| offer.partition == wanted);
        if found.is_empty() {
            return Err(CliError::NotOnOffer(wanted));
        }
    }
    let (duration, budget) = (arguments.duration, arguments.budget);
    let lease = lease_first_free(context, &registry, &found, duration, budget).await?;
    open(context, &lease).await?;
    context.print(&Borrowed::from(&lease))?;
    Ok(ExitCode::SUCCESS)
}

/// Makes a lease of the first offer that nobody else took in the meantime, and keeps its key.
pub(super) async fn lease_first_free(
    context: &Context,
    registry: &RegistryClient,
    offers: &[Offer],
    duration: LeaseDuration,
    budget: Option<Amount>,
) -> Result<KeptLease, CliError> {
    let mut refused = CliError::NoOffer("nothing is on offer and free".to_owned());
    for offer in offers {
        match lease(registry, offer, duration, budget).await {
            Ok(lease) => {
                context.leases.keep(&lease)?;
                return Ok(lease);
            }
            Err(error) if was_taken(&error) => refused = error.into(),
            Err(error) => return Err(error.into()),
        }
    }
    Err(refused)
}

async fn lease(
    registry: &RegistryClient,
    offer: &Offer,
    duration: LeaseDuration,
    budget: Option<Amount>,
) -> Result<KeptLease, ClientError> {
    let wish = MakeLease {
        host: offer.host,
        partition: offer.partition,
        terms_version: offer.terms_version,
        duration_seconds: duration.seconds,
        budget,
    };
    let id = LeaseRequestId(Uuid::now_v7());
    match registry.make_lease(id, &wish).await {
        Err(error) if error.is_unreachable() => registry.make_lease(id, &wish).await,
        made => made,
    }
    .map(KeptLease::from)
}

/// Whether another offer may still be had.
fn was_taken(error: &ClientError) -> bool {
    matches!(error.code(), Some(Code::AlreadyLent | Code::TermsChanged | Code::HostSilent))
}

/// Shows the key to the host, which locks the partition for us (fig. 5).
pub(super) async fn open(context: &Context, lease: &KeptLease) -> Result<(), CliError> {
    let exchange = BorrowPartition { host: lease.host, allocation_digest: lease.allocation_digest };
    context.borrowed_host(lease)?.borrow(lease.partition, &exchange).await?;
    Ok(())
}

pub(super) async fn give_back(context: &Context, choice: Option<LeaseId>) -> Result<ExitCode, CliError> {
    let lease = context.lease(choice)?;
    let ended = end(context, &lease).await?;
    context.print(&ended)?;
    Ok(ExitCode::SUCCESS)
}

/// Ends a lease at the registry, where billing stops, and forgets its key. A host learns the end from its
/// registry; a lease of the host's own, which no registry knows, is ended at the host.
pub(super) async fn end(context: &Context, lease: &KeptLease) -> Result<Lease, CliError> {
    let end = EndLease { host: lease.host, partition: lease.partition, key: lease.key.clone() };
    let ended = context.registry()?.end_lease(lease.lease, &end).await?;
    context.leases.forget(lease.lease)?;
    Ok(ended)
}

/// Makes a kept lease longer, or its budget larger, and keeps the key until its new end.
pub(super) async fn renew(context: &Context, arguments: &RenewArguments) -> Result<ExitCode, CliError> {
    let registry = context.registry()?;
    let kept = context.lease(arguments.lease.lease)?;
    let lease = registry.lease(kept.lease).await?;
    let asked = lease.asked_until.duration_since(lease.started_at).as_secs();
    let more = arguments.more.map_or(0, |more| more.seconds);
    let wish = RenewLease {
        duration_seconds: u64::try_from(asked).unwrap_or_default().saturating_add(more),
        budget: arguments.budget,
    };
    let renewed = KeptLease::from(registry.renew_lease(kept.lease, &wish).await?);
    context.leases.keep(&renewed)?;
    context.print(&Borrowed::from(&renewed))?;
    Ok(ExitCode::SUCCESS)
}

/// Says, as the lender, that the partition of a lease is wanted back.
pub(super) async fn recall(context: &Context, lease: LeaseId) -> Result<ExitCode, CliError> {
    context.print(&context.registry()?.recall_lease(lease).await?)?;
    Ok(ExitCode::SUCCESS)
}

/// A lease as it may be shown: without its key.
#[derive(Debug, Serialize)]
pub(super) struct Borrowed {
    pub(super) lease: LeaseId,
    host: crate::domain::id::HostId,
    pub(super) host_address: String,
    pub(super) partition: crate::domain::id::PartitionId,
    terms: crate::domain::terms::Terms,
    pub(super) expires_at: jiff::Timestamp,
}

impl From<&KeptLease> for Borrowed {
    fn from(lease: &KeptLease) -> Self {
        Self {
            lease: lease.lease,
            host: lease.host,
            host_address: lease.host_address.clone(),
            partition: lease.partition,
            terms: lease.terms.clone(),
            expires_at: lease.expires_at,
        }
    }
}

impl Report for Borrowed {
    fn text(&self) -> String {
        format!(
            "lease      {}\npartition  {} at {}\nhas        {}\nprice      {}\nuntil      {}",
            self.lease,
            self.partition,
            self.host_address,
            allocation(&self.terms.allocation),
            price(&self.terms.price),
            self.expires_at,
        )
    }
}
