//! The queue of the source of random bytes. Bit 2 of the first byte chooses the rings' event indices.

use sublet_vmm::devices::virtio::rng::queue::Server;
use sublet_vmm_protocol::{RateLimit, RngConfig};

use crate::{
    Seed,
    guest::Guest,
    rings::{self, Described, INDIRECT, NEXT, Rings, Step, WRITE},
    steps,
};

const EVENT_IDX: u8 = 4;
/// More than any input asks for: waiting is not what is looked at here.
const LIMIT: RateLimit = RateLimit { per_second: 1 << 40, burst: 1 << 40 };

pub fn run(input: &[u8]) {
    let guest = Guest::new(rings::MEMORY_BYTES);
    play(&guest, input);
}

fn play(guest: &Guest, input: &[u8]) {
    let (options, input) = input.split_first().unwrap_or((&0, &[]));
    let server = Server::new(RngConfig { bytes: LIMIT }, guest.memory.clone());
    Rings::new(guest, server, 1, 0, options & EVENT_IDX != 0).play(steps::read(input));
}

const DATA: u64 = 0x2_0000;

fn good() -> Vec<Step> {
    let mut steps = rings::table(&[
        Described { address: DATA, length: 64, flags: WRITE, next: 0 },
        Described { address: DATA + 0x1000, length: 0x8000, flags: WRITE | NEXT, next: 2 },
        Described { address: DATA, length: 8, flags: WRITE, next: 0 },
    ]);
    steps.extend([Step::Offer { queue: 0, head: 0 }, Step::Offer { queue: 0, head: 1 }, Step::Serve]);
    steps
}

fn hostile() -> Vec<Step> {
    let mut steps = rings::table(&[
        Described { address: DATA, length: 64, flags: 0, next: 0 },
        Described { address: rings::MEMORY_BYTES as u64 - 8, length: 64, flags: WRITE | NEXT, next: 1 },
        Described { address: 0x100, length: 48, flags: INDIRECT, next: 0 },
        Described { address: 0x204, length: 64, flags: WRITE, next: 0 },
    ]);
    steps.extend((0..4).map(|head| Step::Offer { queue: 0, head }));
    steps.extend([Step::Serve, Step::Reset, Step::Index { queue: 0, index: 40 }, Step::Serve]);
    steps
}

pub fn seeds() -> Vec<Seed> {
    let with = |options: u8, steps: &[Step]| [vec![options], steps::written(steps)].concat();
    vec![
        ("good", with(0, &good())),
        ("good_with_event_idx", with(EVENT_IDX, &good())),
        ("hostile", with(0, &hostile())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_are_good_are_served() {
        let guest = Guest::new(rings::MEMORY_BYTES);
        let input = seeds().into_iter().find(|(name, _)| *name == "good").unwrap().1;
        play(&guest, &input);
        assert_eq!(rings::used(&guest, 0), 2);
    }
}
