//! vsock packets that lie about whom they are from and what is in them.

use rand::{RngExt as _, rngs::StdRng};

use super::PATIENCE;
use crate::{
    Outcome,
    device::{Device, NO_VECTOR},
    good_order::{PACKET_HEADER, Packet},
    memory::Memory,
    ring::{Ring, WRITE},
    until,
};

const LOTS: u32 = 60;
/// Packets of a lot.
const AT_ONCE: u16 = 32;
/// Room of one packet, header and payload.
const ROOM: u64 = 0x1000;

/// Any sender, receiver, length, kind and operation; with buffers to answer into, and without. The host's kernel may
/// refuse to go on with a queue, so each lot has a session of its own.
pub(super) fn packets_forged(device: &Device, memory: Memory, random: &mut StdRng) -> Outcome {
    for lot in 0..LOTS {
        let mut rings = device.start(memory, NO_VECTOR)?;
        let [received, sent, ..] = &mut rings[..] else { return Err("it lacks queues".into()) };
        if lot % 2 == 0 {
            offer_room(memory, received);
            device.notify(0);
        }
        for number in 0..AT_ONCE {
            send_forged(device, memory, sent, number, random);
        }
        device.notify(1);
        let mut taken = 0;
        until(PATIENCE, || {
            taken += u16::from(sent.next_used().is_some());
            (taken == AT_ONCE).then_some(())
        });
    }
    Ok(())
}

/// Some have less behind the header than they say, some are cut within it, some are to be written.
fn send_forged(device: &Device, memory: Memory, sent: &mut Ring, number: u16, random: &mut StdRng) {
    let at = memory.data().start + u64::from(number) * ROOM;
    forge(device, random).put(memory, at);
    let bytes = [PACKET_HEADER as u32, 256, 8, 0, ROOM as u32][random.random_range(0..5)];
    let payload = (at + ROOM / 2, random.random_range(0..ROOM as u32), 0);
    match random.random_range(0..8) {
        0 => sent.chain(number * 2, &[(at, bytes, WRITE)]),
        1..4 => sent.chain(number * 2, &[(at, bytes, 0)]),
        _ => sent.chain(number * 2, &[(at, PACKET_HEADER as u32, 0), payload]),
    }
    sent.offer(number * 2);
}

fn forge(device: &Device, random: &mut StdRng) -> Packet {
    let honest = Packet::connect(device);
    let own = honest.source;
    let pick = |random: &mut StdRng, from: &[u64]| from[random.random_range(0..from.len())];
    Packet {
        source: pick(random, &[own, own, own, 0, 1, 2, own + 1, own - 1, u64::from(u32::MAX), u64::MAX]),
        destination: pick(random, &[2, 2, 2, own, own + 1, own - 1, 0, 1, 1 << 32 | 2, u64::MAX]),
        ports: [random.random_range(0..4), random.random()],
        bytes: random.random::<u32>() >> random.random_range(0..32),
        kind: random.random_range(0..4),
        operation: random.random_range(0..10),
        rest: [random.random(), random.random(), random.random()],
    }
}

fn offer_room(memory: Memory, received: &mut Ring) {
    for number in 0..AT_ONCE {
        let at = memory.data().start + u64::from(AT_ONCE + number) * ROOM;
        received.chain(number, &[(at, ROOM as u32, WRITE)]);
        received.offer(number);
    }
}
