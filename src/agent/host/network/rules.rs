//! The rules that keep partitions apart and the lender's networks out of reach, in nftables' language (nft(8)): made
//! whole from the list of partitions each time, and taken by the kernel in one step or not at all.
//!
//! A packet of a guest passes, in this order: the `netdev` table, where whatever is not from the partition's own
//! addresses ends before the host's network stack sees it; then `input` if it is for the host, which answers for DHCP
//! and DNS alone, or `forward` if it is for somebody else.

use std::{collections::BTreeSet, fmt::Write};

use ipnet::Ipv4Net;

use super::{link::Link, settings::NetworkSettings};

/// What is never on the internet (IANA IPv4 Special-Purpose Address Registry), with multicast and the reserved rest.
const NEVER_REACHED: [&str; 14] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
];
/// The largest packet that a guest's card may hand over whole is 64 KiB; what limits must let several pass.
const BURST_MIN_BYTES: u64 = 1 << 20;
/// Most questions a second that a guest may ask of the host itself (DHCP, DNS).
const QUESTIONS_PER_SECOND: u32 = 1000;

/// What the rules say of the host itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    /// The lender's own networks.
    pub on_link: BTreeSet<Ipv4Net>,
    /// Interfaces that forward only for partitions' sake: what comes in there and is not a partition's goes no further.
    pub opened: BTreeSet<String>,
}

/// Deletes all rules, whether or not there are any.
pub(super) const NONE: &str =
    "table netdev sublet\ndelete table netdev sublet\ntable inet sublet\ndelete table inet sublet\n";

/// The tables, as nft lists them.
pub(super) const TABLES: [&str; 2] = ["table netdev sublet", "table inet sublet"];

/// The rules for these partitions. The set `connections` outlives its table's rules, so that nobody's connections are
/// counted anew.
pub(super) fn ruleset(links: &[&Link], surroundings: &Surroundings, settings: &NetworkSettings) -> String {
    let mut text = String::from(
        "table netdev sublet\ndelete table netdev sublet\ntable inet sublet\nflush table inet sublet\n",
    );
    text.push_str("table netdev sublet {\n");
    for link in links {
        text.push_str(&own_packets(link, settings));
    }
    text.push_str("}\n");
    let range = settings.range;
    let own_gateways = list(links.iter().map(|link| format!("\"{}\" . {}", link.tap, link.gateway)));
    let limits_to_guests: String = links.iter().map(|link| limits_to_guest(link, settings)).collect();
    let guard = guard(&surroundings.opened);
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        r#"table inet sublet {{
    set connections {{
        type ipv4_addr
        size 65536
        flags dynamic
    }}
    chain untracked_from_guests {{
        type filter hook prerouting priority raw; policy accept;
        iifname "sl-*" ip daddr {{ 255.255.255.255, {range} }} notrack
    }}
    chain untracked_to_guests {{
        type filter hook output priority raw; policy accept;
        oifname "sl-*" notrack
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname "sl-*" goto host_from_guests
        iifname != "lo" ip daddr {range} drop
    }}
    chain host_from_guests {{
        udp sport 68 udp dport 67 accept
        iifname . ip daddr {{ {own_gateways} }} meta l4proto {{ tcp, udp }} th dport 53 accept
        drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "sl-*" goto from_guests
        oifname "sl-*" goto to_guests
{guard}    }}
    chain from_guests {{
        oifname "sl-*" drop
        ip daddr {{ {refused} }} drop
        ct state established accept
        ct state related meta l4proto icmp accept
        ct state new add @connections {{ ip saddr ct count over {connections} }} drop
        ct state new accept
        drop
    }}
    chain to_guests {{
{limits_to_guests}        ct state established accept
        ct state related meta l4proto icmp accept
        drop
    }}
    chain outgoing {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {range} oifname != "lo" oifname != "sl-*" masquerade
    }}
}}
"#,
        refused = list(refused(surroundings, settings).iter()),
        connections = settings.connections,
    );
    text
}

/// What a partition may send at all: IPv4 from its own address, the question for its gateway's hardware address, and
/// the search for a DHCP server; from its own card, and not more than its share.
fn own_packets(link: &Link, settings: &NetworkSettings) -> String {
    let Link { tap, mac, gateway, guest, .. } = link;
    let [bytes, packets] = limits(settings);
    format!(
        r#"    chain {tap} {{
        type filter hook ingress device "{tap}" priority filter; policy drop;
        {bytes}
        {packets}
        ether saddr != {mac} drop
        arp operation request arp saddr ip {guest} arp daddr ip {gateway} limit rate 100/second accept
        ip daddr {{ {gateway}, 255.255.255.255 }} limit rate over {QUESTIONS_PER_SECOND}/second burst {QUESTIONS_PER_SECOND} packets drop
        ip saddr {guest} accept
        ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept
    }}
"#
    )
}

fn limits_to_guest(link: &Link, settings: &NetworkSettings) -> String {
    limits(settings).map(|limit| format!("        oifname \"{}\" {limit}\n", link.tap)).concat()
}

/// A tenth of a second may pass at once.
fn limits(settings: &NetworkSettings) -> [String; 2] {
    let (bytes, packets) = (settings.bytes_per_second, settings.packets_per_second);
    let burst = (bytes / 10).max(BURST_MIN_BYTES);
    [
        format!("limit rate over {bytes} bytes/second burst {burst} bytes drop"),
        format!("limit rate over {packets}/second burst {} packets drop", packets / 10),
    ]
}

fn guard(opened: &BTreeSet<String>) -> String {
    if opened.is_empty() {
        return String::new();
    }
    format!("        iifname {{ {} }} drop\n", list(opened.iter().map(|name| format!("\"{name}\""))))
}

/// Networks that no guest reaches, none within another.
fn refused(surroundings: &Surroundings, settings: &NetworkSettings) -> Vec<Ipv4Net> {
    let never = NEVER_REACHED.iter().filter_map(|network| network.parse().ok());
    let owners = settings.refuse.iter().chain([&settings.range]).copied();
    Ipv4Net::aggregate(&never.chain(owners).chain(surroundings.on_link.iter().copied()).collect())
}

fn list(items: impl Iterator<Item = impl ToString>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
