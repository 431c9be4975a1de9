//! What else a partition is than large and connected. A host states what it knows; what it does not state it does not
//! promise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most labels of a partition, and longest name and value of one.
pub const LABELS_MAX: usize = 16;
pub const LABEL_LENGTH_MAX: usize = 64;
/// All of a CPU's time, in percent.
pub const WHOLE_CPU_PERCENT: u8 = 100;

/// Each field is empty where nothing is promised.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Qualities {
    /// The part of each CPU's time that is the partition's [0019]; none: whole cores, all of it.
    #[cfg_attr(feature = "server", schema(minimum = 1, maximum = 99))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_share_percent: Option<u8>,
    /// How fast each CPU is: rounds of a fixed piece of work that it does in a second with the whole core at work, all of
    /// its time its own (`src/inventory/rating.rs`) [0021]. To two digits.
    #[cfg_attr(feature = "server", schema(minimum = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub performance: Option<u32>,
    /// What its disk carries at least, in MiB a second [0110].
    #[cfg_attr(feature = "server", schema(minimum = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_mib_per_s: Option<u32>,
    /// Its memory is of huge pages.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub huge_pages: bool,
    /// How many NUMA nodes its CPUs and memory lie on.
    #[cfg_attr(feature = "server", schema(minimum = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa_nodes: Option<u16>,
    /// What its owner says of it: `zone = "eu-1"`. At most 16; a name or value is 1 to 64 of letters, digits, '.', '-',
    /// '_' and '/'.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadQualities {
    #[error("cpu_share_percent: 1 to 99 (whole cores state none), not {0}")]
    CpuShare(u8),
    #[error("performance: at least 1, or not stated")]
    Performance,
    #[error("disk_mib_per_s: at least 1, or not stated")]
    DiskRate,
    #[error("numa_nodes: at least 1, or not stated")]
    NumaNodes,
    #[error("labels: at most {LABELS_MAX}, not {0}")]
    LabelCount(usize),
    #[error(
        "labels: a name or value is 1 to {LABEL_LENGTH_MAX} characters of letters, digits, '.', '-', '_' and '/', not {0:?}"
    )]
    Label(String),
}

impl Qualities {
    pub fn validate(&self) -> Result<(), BadQualities> {
        if let Some(percent) =
            self.cpu_share_percent.filter(|percent| !(1..WHOLE_CPU_PERCENT).contains(percent))
        {
            return Err(BadQualities::CpuShare(percent));
        }
        if self.performance == Some(0) {
            return Err(BadQualities::Performance);
        }
        if self.disk_mib_per_s == Some(0) {
            return Err(BadQualities::DiskRate);
        }
        if self.numa_nodes == Some(0) {
            return Err(BadQualities::NumaNodes);
        }
        validate_labels(&self.labels)
    }

    /// The part of each CPU's time that is the partition's, whole cores included.
    pub fn cpu_percent(&self) -> u8 {
        self.cpu_share_percent.unwrap_or(WHOLE_CPU_PERCENT)
    }
}

pub fn validate_labels(labels: &BTreeMap<String, String>) -> Result<(), BadQualities> {
    if labels.len() > LABELS_MAX {
        return Err(BadQualities::LabelCount(labels.len()));
    }
    let mut words = labels.iter().flat_map(|(name, value)| [name, value]);
    words.find(|word| !is_label(word)).map_or(Ok(()), |word| Err(BadQualities::Label(word.clone())))
}

/// Whether a label's name or value can be this.
pub fn is_label(word: &str) -> bool {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || ".-_/".contains(letter);
    (1..=LABEL_LENGTH_MAX).contains(&word.len()) && word.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_stated_is_not_promised() {
        let qualities: Qualities = serde_json::from_str("{}").unwrap();
        assert_eq!(qualities, Qualities::default());
        assert_eq!((qualities.validate(), qualities.cpu_percent()), (Ok(()), 100));
        assert_eq!(serde_json::to_string(&qualities).unwrap(), "{}");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let labels = |count: usize| (0..count).map(|n| (n.to_string(), "x".to_owned())).collect();
        for (wrong, said) in [
            (Qualities { cpu_share_percent: Some(0), ..<_>::default() }, "cpu_share_percent"),
            (Qualities { cpu_share_percent: Some(100), ..<_>::default() }, "not 100"),
            (Qualities { performance: Some(0), ..<_>::default() }, "performance"),
            (Qualities { disk_mib_per_s: Some(0), ..<_>::default() }, "disk_mib_per_s"),
            (Qualities { numa_nodes: Some(0), ..<_>::default() }, "numa_nodes"),
            (Qualities { labels: labels(17), ..<_>::default() }, "at most 16, not 17"),
            (Qualities { labels: [("a b".to_owned(), "x".to_owned())].into(), ..<_>::default() }, "\"a b\""),
        ] {
            assert!(wrong.validate().unwrap_err().to_string().contains(said), "{wrong:?}");
        }
        assert_eq!(Qualities { labels: labels(16), ..<_>::default() }.validate(), Ok(()));
    }
}
