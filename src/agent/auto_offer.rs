//! Offers what the host can spare by itself [0033]: a shape that the owner has named, while the owner's own work has
//! enough.

use std::{ops::RangeInclusive, path::Path, sync::Arc, time::Duration};

use serde::Deserialize;
use thiserror::Error;

use super::{
    host::{
        carve::{Reserve, VMM_OVERHEAD_MIB},
        clock::boottime,
        memory,
    },
    partition::{
        driver::Command,
        error::PartitionError,
        partitions::{Handle, Partitions},
    },
    services::Services,
};
use crate::{
    api::{agent::CarvePartition, http::chain},
    domain::{
        auto_offer::{AutoOffer, Policy, Seen, Step},
        partition::{Kind, State},
        qualities::is_label,
        resources::{Allocation, BadAllocation},
    },
};

/// How often the host is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const SPARE_SECONDS: RangeInclusive<u64> = 1..=86_400;

/// `[auto_offer]` of the agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoOfferSettings {
    /// The shape's name; partitions that were offered so have it.
    pub shape: String,
    pub cpus: u32,
    pub memory_mib: u64,
    #[serde(default)]
    pub disk_mib: u64,
    #[serde(default)]
    pub cpu_share_percent: Option<u8>,
    #[serde(default)]
    pub kind: Kind,
    #[serde(default = "default_spare_seconds")]
    pub spare_seconds: u64,
    #[serde(default = "default_at_most")]
    pub at_most: usize,
    /// Least memory that is to be available to the owner's work; none: a quarter of the reserve's.
    #[serde(default)]
    pub least_available_mib: Option<u64>,
}

fn default_spare_seconds() -> u64 {
    60
}

fn default_at_most() -> usize {
    16
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadAutoOffer {
    #[error(
        "auto_offer.shape: a name is 1 to 64 characters of letters, digits, '.', '-', '_' and '/', not {0:?}"
    )]
    Shape(String),
    #[error("auto_offer.{0}")]
    Allocation(#[from] BadAllocation),
    #[error("auto_offer.kind: the owner's own partitions are never offered")]
    Owners,
    #[error("auto_offer.spare_seconds: must be 1 to 86400, is {0}")]
    Spare(u64),
}

impl AutoOfferSettings {
    pub fn validate(&self) -> Result<(), BadAutoOffer> {
        self.carving().allocation.validate()?;
        if !is_label(&self.shape) {
            return Err(BadAutoOffer::Shape(self.shape.clone()));
        }
        if self.kind == Kind::Owners {
            return Err(BadAutoOffer::Owners);
        }
        if SPARE_SECONDS.contains(&self.spare_seconds) {
            Ok(())
        } else {
            Err(BadAutoOffer::Spare(self.spare_seconds))
        }
    }

    fn carving(&self) -> CarvePartition {
        let Self { cpus, memory_mib, disk_mib, .. } = *self;
        let allocation = Allocation { cpus, memory_mib, disk_mib };
        CarvePartition {
            cpu_share_percent: self.cpu_share_percent,
            kind: self.kind,
            ..CarvePartition::of(allocation)
        }
    }

    fn policy(&self) -> Policy {
        Policy { spare_for: Duration::from_secs(self.spare_seconds), at_most: self.at_most }
    }

    fn least_available_mib(&self, reserve: &Reserve) -> u64 {
        self.least_available_mib.unwrap_or(reserve.memory_mib / 4)
    }
}

/// Until the agent ends; at once, where the owner has named no shape.
pub async fn follow(services: Arc<Services>, partitions: Arc<Partitions>) {
    let Some(settings) = &services.config.auto_offer else { return };
    let mut auto = AutoOffer::new(settings.policy());
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let seen = look(settings, &services.config.reserve, &partitions);
        let taken = match auto.look(boottime(), &seen) {
            Step::Wait => tidy(settings, &partitions).await,
            Step::Offer => offer(settings, &partitions).await,
            Step::Withdraw => withdraw(settings, &partitions).await,
        };
        if let Err(error) = taken {
            tracing::warn!(
                shape = settings.shape,
                error = chain(&error),
                "what is spare is not offered as it should be"
            );
        }
    }
}

fn look(settings: &AutoOfferSettings, reserve: &Reserve, partitions: &Partitions) -> Seen {
    // A host that does not say how much is available has nothing to spare.
    let available_mib = memory::available_mib(Path::new("/")).unwrap_or_default();
    let least_mib = settings.least_available_mib(reserve);
    let after_mib = available_mib.saturating_sub(settings.memory_mib + VMM_OVERHEAD_MIB);
    let ours = of_shape(settings, partitions);
    Seen {
        is_spare: after_mib >= least_mib && partitions.has_room_for(&settings.carving()),
        is_short: available_mib < least_mib,
        offered: ours.len(),
        free: ours.iter().filter(|handle| is_free(handle)).count(),
    }
}

fn of_shape(settings: &AutoOfferSettings, partitions: &Partitions) -> Vec<Handle> {
    let all = partitions.all().into_iter();
    all.filter(|handle| handle.row().shape.as_deref() == Some(&settings.shape)).collect()
}

fn is_free(handle: &Handle) -> bool {
    matches!(handle.row().partition.state, State::Offered { change: None })
}

async fn offer(settings: &AutoOfferSettings, partitions: &Arc<Partitions>) -> Result<(), PartitionError> {
    let row = partitions.carve(settings.carving(), None, Some(settings.shape.clone())).await?;
    let handle = partitions.get(row.id).ok_or(PartitionError::Gone)?;
    tracing::info!(partition = %row.id, shape = settings.shape, "offering what was spare");
    handle.ask(Command::Offer).await.map(drop)
}

async fn withdraw(settings: &AutoOfferSettings, partitions: &Partitions) -> Result<(), PartitionError> {
    let Some(handle) = of_shape(settings, partitions).into_iter().rfind(is_free) else { return Ok(()) };
    tracing::info!(partition = %handle.row().id, shape = settings.shape, "the owner is short of memory: withdrawing");
    handle.ask(Command::Withdraw).await?;
    handle.ask(Command::Release).await
}

/// What could not be offered, or was cut off, is given back.
async fn tidy(settings: &AutoOfferSettings, partitions: &Partitions) -> Result<(), PartitionError> {
    let is_idle = |handle: &Handle| matches!(handle.row().partition.state, State::Carved | State::Withdrawn);
    match of_shape(settings, partitions).into_iter().find(is_idle) {
        Some(handle) => handle.ask(Command::Release).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let settings: AutoOfferSettings = toml::from_str(text).unwrap();
        settings.validate().unwrap_err().to_string()
    }

    #[test]
    fn a_shape_that_cannot_be_offered_is_refused_by_name() {
        let fine = "shape = 'small'\ncpus = 1\nmemory_mib = 256\n";
        let settings: AutoOfferSettings = toml::from_str(fine).unwrap();
        assert_eq!(settings.validate(), Ok(()));
        let reserve = Reserve { cpus: 1, memory_mib: 512, disk_mib: 0 };
        assert_eq!(settings.least_available_mib(&reserve), 128);
        assert!(refusal("shape = 'a b'\ncpus = 1\nmemory_mib = 256").contains("\"a b\""));
        assert!(refusal("shape = 'small'\ncpus = 0\nmemory_mib = 256").starts_with("auto_offer.cpus"));
        assert!(refusal(&format!("{fine}kind = 'owners'")).contains("never offered"));
        assert!(refusal(&format!("{fine}spare_seconds = 0")).contains("is 0"));
    }
}
