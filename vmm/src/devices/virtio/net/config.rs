//! What a driver reads of the card (virtio 1.2, 5.1.2 to 5.1.4), and what it may leave to its host.

use sublet_vmm_protocol::MacAddress;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};

use crate::devices::virtio::{COMMON_FEATURES, DeviceIdentity};

/// Network card; PCI class: Ethernet controller.
pub const IDENTITY: DeviceIdentity = DeviceIdentity { device_type: 1, class: 0x02_00_00 };
pub const QUEUE_SIZE: u16 = 256;
/// Receive, transmit.
pub const QUEUES: usize = 2;
/// Bytes of configuration, up to and with the MTU.
pub const CONFIG_BYTES: usize = 12;

/// Features of how frames lie in the queues, which the kernel's vhost must know.
const OF_QUEUES: u64 = COMMON_FEATURES | 1 << VIRTIO_NET_F_MRG_RXBUF;
/// Features of what a frame's sender may leave undone, which every TAP interface with virtio's headers knows.
const OF_FRAMES: u64 = 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_ECN;
/// Features that are fields of the configuration.
const OF_CONFIG: u64 = 1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_STATUS | 1 << VIRTIO_NET_F_MTU;

/// What the host may leave to the guest where the driver accepted a feature.
const OFFLOADS: [(u32, u32); 4] = [
    (VIRTIO_NET_F_GUEST_CSUM, libc::TUN_F_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
    (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
    (VIRTIO_NET_F_GUEST_ECN, libc::TUN_F_TSO_ECN),
];

/// Features of a card whose queues are served by a kernel that offers these.
pub fn features(offered: u64) -> u64 {
    offered & OF_QUEUES | OF_FRAMES | OF_CONFIG
}

/// Of what the driver accepted, what the kernel that serves the queues is told.
pub fn of_queues(accepted: u64) -> u64 {
    accepted & OF_QUEUES
}

/// Of what the driver accepted, what the TAP interface is told. A driver that accepts one that needs another without
/// it (virtio 1.2, 5.1.3.1) is refused by the interface.
pub fn offloads(accepted: u64) -> u32 {
    let is_accepted = |feature: u32| accepted & 1 << feature != 0;
    OFFLOADS.iter().filter(|(feature, _)| is_accepted(*feature)).fold(0, |all, (_, offload)| all | offload)
}

/// MAC address, status, number of queue pairs, MTU; the link is always up.
pub fn config(mac: MacAddress, mtu: u16) -> [u8; CONFIG_BYTES] {
    let [a, b, c, d, e, f] = mac.0;
    let [status, pairs, mtu] = [VIRTIO_NET_S_LINK_UP as u16, 1, mtu].map(u16::to_le_bytes);
    [a, b, c, d, e, f, status[0], status[1], pairs[0], pairs[1], mtu[0], mtu[1]]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use virtio_bindings::{
        virtio_config::VIRTIO_F_ACCESS_PLATFORM,
        virtio_net::{VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_MQ},
    };

    use super::*;

    /// What the interface takes: large segments only of who sums, and marked ones only of who takes large ones.
    const WHOLE: [u32; 3] =
        [0, libc::TUN_F_CSUM, libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN];

    #[test]
    fn a_kernel_that_could_do_more_changes_nothing() {
        let everything = features(u64::MAX);
        for feature in
            [VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ, VIRTIO_NET_F_GUEST_UFO, VIRTIO_F_ACCESS_PLATFORM]
        {
            assert_eq!(everything & 1 << feature, 0, "{feature}");
        }
        assert_eq!(everything & COMMON_FEATURES, COMMON_FEATURES);
        assert_eq!(features(0) & COMMON_FEATURES, 0);
    }

    #[test]
    fn the_host_leaves_to_a_guest_what_its_driver_accepted() {
        let csum = 1 << VIRTIO_NET_F_GUEST_CSUM;
        assert_eq!([0, csum, features(u64::MAX)].map(offloads), WHOLE);
    }

    #[test]
    fn a_driver_reads_address_link_and_mtu() {
        let config = config(MacAddress([2, 0, 0, 0, 0, 7]), 1500);
        assert_eq!(config, [2, 0, 0, 0, 0, 7, 1, 0, 1, 0, 0xdc, 0x05]);
    }

    proptest! {
        #[test]
        fn each_accepted_feature_is_somebodys(accepted: u64) {
            let accepted = accepted & features(u64::MAX);
            prop_assert_eq!(of_queues(accepted) & !OF_QUEUES, 0);
            prop_assert_eq!(accepted & !(of_queues(accepted) | OF_FRAMES | OF_CONFIG), 0);
            let all = offloads(features(u64::MAX));
            prop_assert_eq!(offloads(accepted) & !all, 0);
            prop_assert_eq!(offloads(accepted) | offloads(features(u64::MAX) & !accepted), all);
        }
    }
}
