//! Notifications without end, from every vCPU.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{World, on_all_cpus};
use crate::{
    Outcome,
    device::{Device, NO_VECTOR},
};

/// Notifications of each vCPU to each device.
const NOTIFICATIONS: u32 = 1500;
/// Bytes of notification registers.
const REGISTERS: usize = 0x1000;

/// Of queues that there are and that there are not, in all sizes, saying anything.
pub(super) fn doorbells_flooded_by_all_cpus(world: &mut World) -> Outcome {
    let seed = world.random.random::<u64>();
    let (devices, memory) = (&world.devices, world.memory);
    for (number, device) in devices.iter().enumerate() {
        let _rings = device.start(memory, NO_VECTOR)?;
        on_all_cpus(|cpu| {
            let mut random = StdRng::seed_from_u64(seed ^ (number * 64 + cpu) as u64);
            (0..NOTIFICATIONS).for_each(|_| ring_a_bell(device, &mut random));
        });
        // And of one that has no driver.
        device.reset()?;
        on_all_cpus(|_| (0..NOTIFICATIONS / 10).for_each(|_| device.notify_all()));
    }
    Ok(())
}

fn ring_a_bell(device: &Device, random: &mut StdRng) {
    if random.random() {
        return device.notify_all();
    }
    let bytes = 1 << random.random_range(0..4);
    let offset = random.random_range(0..=REGISTERS - bytes);
    device.registers.put_sized(device.notify + offset, bytes, random.random());
}
