//! Resets while a device has its hands full.

use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};

use crate::{
    Outcome,
    device::{BLOCK, Device, NO_VECTOR, STATUS, VSOCK},
    good_order::{PACKET_HEADER, Packet},
    memory::Memory,
    ring::{Ring, WRITE},
    until,
};

const ROUNDS: u32 = 24;
/// Times after which it is looked whether a device that has been reset still writes.
const LOOKS: u32 = 4;
/// How long it would have to.
const WATCH: Duration = Duration::from_millis(30);
/// What is written where a device has no business any more.
const UNTOUCHED: u8 = 0xa5;
/// Bytes of each request's buffer.
const BUFFER: u64 = 0x4000;
/// Requests of a queue that are in hand at once.
const REQUESTS: u16 = 64;
/// Sectors of which requests are.
const SECTORS: u64 = 1024;

/// Gives a device as much to do as it takes, in all its queues.
pub(super) fn load(device: &Device, memory: Memory, rings: &mut [Ring], random: &mut StdRng) {
    for (queue, ring) in (0..).zip(rings) {
        for request in 0..REQUESTS.min(ring.size / 4) {
            let buffer = memory.data().start + u64::from(request) * BUFFER;
            put_request(device, memory, queue, ring, request * 4, buffer, random);
            ring.offer(request * 4);
        }
    }
    device.notify_all();
}

fn put_request(
    device: &Device,
    memory: Memory,
    queue: u16,
    ring: &Ring,
    head: u16,
    buffer: u64,
    random: &mut StdRng,
) {
    let bytes = BUFFER as u32;
    match (device.kind, queue) {
        (BLOCK, _) => {
            let is_read = random.random::<bool>();
            let header = memory.data().end - 0x4000 + u64::from(head) * 16;
            memory.put(header, if is_read { VIRTIO_BLK_T_IN } else { VIRTIO_BLK_T_OUT });
            memory.put(header + 4, 0u32);
            memory.put(header + 8, random.random_range(0..SECTORS));
            let flags = if is_read { WRITE } else { 0 };
            ring.chain(head, &[(header, 16, 0), (buffer, bytes, flags), (header + 24, 1, WRITE)]);
        }
        (VSOCK, 1) => {
            Packet::connect(device).put(memory, buffer);
            ring.chain(head, &[(buffer, PACKET_HEADER as u32, 0)]);
        }
        _ => ring.chain(head, &[(buffer, bytes, WRITE)]),
    }
}

/// Once a reset is over nothing of the guest's memory is touched any more.
pub(super) fn reset_under_load(device: &Device, memory: Memory, random: &mut StdRng) -> Outcome {
    for round in 0..ROUNDS {
        let mut rings = device.start(memory, NO_VECTOR)?;
        load(device, memory, &mut rings, random);
        let pause = random.random_range(0..2000);
        (0..pause).for_each(|_| std::hint::spin_loop());
        device.reset()?;
        if round % (ROUNDS / LOOKS) == 0 {
            stays_untouched(device, memory)?;
        }
    }
    Ok(())
}

fn stays_untouched(device: &Device, memory: Memory) -> Outcome {
    let rings = memory.queue(0)..memory.queue(device.sizes.len() as u16);
    let ranges = [rings, memory.data()];
    ranges.iter().for_each(|range| memory.fill(range.clone(), UNTOUCHED));
    until(WATCH, || None::<()>);
    match ranges.into_iter().find_map(|range| memory.first_other(range, UNTOUCHED)) {
        None => Ok(()),
        Some(at) => Err(format!("after a reset it wrote to {at:#x}")),
    }
}

/// The next start follows a reset at once, whether that is over or not.
pub(super) fn reset_and_not_waited_for(device: &Device, memory: Memory, random: &mut StdRng) -> Outcome {
    for _ in 0..ROUNDS / 2 {
        let mut rings = device.start(memory, NO_VECTOR)?;
        load(device, memory, &mut rings, random);
        for _ in 0..8 {
            device.set_common(STATUS, 0u8);
            device.set_common(STATUS, 3u8);
            device.accept(device.offered());
            device.set_common(STATUS, 11u8);
            for (queue, ring) in (0..).zip(&rings) {
                device.set_queue(queue, ring.size, ring.places, NO_VECTOR);
            }
            device.set_common(STATUS, 15u8);
            device.notify_all();
        }
    }
    Ok(())
}
