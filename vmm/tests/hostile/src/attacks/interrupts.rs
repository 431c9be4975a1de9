//! Interrupts that lead nowhere, or elsewhere every moment.

use rand::{RngExt as _, rngs::StdRng};

use super::resets;
use crate::{
    Outcome,
    device::{CONFIG_VECTOR, Device, NO_VECTOR, QUEUE_VECTOR},
    good_order,
    memory::Memory,
};

const ENABLED: u16 = 1 << 15;
const ALL_MASKED: u16 = 1 << 14;
const ENTRY: usize = 16;
const MASKED: u32 = 1;
/// Changes of the table. Each may make the host's kernel wait for all of its CPUs.
const CHANGES: u32 = 80;

fn set_control(device: &Device, control: u16) {
    device.function.set_config(device.msix.control, &control.to_le_bytes());
}

/// As after power-on.
pub(super) fn turn_off(device: &Device) {
    set_control(device, 0);
    for vector in 0..usize::from(device.msix.vectors) {
        for (at, word) in [0, 0, 0, MASKED].into_iter().enumerate() {
            device.registers.put(device.msix.table + vector * ENTRY + at * 4, word);
        }
    }
}

/// A vector that there is none of becomes none.
pub(super) fn vectors_out_of_range(device: &Device, memory: Memory, _: &mut StdRng) -> Outcome {
    for vector in [device.msix.vectors, device.msix.vectors + 1, 0x800, 0xfffe, 0xffff] {
        device.reset()?;
        device.set_common(CONFIG_VECTOR, vector);
        device.select(0);
        device.set_common(QUEUE_VECTOR, vector);
        let taken = [device.common::<u16>(CONFIG_VECTOR), device.common::<u16>(QUEUE_VECTOR)];
        if taken != [NO_VECTOR; 2] {
            return Err(format!("vector {vector} was taken for {taken:?}"));
        }
        let mut rings = device.start(memory, vector)?;
        good_order::serves(device, memory, &mut rings)?;
    }
    Ok(())
}

/// Where an interrupt's message is written: CPUs that are not there, memory, devices, nowhere.
fn unlikely(memory: Memory, random: &mut StdRng) -> u64 {
    let addresses = [
        0xfeef_e000,
        0xfeef_e00c,
        0,
        memory.end() - 4,
        0xc000_4000,
        0xe000_0000,
        0xfec0_0000,
        0x1_0000_0000,
        0xffff_ffff_fee0_0000,
        0x80_feef_e000,
        u64::MAX,
    ];
    addresses[random.random_range(0..addresses.len())]
}

/// The table changes while the device interrupts.
pub(super) fn vectors_masked_and_moved_in_a_storm(
    device: &Device,
    memory: Memory,
    random: &mut StdRng,
) -> Outcome {
    let mut rings = device.start(memory, 0)?;
    for change in 0..CHANGES {
        if change % 16 == 0 {
            resets::load(device, memory, &mut rings, random);
        }
        let entry = device.msix.table + random.random_range(0..usize::from(device.msix.vectors) + 1) * ENTRY;
        match random.random_range(0..6) {
            0 => set_control(device, ENABLED),
            1 => set_control(device, [0, ALL_MASKED, ENABLED | ALL_MASKED][random.random_range(0..3)]),
            2 => device.registers.put(entry, unlikely(memory, random)),
            3 => device.registers.put(entry + 8, random.random::<u32>() & 0xff),
            _ => device.registers.put(entry + 12, u32::from(random.random::<bool>())),
        }
        for bytes in [1, 2, 4, 8] {
            device.registers.get_sized(device.msix.pending, bytes);
        }
    }
    turn_off(device);
    let mut rings = device.start(memory, 0)?;
    good_order::serves(device, memory, &mut rings)
}
