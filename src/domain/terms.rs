//! Lending terms: patent (103), what is lent and what it costs.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    lease::DURATION_MAX_SECONDS,
    money::{PRICE_MAX_MICROS, Price},
    network::Network,
    qualities::{BadQualities, Qualities},
    resources::{Allocation, BadAllocation},
};

/// Most OS images one offer names, and longest name of one.
pub const OS_IMAGES_MAX: usize = 64;
pub const OS_IMAGE_NAME_MAX: usize = 64;

/// What a lender offers a partition for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Terms {
    pub allocation: Allocation,
    pub price: Price,
    /// Names of the OS images the host can start in it.
    pub os_images: BTreeSet<String>,
    /// The CPU's model name as the host's kernel tells it, and the level of x86-64 that a guest sees of it:
    /// `AMD EPYC 7763 64-Core Processor (x86-64-v3)`.
    pub cpu_model: String,
    #[serde(default)]
    pub network: Network,
    #[serde(default)]
    pub qualities: Qualities,
    #[serde(default)]
    pub lending: LendingRules,
}

/// What a lender allows of a lease's length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LendingRules {
    /// Longest lease, its renewals included, in seconds; none: 365 days.
    pub longest_seconds: Option<u64>,
    /// How long before the end the lender says that it wants the partition back, in seconds; none: it does not.
    pub recall_notice_seconds: Option<u64>,
}

impl LendingRules {
    pub fn longest(&self) -> u64 {
        self.longest_seconds.unwrap_or(DURATION_MAX_SECONDS)
    }

    pub fn recall_notice(&self) -> Option<Duration> {
        self.recall_notice_seconds.map(Duration::from_secs)
    }

    pub fn validate(&self) -> Result<(), BadTerms> {
        let fields = [
            ("lending.longest_seconds", self.longest_seconds, 1),
            ("lending.recall_notice_seconds", self.recall_notice_seconds, 1),
        ];
        for (field, value, least) in fields {
            if let Some(value) = value
                && !(least..=DURATION_MAX_SECONDS).contains(&value)
            {
                return Err(BadTerms::Seconds { field, least, value });
            }
        }
        Ok(())
    }
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadTerms {
    #[error(transparent)]
    Allocation(#[from] BadAllocation),
    #[error("price.per_hour_micros: must be 0 to {PRICE_MAX_MICROS}, is {0}")]
    Price(i64),
    #[error("os_images: at most {OS_IMAGES_MAX} names, not {0}")]
    OsImageCount(usize),
    #[error(
        "os_images: a name is 1 to {OS_IMAGE_NAME_MAX} characters of a-z, 0-9, '.', '-' and '_', not {0:?}"
    )]
    OsImageName(String),
    #[error("{field}: must be {least} to {DURATION_MAX_SECONDS}, is {value}")]
    Seconds { field: &'static str, least: u64, value: u64 },
    #[error("cpu_model: at most 128 characters, not {0}")]
    CpuModel(usize),
    #[error("qualities.{0}")]
    Qualities(#[from] BadQualities),
}

impl Terms {
    pub fn validate(&self) -> Result<(), BadTerms> {
        self.allocation.validate()?;
        self.lending.validate()?;
        if !(0..=PRICE_MAX_MICROS).contains(&self.price.per_hour_micros) {
            return Err(BadTerms::Price(self.price.per_hour_micros));
        }
        if self.os_images.len() > OS_IMAGES_MAX {
            return Err(BadTerms::OsImageCount(self.os_images.len()));
        }
        if let Some(name) = self.os_images.iter().find(|name| !is_os_image_name(name)) {
            return Err(BadTerms::OsImageName(name.clone()));
        }
        if self.cpu_model.len() > 128 {
            return Err(BadTerms::CpuModel(self.cpu_model.len()));
        }
        Ok(self.qualities.validate()?)
    }
}

/// Whether `name` can be an OS image's: never a path out of the image directory.
pub fn is_os_image_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
    (1..=OS_IMAGE_NAME_MAX).contains(&name.len()) && !name.starts_with('.') && name.chars().all(allowed)
}

/// Grows with each change of an offer's terms; a lease accepts one version and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct TermsVersion(pub u64);

/// Grows with each lease of a partition, and where its keys are changed: no key of an earlier epoch opens it (law 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct Epoch(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_os_image_name_is_never_a_path() {
        for wrong in ["", ".", "..", "a/b", "../x", "A", "a b", ".hidden"] {
            assert!(!is_os_image_name(wrong), "{wrong:?}");
        }
        assert!(is_os_image_name("debian-micro-6.1"));
    }
}
