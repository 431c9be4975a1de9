//! A partition's link to its host: the TAP interface at one end, the guest's card at the other, and an address for each.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sublet_vmm_protocol::{MacAddress, NetworkConfig};
use thiserror::Error;

use crate::domain::id::PartitionId;

/// What the names of partitions' interfaces begin with; no other interface of the host has such a name.
pub(super) const TAP_PREFIX: &str = "sl-";
/// Every link is a network of its own, of four addresses (/30): two can be used.
const ADDRESSES: u32 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Named after the partition's user, whom no other partition has.
    pub tap: String,
    /// The guest's card.
    pub mac: MacAddress,
    /// The partition's user, whose the interface is.
    pub user: u32,
    /// The host's end.
    pub gateway: Ipv4Addr,
    pub guest: Ipv4Addr,
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("network.range: {range} has addresses for {holds} partitions, and this would be number {number}")]
pub struct NoAddress {
    range: Ipv4Net,
    holds: u32,
    number: u32,
}

impl Link {
    /// The link of a partition that has this user, the `number`th of the host's users for partitions, from 0 on.
    pub(super) fn new(
        range: Ipv4Net,
        partition: PartitionId,
        user: u32,
        number: u32,
    ) -> Result<Self, NoAddress> {
        let holds = 1 << (30_u8.saturating_sub(range.prefix_len()));
        if number >= holds {
            return Err(NoAddress { range, holds, number });
        }
        let base = range.network().to_bits() + number * ADDRESSES;
        Ok(Self {
            tap: format!("{TAP_PREFIX}{user}"),
            mac: mac(partition),
            user,
            gateway: Ipv4Addr::from_bits(base + 1),
            guest: Ipv4Addr::from_bits(base + 2),
        })
    }

    pub(super) fn card(&self) -> NetworkConfig {
        NetworkConfig { tap: self.tap.clone(), mac: self.mac }
    }
}

/// Locally administered (IEEE 802, the second lowest bit of the first byte), and the same as long as the partition is
/// there: its id is random.
fn mac(partition: PartitionId) -> MacAddress {
    let [.., b, c, d, e, f] = *partition.0.as_bytes();
    MacAddress([0x02, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::agent::host::network::settings::NetworkSettings;

    fn partition(number: u128) -> PartitionId {
        PartitionId(Uuid::from_u128(number))
    }

    #[test]
    fn a_link_is_a_network_of_its_own() {
        let range = NetworkSettings::default().range;
        let link = Link::new(range, partition(0x0102_0304_0506), 1_879_048_193, 1).unwrap();
        assert_eq!(link.tap, "sl-1879048193");
        assert_eq!(
            (link.gateway.to_string(), link.guest.to_string()),
            ("100.96.0.5".into(), "100.96.0.6".into())
        );
        assert_eq!(link.mac.to_string(), "02:02:03:04:05:06");
    }

    #[test]
    fn a_range_that_is_too_small_says_so() {
        let range = "10.9.0.0/29".parse().unwrap();
        assert!(Link::new(range, partition(1), 5001, 1).is_ok());
        let error = Link::new(range, partition(1), 5002, 2).unwrap_err().to_string();
        assert!(error.ends_with("has addresses for 2 partitions, and this would be number 2"), "{error}");
    }

    proptest! {
        #[test]
        fn no_two_partitions_have_an_address_or_an_interface_in_common(
            prefix in 8_u8..=30,
            one in 0_u32..1 << 22,
            other in 0_u32..1 << 22,
            first in 1000_u32..1 << 30,
        ) {
            prop_assume!(one != other);
            let range = Ipv4Net::new(Ipv4Addr::new(10, 0, 0, 0), prefix).unwrap();
            let link = |number: u32| Link::new(range, partition(number.into()), first + number, number);
            let (Ok(one), Ok(other)) = (link(one), link(other)) else { return Ok(()) };
            let network = |link: &Link| Ipv4Net::new(link.guest, 30).unwrap().trunc();
            prop_assert_ne!(network(&one), network(&other));
            prop_assert_ne!(&one.tap, &other.tap);
            prop_assert!(one.tap.len() <= sublet_vmm_protocol::config::TAP_NAME_MAX);
            for address in [one.gateway, one.guest] {
                prop_assert!(range.contains(&address) && network(&one).hosts().any(|host| host == address));
            }
        }
    }
}
