//! The serial port, flooded and misused.

use rand::{RngExt as _, rngs::StdRng};

use super::{World, on_all_cpus};
use crate::{
    Outcome,
    ports::{self, SERIAL, SerialState},
};

/// Bytes that each vCPU says one by one, and by one instruction. Each byte leaves the guest, which takes its time on an
/// emulated host; together they are more than the log holds.
const BYTES: usize = 18 << 10;
const STRING_BYTES: usize = 2 << 10;
const ACCESSES: u32 = 1000;

/// More of each vCPU than the log holds.
pub(super) fn console_flooded(_: &mut World) -> Outcome {
    on_all_cpus(|cpu| {
        let letter = b'a' + cpu as u8 % 26;
        (0..BYTES).for_each(|_| ports::write(SERIAL, 1, letter.into()));
        ports::write_all(SERIAL, &[letter; STRING_BYTES]);
    });
    ports::say("");
    Ok(())
}

/// All of its registers, in all sizes, one by one and by strings.
pub(super) fn serial_port_misused(world: &mut World) -> Outcome {
    let state = SerialState::save();
    let random: &mut StdRng = &mut world.random;
    for _ in 0..ACCESSES {
        let (port, bytes) = (SERIAL + random.random_range(0..9), 1 << random.random_range(0..3));
        match random.random_range(0..8) {
            0 => ports::write_all(port, &random.random::<[u8; 8]>()),
            1 => ports::read_all(port, &mut [0; 8]),
            2..5 => ports::write(port, bytes, random.random()),
            _ => _ = ports::read(port, bytes),
        }
    }
    state.restore();
    ports::say("");
    Ok(())
}
