//! Loopback ports to which QEMU forwards a host's own.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use rand::RngExt as _;

/// Below Linux's ephemeral ports (`ip_local_port_range`), so that no outgoing connection takes the port of a
/// host that is off for a while.
const RANGE: Range<u16> = 20_000..32_000;

/// A port that nobody listens on and that is not in `taken`; `None` where there is none.
pub(crate) fn free_port(taken: &BTreeSet<u16>) -> Option<u16> {
    first_free(rand::rng().random_range(RANGE), taken, is_free)
}

fn first_free(from: u16, taken: &BTreeSet<u16>, is_free: impl Fn(u16) -> bool) -> Option<u16> {
    (from..RANGE.end).chain(RANGE.start..from).find(|port| !taken.contains(port) && is_free(*port))
}

/// Whether nobody listens on it now.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_goes_round_once_and_passes_over_what_is_taken_or_listened_on() {
        let taken = BTreeSet::from([31_999]);
        assert_eq!(first_free(31_998, &taken, |port| port != 31_998), Some(20_000));
        assert_eq!(first_free(25_000, &taken, |_| false), None);
    }

    #[test]
    fn a_port_that_is_listened_on_is_not_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
    }
}
