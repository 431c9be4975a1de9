//! Ports and addresses at which there is nothing, or nothing much.

use rand::{RngExt as _, rngs::StdRng};

use super::World;
use crate::{
    Outcome,
    memory::{Memory, physical},
    ports,
    registers::Window,
};

/// Every port up to here is tried, and as many of those above by chance.
const LOW_PORTS: u16 = 0x800;
const ACCESSES: u32 = 200;
/// The kernel's own: interrupt controllers, timer and speaker, keyboard controller, and the trigger modes.
const KERNELS: [u16; 14] =
    [0x20, 0x21, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x70];
/// What a guest may end itself by, with a value that does not.
const ENDS: [(u16, u32); 4] = [(0x64, 0xd0), (0x505, 2), (0x600, 0x14), (0xcf9, 0)];
/// Bytes of each window that is tried.
const WINDOW: usize = 0x10_0000;

pub(super) fn ports_of_nowhere(world: &mut World) -> Outcome {
    let state = ports::SerialState::save();
    for port in 0..LOW_PORTS {
        try_port(port, &mut world.random);
    }
    for _ in 0..LOW_PORTS {
        let port = world.random.random_range(LOW_PORTS..=u16::MAX);
        try_port(port, &mut world.random);
    }
    for (port, value) in ENDS {
        ports::write(port, 1, value);
        ports::write(port, 2, 0x3434);
        ports::write(port, 4, 0x0101_0101);
    }
    state.restore();
    Ok(())
}

/// Reads and writes a port in a size of its own. A longer one that begins just below the kernel's would reach it.
fn try_port(port: u16, random: &mut StdRng) {
    let bytes = 1 << random.random_range(0..3);
    ports::read(port, bytes);
    let reaches = |own: u16| (port..port.saturating_add(4)).contains(&own);
    let ends = ENDS.iter().any(|(end, _)| reaches(*end));
    if !ends && !KERNELS.into_iter().any(reaches) {
        ports::write(port, bytes, random.random());
    }
}

/// Where there are neither memory nor devices.
fn empty(memory: Memory) -> [u64; 7] {
    [
        memory.end(),
        // Behind the last slot's registers, behind configuration space, below the interrupt controllers.
        0xc010_0000,
        0xdff0_0000,
        0xe010_0000,
        0xfeb0_0000,
        1 << 32,
        (1 << 36) - WINDOW as u64,
    ]
}

pub(super) fn addresses_of_nowhere(world: &mut World) -> Outcome {
    let file = physical().map_err(|error| error.to_string())?;
    for address in empty(world.memory) {
        let window = Window::map(&file, address, WINDOW).map_err(|error| format!("{address:#x}: {error}"))?;
        for _ in 0..ACCESSES {
            let bytes = 1 << world.random.random_range(0..4);
            let offset = world.random.random_range(0..=WINDOW - bytes);
            window.put_sized(offset, bytes, world.random.random());
            let read = window.get_sized(offset, bytes);
            if read != u64::MAX >> (64 - 8 * bytes) {
                return Err(format!("{:#x} reads as {read:#x}", address + offset as u64));
            }
        }
    }
    Ok(())
}
