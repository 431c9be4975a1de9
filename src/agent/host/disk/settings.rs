//! What the owner decides about partitions' disks.

use serde::Deserialize;
use sublet_vmm_protocol::{DiskLimits, RateLimit};
use thiserror::Error;

/// Rates within which a limit works: below, one request of a guest's takes minutes; above, nothing is limited.
const BYTES_PER_SECOND: [u64; 2] = [1 << 20, 1 << 40];
const OPERATIONS_PER_SECOND: [u64; 2] = [10, 100_000_000];

/// `[disk]` of the agent's configuration: partitions lie on one disk of the host's, and none is to keep it from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskSettings {
    /// Most that a partition reads and writes; none: as much as the host's disk can.
    pub bytes_per_second: Option<u64>,
    /// Most requests of a partition's; none: as many as the host's disk can.
    pub operations_per_second: Option<u64>,
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("disk.{field}: must be {least} to {most}, is {value}")]
pub struct BadDisk {
    field: &'static str,
    least: u64,
    most: u64,
    value: u64,
}

impl DiskSettings {
    pub fn validate(&self) -> Result<(), BadDisk> {
        within("bytes_per_second", BYTES_PER_SECOND, self.bytes_per_second)?;
        within("operations_per_second", OPERATIONS_PER_SECOND, self.operations_per_second)
    }

    /// As a partition's machine keeps to it: a second's worth may go through at once after a pause.
    pub fn limits(&self) -> DiskLimits {
        let rate = |per_second: u64| RateLimit { per_second, burst: per_second };
        DiskLimits {
            operations: self.operations_per_second.map(rate),
            bytes: self.bytes_per_second.map(rate),
        }
    }
}

fn within(field: &'static str, [least, most]: [u64; 2], value: Option<u64>) -> Result<(), BadDisk> {
    match value.filter(|value| !(least..=most).contains(value)) {
        Some(value) => Err(BadDisk { field, least, most, value }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_stated_is_not_limited() {
        let settings: DiskSettings = toml::from_str("bytes_per_second = 100000000").unwrap();
        assert_eq!(settings.validate(), Ok(()));
        let limits = settings.limits();
        assert_eq!(limits.bytes, Some(RateLimit { per_second: 100_000_000, burst: 100_000_000 }));
        assert_eq!(limits.operations, None);
        assert_eq!(DiskSettings::default().limits(), DiskLimits::default());
    }

    #[test]
    fn a_rate_that_would_stop_a_disk_is_named_with_its_bounds() {
        let refusal =
            |text: &str| toml::from_str::<DiskSettings>(text).unwrap().validate().unwrap_err().to_string();
        assert_eq!(
            refusal("operations_per_second = 0"),
            "disk.operations_per_second: must be 10 to 100000000, is 0"
        );
        assert!(refusal("bytes_per_second = 4096").starts_with("disk.bytes_per_second: must be 1048576 to"));
    }
}
