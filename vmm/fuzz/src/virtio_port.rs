//! The named port's queues, with a program of the host's that comes, talks, reads and goes. Bit 0 of the first byte chooses
//! a driver that knows of no ports, bit 2 the rings' event indices.

use std::{
    io::{Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};
use sublet_vmm::devices::virtio::console::{
    config::{CONTROL_FROM_GUEST, CONTROL_TO_GUEST, FROM_GUEST, MULTIPORT, QUEUES, TO_GUEST},
    queue::Server,
};

use crate::{
    Seed,
    guest::Guest,
    rings::{self, Described, Rings, Step, WRITE},
    steps,
};

const OLD_DRIVER: u8 = 1;
const EVENT_IDX: u8 = 4;
/// More than a socket holds.
const READ_BYTES: usize = 1 << 20;

/// No more than a listener lets wait.
const CONNECTIONS_MAX: usize = 64;

#[derive(Debug, Serialize, Deserialize)]
enum Act {
    Ring(Step),
    Connect,
    /// The program that came first and has not gone says so many bytes, as far as the socket takes them.
    Say(#[serde(with = "postcard::fixint::le")] u16),
    Read,
    HangUp,
}

pub fn run(input: &[u8]) {
    let guest = Guest::new(rings::MEMORY_BYTES);
    play(&guest, input);
}

/// What the host's programs have heard.
fn play(guest: &Guest, input: &[u8]) -> Vec<u8> {
    let (options, input) = input.split_first().unwrap_or((&0, &[]));
    let (mut host, listener) = Host::new();
    let server = Server::new("org.example".into(), listener, guest.memory.clone()).unwrap();
    let features = if options & OLD_DRIVER != 0 { 0 } else { MULTIPORT };
    let mut rings = Rings::new(guest, server, QUEUES as u16, features, options & EVENT_IDX != 0);
    for act in steps::read(input) {
        match act {
            Act::Ring(step) => rings.take(step),
            act => host.take(&act),
        }
    }
    rings.finish();
    host.heard
}

/// The programs at the other end.
struct Host {
    address: SocketAddr,
    streams: Vec<UnixStream>,
    /// How often a program has come.
    connected: usize,
    heard: Vec<u8>,
}

impl Host {
    fn new() -> (Self, UnixListener) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("port-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        listener.set_nonblocking(true).unwrap();
        (Self { address, streams: vec![], connected: 0, heard: vec![] }, listener)
    }

    fn take(&mut self, act: &Act) {
        match (act, self.streams.first_mut()) {
            (Act::Connect, _) => self.connect(),
            // The other side may not read, or be gone.
            (Act::Say(bytes), Some(stream)) => _ = stream.write(&vec![b'h'; usize::from(*bytes)]),
            (Act::Read, Some(stream)) => {
                let mut heard = vec![0; READ_BYTES];
                let count = stream.read(&mut heard).unwrap_or(0);
                self.heard.extend_from_slice(&heard[..count]);
            }
            (Act::HangUp, Some(_)) => drop(self.streams.remove(0)),
            _ => {}
        }
    }

    fn connect(&mut self) {
        if self.connected == CONNECTIONS_MAX {
            return;
        }
        self.connected += 1;
        let stream = UnixStream::connect_addr(&self.address).unwrap();
        stream.set_nonblocking(true).unwrap();
        self.streams.push(stream);
    }
}

const DATA: u64 = 0x2_0000;
const MESSAGE: u32 = 0x1_0000;

/// The steps of offering this one descriptor of a queue.
fn offer(queue: usize, descriptor: Described) -> Vec<Act> {
    let queue = queue as u8;
    let mut steps = rings::table_of(queue, &[descriptor]);
    steps.extend([Step::Offer { queue, head: 0 }, Step::Serve]);
    steps.into_iter().map(Act::Ring).collect()
}

fn buffer(queue: usize) -> Vec<Act> {
    offer(queue, Described { address: DATA, length: 64, flags: WRITE, next: 0 })
}

fn says(queue: usize, bytes: &[u8]) -> Vec<Act> {
    let said = Described { address: MESSAGE.into(), length: bytes.len() as u32, flags: 0, next: 0 };
    [vec![Act::Ring(Step::Write(MESSAGE, bytes.into()))], offer(queue, said)].into_iter().flatten().collect()
}

fn control(event: u8, value: u8) -> Vec<Act> {
    says(CONTROL_FROM_GUEST, &[0, 0, 0, 0, event, 0, value, 0])
}

/// A program opens the port, is met, talks both ways and closes it; a second time it is the host that goes.
fn good() -> Vec<Act> {
    [
        control(0, 1),
        control(3, 1),
        control(6, 1),
        buffer(CONTROL_TO_GUEST),
        vec![Act::Connect],
        says(FROM_GUEST, b"hello"),
        vec![Act::Read, Act::Say(100)],
        buffer(TO_GUEST),
        control(6, 0),
        buffer(CONTROL_TO_GUEST),
        vec![Act::HangUp],
        control(6, 1),
        vec![Act::Connect, Act::Say(20)],
        buffer(TO_GUEST),
        vec![Act::HangUp, Act::Ring(Step::Serve)],
        control(6, 0),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Chains that go round or leave memory, messages of any length, opening and closing without end.
fn hostile() -> Vec<Act> {
    let outside = Described { address: rings::MEMORY_BYTES as u64 - 8, length: 64, flags: WRITE, next: 0 };
    let round = Described { address: DATA, length: 1 << 17, flags: rings::NEXT, next: 0 };
    let mut acts = vec![Act::Connect, Act::Connect];
    (0..12).for_each(|turn| acts.extend(control(6, 1 - turn % 2)));
    acts.extend(says(CONTROL_FROM_GUEST, &[6; 9]));
    acts.extend([Act::Say(9000), Act::Ring(Step::Serve)]);
    for queue in 0..QUEUES {
        acts.extend([offer(queue, outside), offer(queue, round)].into_iter().flatten());
    }
    acts.extend([Act::Read, Act::Ring(Step::Reset), Act::Ring(Step::Index { queue: 1, index: 40 })]);
    acts.push(Act::Ring(Step::Serve));
    acts
}

pub fn seeds() -> Vec<Seed> {
    let with = |options: u8, acts: &[Act]| [vec![options], steps::written(acts)].concat();
    vec![
        ("good", with(0, &good())),
        ("good_with_event_idx", with(EVENT_IDX, &good())),
        ("good_with_an_old_driver", with(OLD_DRIVER, &good())),
        ("hostile", with(0, &hostile())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_of_the_guests_says_is_heard() {
        let guest = Guest::new(rings::MEMORY_BYTES);
        let input = seeds().into_iter().find(|(name, _)| *name == "good").unwrap().1;
        assert_eq!(play(&guest, &input), b"hello");
    }
}
