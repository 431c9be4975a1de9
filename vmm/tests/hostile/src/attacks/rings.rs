//! Rings where none should be, and rings whose bytes change under the device's hands.

use std::sync::atomic::{AtomicBool, Ordering};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{PATIENCE, bad_addresses, provoke, resets};
use crate::{
    Outcome,
    device::{Device, NO_VECTOR},
    memory::{Memory, PAGE},
    ring::{INDIRECT, Places},
    until,
};

/// Rounds of a ring that is rewritten while it is served.
const ROUNDS: u32 = 12;

/// Starts a device with all its queues there, which it may refuse, and offers what there is.
fn start_at(device: &Device, memory: Memory, size: u16, places: Places) -> Outcome {
    device.reset()?;
    device.negotiate(0)?;
    for offset in 0..64 {
        memory.try_put(places.descriptors + offset * 8, memory.data().start + offset);
    }
    // As many entries as are allowed are offered, whatever they are.
    memory.try_put(places.available + 2, size);
    for queue in 0..device.sizes.len() as u16 {
        device.set_queue(queue, size, places, NO_VECTOR);
    }
    device.ready();
    device.notify_all();
    until(PATIENCE, || device.needs_reset().then_some(()));
    device.reset()
}

pub(super) fn rings_in_bad_places(device: &Device, memory: Memory, _: &mut StdRng) -> Outcome {
    let good = Places::of(memory, 0);
    let (size, last) = (device.sizes[0], memory.end() - PAGE);
    let bytes = u64::from(size);
    let at = |descriptors, available, used| Places { descriptors, available, used };
    let mut all = vec![
        // Each as far up as it goes, and one step further.
        (size, Places { descriptors: memory.end() - 16 * bytes, ..good }),
        (size, Places { descriptors: memory.end() - 16 * bytes + 16, ..good }),
        (size, Places { available: memory.end() - 6 - 2 * bytes, ..good }),
        (size, Places { available: memory.end() - 4 - 2 * bytes, ..good }),
        (size, Places { used: (memory.end() - 6 - 8 * bytes) & !3, ..good }),
        (size, Places { used: (memory.end() - 8 * bytes) & !3, ..good }),
        // All three on the last page, and on top of each other.
        (2, at(last, last + 0x100, last + 0x200)),
        (2, at(memory.end() - 96, memory.end() - 64, memory.end() - 32)),
        (size, at(last, last, last)),
        (size, at(good.used, good.available, good.used)),
        (size, at(good.descriptors, good.used, good.used)),
        (size, at(good.descriptors, good.descriptors + 64, good.descriptors + 4)),
        // In the room for requests' data.
        (size, Places { used: memory.data().start, ..good }),
        // Misaligned.
        (size, Places { descriptors: good.descriptors + 8, ..good }),
        (size, Places { available: good.available + 1, ..good }),
        (size, Places { used: good.used + 2, ..good }),
        // As a driver that sets up nothing leaves them.
        (size, at(0, 0, 0)),
    ];
    for address in bad_addresses(memory) {
        all.push((size, Places { descriptors: address & !15, ..good }));
        all.push((size, Places { available: address & !1, ..good }));
        all.push((size, Places { used: address & !3, ..good }));
        all.push((2, at(address, address, address)));
    }
    all.into_iter().try_for_each(|(size, places)| start_at(device, memory, size, places))
}

/// More is said to be offered than there can be, or less than before.
pub(super) fn indexes_that_jump(device: &Device, memory: Memory, random: &mut StdRng) -> Outcome {
    for queue in 0..device.sizes.len() as u16 {
        for by in [u16::MAX, 0x8000, device.sizes[usize::from(queue)] + 1, device.sizes[usize::from(queue)]] {
            let mut rings = device.start(memory, NO_VECTOR)?;
            resets::load(device, memory, &mut rings, random);
            let ring = &mut rings[usize::from(queue)];
            ring.set_flags(random.random(), random.random());
            ring.jump(by);
            device.notify(queue);
            until(PATIENCE, || device.needs_reset().then_some(()));
            provoke(device, queue, ring, 0);
        }
    }
    Ok(())
}

/// Another CPU writes descriptors, indexes, headers, while the device reads them.
pub(super) fn rings_rewritten_while_served(device: &Device, memory: Memory, random: &mut StdRng) -> Outcome {
    for _ in 0..ROUNDS {
        let mut rings = device.start(memory, NO_VECTOR)?;
        let is_over = AtomicBool::new(false);
        let mut others = StdRng::seed_from_u64(random.random());
        std::thread::scope(|scope| {
            let (is_over, queues) = (&is_over, device.sizes.len() as u16);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    rewrite(memory, others.random_range(0..queues), &mut others);
                }
            });
            for _ in 0..8 {
                resets::load(device, memory, &mut rings, random);
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
    Ok(())
}

/// Something of a queue becomes something else. Addresses stay in this memory: it ends where the machine's does, so
/// that no length leads to the kernel's.
fn rewrite(memory: Memory, queue: u16, random: &mut StdRng) {
    let places = Places::of(memory, queue);
    let descriptor = places.descriptors + random.random_range(0..256) * 16;
    match random.random_range(0..8) {
        0 => memory.put(places.available + 2, random.random::<u16>()),
        1 => memory.put(places.available + 4 + random.random_range(0..256) * 2, random.random::<u16>()),
        2 => memory.put(places.used + random.random_range(0..256) * 8, random.random::<u64>()),
        3 | 4 => memory.put(descriptor, random.random_range(memory.start()..memory.end())),
        5 => memory.put(descriptor + 8, random.random::<u32>() >> random.random_range(0..32)),
        6 => memory.put(descriptor + 12, random.random::<u16>() & !INDIRECT),
        _ => memory.put(
            memory.data().end - 0x4000 + random.random_range(0..256) * 16,
            random.random_range(0..16u32),
        ),
    }
}
