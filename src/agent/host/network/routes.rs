//! Where the host's packets go, as its kernel tells it in /proc/net/route: the main table, IPv4.

use std::{collections::BTreeSet, fs, io, net::Ipv4Addr, path::Path};

use ipnet::Ipv4Net;
use thiserror::Error;

use super::link::TAP_PREFIX;

/// Flags of a route (linux/route.h).
const GATEWAY: u32 = 0x2;
const REJECT: u32 = 0x200;
/// What is shorter leads to the internet, however it is spelled.
const ON_LINK_PREFIX_MIN: u8 = 8;

/// The host's surroundings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Routes {
    /// Networks whose hosts are reached without a gateway: the lender's own.
    pub on_link: BTreeSet<Ipv4Net>,
    /// Interfaces that lead further.
    pub uplinks: BTreeSet<String>,
}

#[derive(Debug, Error)]
#[error("cannot read the host's routes")]
pub struct RoutesError(#[source] io::Error);

impl Routes {
    /// Those of the host whose file systems are mounted under `root`, without partitions' links.
    pub(super) fn read(root: &Path) -> Result<Self, RoutesError> {
        Ok(Self::parse(&fs::read_to_string(root.join("proc/net/route")).map_err(RoutesError)?))
    }

    fn parse(text: &str) -> Self {
        let mut routes = Self::default();
        for (interface, network, flags) in text.lines().skip(1).filter_map(route) {
            let leads_further = flags & GATEWAY != 0 || network.prefix_len() < ON_LINK_PREFIX_MIN;
            if interface.starts_with(TAP_PREFIX) || flags & REJECT != 0 {
                continue;
            } else if !leads_further {
                routes.on_link.insert(network);
            } else if is_plain(interface) {
                routes.uplinks.insert(interface.to_owned());
            }
        }
        routes
    }
}

/// Interface, destination and flags of a line.
fn route(line: &str) -> Option<(&str, Ipv4Net, u32)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let &[interface, destination, _, flags, _, _, _, mask, ..] = fields.as_slice() else { return None };
    let network = Ipv4Net::with_netmask(address(destination)?, address(mask)?).ok()?;
    Some((interface, network.trunc(), u32::from_str_radix(flags, 16).ok()?))
}

/// The kernel prints an address as the number that its bytes are on this machine.
fn address(digits: &str) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes()))
}

/// An interface's name may hold nearly anything; one that would have to be quoted in a rule is nobody's uplink.
fn is_plain(interface: &str) -> bool {
    interface.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_on_the_link_and_interfaces_that_lead_further_are_told_apart() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\tFE4DA8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            sl-5000\t00006064\t00000000\t0001\t0\t0\t0\tFCFFFFFF\t0\t0\t0\n\
            eth0\t004DA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            ppp0\t00000000\t00000000\t0001\t0\t0\t9\t00000000\t0\t0\t0\n\
            *\t0000000A\t00000000\t0200\t0\t0\t0\t000000FF\t0\t0\t0\n\
            br0\tbroken\n";
        let routes = Routes::parse(text);
        assert_eq!(routes.on_link, ["192.168.77.0/24".parse().unwrap()].into());
        assert_eq!(routes.uplinks, ["eth0".to_owned(), "ppp0".to_owned()].into());
    }

    #[test]
    fn this_machines_routes_can_be_read() {
        Routes::read(Path::new("/")).unwrap();
    }
}
