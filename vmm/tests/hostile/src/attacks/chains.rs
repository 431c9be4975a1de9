//! Chains of descriptors that have no end, or say what is not so.

use rand::rngs::StdRng;

use super::{bad_addresses, provoke};
use crate::{
    Outcome,
    device::{Device, NO_VECTOR},
    memory::Memory,
    ring::{DESCRIPTOR, Descriptor, INDIRECT, NEXT, Ring, WRITE, describe},
};

/// Each attack in a session of its own, as the first may end one.
fn on_each_queue(device: &Device, memory: Memory, attacks: &[&dyn Fn(&Ring)]) -> Outcome {
    for queue in 0..device.sizes.len() as u16 {
        for attack in attacks {
            let mut rings = device.start(memory, NO_VECTOR)?;
            let ring = &mut rings[usize::from(queue)];
            attack(ring);
            provoke(device, queue, ring, 0);
        }
    }
    Ok(())
}

pub(super) fn chains_that_loop_or_lie(device: &Device, memory: Memory, _: &mut StdRng) -> Outcome {
    let data = memory.data().start;
    let to_itself = |flags: u16| {
        move |ring: &Ring| ring.describe(0, Descriptor { address: data, bytes: 16, flags, next: 0 })
    };
    let pair = |ring: &Ring| {
        let both = Descriptor { address: data, bytes: 16, flags: NEXT, next: 1 };
        ring.describe(0, both);
        ring.describe(1, Descriptor { next: 0, flags: NEXT | WRITE, ..both });
    };
    // As long as the whole queue, and from its last descriptor on back to the first.
    let all_around = |ring: &Ring| {
        for index in 0..ring.size {
            let next = (index + 1) % ring.size;
            let flags = if index < ring.size / 2 { NEXT } else { NEXT | WRITE };
            ring.describe(index, Descriptor { address: data, bytes: 512, flags, next });
        }
    };
    let beyond = |next: u16| {
        move |ring: &Ring| ring.describe(0, Descriptor { address: data, bytes: 16, flags: NEXT, next })
    };
    let long = |flags: u16| {
        move |ring: &Ring| ring.chain(0, &[(data, 16, 0), (data, u32::MAX, flags), (data, u32::MAX, WRITE)])
    };
    let unknown_flags =
        |ring: &Ring| ring.describe(0, Descriptor { address: data, bytes: 16, flags: !INDIRECT, next: 1 });
    on_each_queue(
        device,
        memory,
        &[
            &to_itself(NEXT),
            &to_itself(NEXT | WRITE),
            &pair,
            &all_around,
            &beyond(device.sizes[0]),
            &beyond(u16::MAX),
            &long(0),
            &long(WRITE),
            &unknown_flags,
        ],
    )?;
    let nowhere = |address: u64, flags: u16| {
        move |ring: &Ring| ring.chain(0, &[(data, 16, 0), (address, 512, flags), (address, 4096, WRITE)])
    };
    for address in bad_addresses(memory) {
        on_each_queue(device, memory, &[&nowhere(address, 0), &nowhere(address, WRITE)])?;
    }
    head_out_of_range(device, memory)
}

fn head_out_of_range(device: &Device, memory: Memory) -> Outcome {
    for queue in 0..device.sizes.len() as u16 {
        for head in [device.sizes[usize::from(queue)], 0x8000, u16::MAX] {
            let mut rings = device.start(memory, NO_VECTOR)?;
            provoke(device, queue, &mut rings[usize::from(queue)], head);
        }
    }
    Ok(())
}

/// Indirect tables that hold themselves or others, whose size is odd or huge, or which are nowhere.
pub(super) fn tables_within_tables(device: &Device, memory: Memory, _: &mut StdRng) -> Outcome {
    let data = memory.data().start;
    let table = data + 0x1000;
    let indirect = |address: u64, bytes: u32, more: u16| {
        move |ring: &Ring| {
            // A table that leads to itself, and from there on in a circle.
            describe(memory, table, Descriptor { address: table, bytes: 32, flags: INDIRECT, next: 0 });
            describe(
                memory,
                table + DESCRIPTOR,
                Descriptor { address: data, bytes: 16, flags: NEXT | WRITE, next: 0 },
            );
            ring.describe(0, Descriptor { address, bytes, flags: INDIRECT | more, next: 0 });
        }
    };
    on_each_queue(
        device,
        memory,
        &[
            &indirect(table, 32, 0),
            &indirect(table + DESCRIPTOR, 16, 0),
            &indirect(table, 32, NEXT),
            &indirect(table, 32, WRITE),
            &indirect(table, 0, 0),
            &indirect(table, 15, 0),
            &indirect(table, 17, 0),
            &indirect(table + 1, 32, 0),
            &indirect(table, u32::MAX, 0),
            &indirect(table, !15, 0),
        ],
    )?;
    for address in bad_addresses(memory) {
        on_each_queue(device, memory, &[&indirect(address, 32, 0), &indirect(address, 1 << 20, 0)])?;
    }
    Ok(())
}
