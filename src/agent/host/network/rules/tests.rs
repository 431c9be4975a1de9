use std::net::Ipv4Addr;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::id::PartitionId;

fn link(number: u32) -> Link {
    let partition = PartitionId(Uuid::from_u128(number.into()));
    Link::new(NetworkSettings::default().range, partition, 5000 + number, number).unwrap()
}

fn rules(links: &[Link]) -> String {
    let surroundings = Surroundings {
        on_link: [
            "198.51.100.64/26".parse().unwrap(),
            "192.168.7.0/24".parse().unwrap(),
            "5.6.7.0/24".parse().unwrap(),
        ]
        .into(),
        opened: ["eth0".to_owned()].into(),
    };
    let settings =
        NetworkSettings { refuse: vec!["8.8.0.0/16".parse().unwrap()], ..NetworkSettings::default() };
    ruleset(&links.iter().collect::<Vec<_>>(), &surroundings, &settings)
}

#[test]
fn the_rules_for_two_partitions_are_these() {
    assert_eq!(rules(&[link(0), link(1)]), include_str!("two_partitions.nft"));
}

/// Networks that the rules refuse, as ranges.
fn refused_networks(text: &str) -> Vec<Ipv4Net> {
    let lines =
        text.lines().filter_map(|line| line.trim().strip_prefix("ip daddr { ")?.strip_suffix(" } drop"));
    lines.flat_map(|line| line.split(", ")).map(|network| network.parse().unwrap()).collect()
}

#[test]
fn private_reserved_and_on_link_networks_are_out_of_reach_and_the_internet_is_not() {
    let refused = refused_networks(&rules(&[link(0)]));
    let reaches = |address: &str| {
        let address: Ipv4Addr = address.parse().unwrap();
        !refused.iter().any(|network| network.contains(&address))
    };
    for address in [
        "0.0.0.1",
        "10.1.2.3",
        "100.64.0.1",
        "100.96.0.6",
        "127.0.0.1",
        "169.254.169.254",
        "172.31.255.255",
        "192.168.7.1",
        "224.0.0.251",
        "240.0.0.1",
        "255.255.255.255",
        "5.6.7.8",
        "8.8.8.8",
    ] {
        assert!(!reaches(address), "{address}");
    }
    for address in ["1.1.1.1", "5.6.8.1", "9.9.9.9", "172.32.0.1", "100.63.255.255", "223.255.255.254"] {
        assert!(reaches(address), "{address}");
    }
}

#[test]
fn an_interface_that_forwards_only_for_partitions_forwards_nothing_else() {
    let settings = NetworkSettings::default();
    let guarded = |opened: &[&str]| {
        let opened = opened.iter().map(|name| (*name).to_owned()).collect();
        let surroundings = Surroundings { opened, ..Surroundings::default() };
        ruleset(&[&link(0)], &surroundings, &settings)
    };
    assert!(guarded(&["eth0", "wlan0"]).contains("        iifname { \"eth0\", \"wlan0\" } drop\n    }\n"));
    assert!(!guarded(&[]).contains("iifname { "));
}

proptest! {
    #[test]
    fn every_partition_is_held_to_its_own_address_card_and_share(numbers in prop::collection::btree_set(0_u32..4096, 1..20)) {
        let links: Vec<Link> = numbers.into_iter().map(link).collect();
        let text = rules(&links);
        for Link { tap, mac, gateway, guest, .. } in &links {
            let chain = text.split(&format!("    chain {tap} {{\n")).nth(1).unwrap();
            let chain = chain.split("    }\n").next().unwrap();
            let device = format!("device \"{tap}\" priority filter; policy drop;");
            prop_assert!(chain.contains(&device));
            let ether = format!("ether saddr != {mac} drop");
            prop_assert!(chain.contains(&ether));
            // Beside the search for a DHCP server nothing is accepted that is not from its address.
            for line in chain.lines().filter(|line| line.ends_with(" accept")) {
                prop_assert!(line.contains(&format!("saddr {guest} ")) || line.contains(&format!("saddr ip {guest} ")) || line.contains("saddr 0.0.0.0 "), "{}", line);
            }
            let own_gateway = format!("\"{tap}\" . {gateway}");
            prop_assert!(text.contains(&own_gateway));
            let limits = text.matches(&format!("oifname \"{tap}\" limit rate over ")).count();
            prop_assert_eq!(limits, 2);
        }
        prop_assert_eq!(text.matches("policy drop").count(), links.len());
    }
}
