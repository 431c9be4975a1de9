//! What the owner decides about partitions' networks.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Deserialize;
use thiserror::Error;

/// Where partitions' addresses may be taken from: what no host in the internet has (RFC 1918, RFC 6598).
const PRIVATE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"];
/// Rates within which a limit works: below, one packet of 64 KiB would be too much; above, nothing is limited.
const BYTES_PER_SECOND: [u64; 2] = [100_000, 12_500_000_000];
const PACKETS_PER_SECOND: [u64; 2] = [100, 10_000_000];
const CONNECTIONS: [u32; 2] = [16, 65_536];

/// `[network]` of the agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSettings {
    /// Addresses of guests and of their gateways, four a partition.
    pub range: Ipv4Net,
    /// Most that passes a partition's card, each way.
    pub bytes_per_second: u64,
    pub packets_per_second: u64,
    /// Most connections that a partition has at a time.
    pub connections: u32,
    /// Networks that guests do not reach, beside all that are never reached.
    pub refuse: Vec<Ipv4Net>,
    /// Name servers that guests' questions are passed on to; none: the host's own.
    pub dns: Vec<Ipv4Addr>,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadNetwork {
    #[error("network.range: must be a network of /8 to /30 within {allowed}, is {0}", allowed = PRIVATE.join(", "))]
    Range(Ipv4Net),
    #[error("network.{field}: must be {least} to {most}, is {value}")]
    Limit { field: &'static str, least: u64, most: u64, value: u64 },
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            range: Ipv4Net::new_assert(Ipv4Addr::new(100, 96, 0, 0), 16),
            bytes_per_second: 125_000_000,
            packets_per_second: 100_000,
            connections: 4096,
            refuse: Vec::new(),
            dns: Vec::new(),
        }
    }
}

impl NetworkSettings {
    pub fn validate(&self) -> Result<(), BadNetwork> {
        let is_private = PRIVATE
            .iter()
            .any(|network| network.parse::<Ipv4Net>().is_ok_and(|network| network.contains(&self.range)));
        if !is_private || !(8..=30).contains(&self.range.prefix_len()) {
            return Err(BadNetwork::Range(self.range));
        }
        within("bytes_per_second", BYTES_PER_SECOND, self.bytes_per_second)?;
        within("packets_per_second", PACKETS_PER_SECOND, self.packets_per_second)?;
        within("connections", CONNECTIONS.map(u64::from), self.connections.into())
    }
}

fn within(field: &'static str, [least, most]: [u64; 2], value: u64) -> Result<(), BadNetwork> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(BadNetwork::Limit { field, least, most, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let settings: NetworkSettings = toml::from_str(text).unwrap();
        settings.validate().unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_stated_has_a_default() {
        let settings: NetworkSettings = toml::from_str("dns = [\"192.0.2.53\"]").unwrap();
        assert_eq!(settings.validate(), Ok(()));
        assert_eq!(settings.dns, [Ipv4Addr::new(192, 0, 2, 53)]);
        assert_eq!(NetworkSettings { dns: Vec::new(), ..settings }, NetworkSettings::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value() {
        assert!(refusal("range = \"8.0.0.0/8\"").ends_with("is 8.0.0.0/8"));
        assert!(refusal("range = \"10.0.0.0/31\"").contains("network.range"));
        assert!(refusal("bytes_per_second = 9").contains("network.bytes_per_second: must be 100000 to"));
        assert!(refusal("connections = 100000").ends_with("is 100000"));
        assert!(toml::from_str::<NetworkSettings>("rate = 1").is_err());
    }
}
