//! Queues that are changed when they are fixed, or that there are none of.

use rand::{RngExt as _, rngs::StdRng};

use crate::{
    Outcome,
    device::{
        CONFIG_VECTOR, Device, NO_VECTOR, QUEUE_AVAILABLE, QUEUE_DESCRIPTORS, QUEUE_ENABLE, QUEUE_SIZE,
        QUEUE_USED, QUEUE_VECTOR,
    },
    good_order,
    memory::{Memory, PAGE},
};

/// What a device says that a queue is.
fn described(device: &Device, queue: u16) -> (u16, u16, u16, [u64; 3]) {
    device.select(queue);
    let addresses = [QUEUE_DESCRIPTORS, QUEUE_AVAILABLE, QUEUE_USED].map(|register| device.address(register));
    (device.common(QUEUE_SIZE), device.common(QUEUE_VECTOR), device.common(QUEUE_ENABLE), addresses)
}

/// Whatever is written, a device goes on with the queues that it was started with.
pub(super) fn queues_rewritten_after_driver_ok(
    device: &Device,
    memory: Memory,
    random: &mut StdRng,
) -> Outcome {
    let mut rings = device.start(memory, NO_VECTOR)?;
    for _ in 0..4 {
        for queue in 0..device.sizes.len() as u16 {
            let before = described(device, queue);
            let elsewhere = [memory.end() - PAGE, memory.data().start, random.random(), 0];
            for (register, address) in
                [QUEUE_DESCRIPTORS, QUEUE_AVAILABLE, QUEUE_USED].into_iter().zip(elsewhere)
            {
                device.set_address(register, address);
            }
            device.set_common(QUEUE_SIZE, random.random::<u16>());
            device.set_common(QUEUE_VECTOR, 0u16);
            device.set_common(QUEUE_ENABLE, random.random::<u16>());
            device.set_common(CONFIG_VECTOR, random.random::<u16>());
            device.accept(random.random());
            device.notify(queue);
            let after = described(device, queue);
            if before != after {
                return Err(format!("queue {queue} was {before:x?} and is {after:x?}"));
            }
        }
        device.ready();
        good_order::serves(device, memory, &mut rings)?;
    }
    Ok(())
}

/// Queues beyond the last are selected, written, read, notified.
pub(super) fn queues_that_are_none(device: &Device, memory: Memory, _: &mut StdRng) -> Outcome {
    let mut rings = device.start(memory, NO_VECTOR)?;
    let count = device.sizes.len() as u16;
    for queue in [count, count + 1, 0x7fff, 0xfffe, 0xffff] {
        device.set_queue(queue, 2, rings[0].places, 0);
        let (size, _, enabled, addresses) = described(device, queue);
        if (size, enabled, addresses) != (0, 0, [0; 3]) {
            return Err(format!("there is a queue {queue}"));
        }
        device.registers.put(device.notify + 4 * (usize::from(queue) % 1024), queue);
    }
    good_order::serves(device, memory, &mut rings)
}
