//! Random bytes asked for into what cannot take them.

use rand::rngs::StdRng;

use super::{ask, bad_addresses};
use crate::{
    Outcome,
    device::{Device, NO_VECTOR},
    memory::Memory,
    ring::WRITE,
};

/// Each is answered, with no more bytes than there is room for.
pub(super) fn random_bytes_into_bad_places(device: &Device, memory: Memory, _: &mut StdRng) -> Outcome {
    let data = memory.data().start;
    let mut rings = device.start(memory, NO_VECTOR)?;
    let ring = &mut rings[0];
    let mut fits = |buffers: &[(u64, u32, u16)], most: u32| {
        ring.chain(0, buffers);
        match ask(device, 0, ring, 0) {
            Some(used) if used.written <= most => Ok(()),
            used => Err(format!("{buffers:x?} gave {used:x?}")),
        }
    };
    fits(&[(data, 64, 0)], 0)?;
    fits(&[(data, 0, WRITE)], 0)?;
    fits(&[(data, 0, WRITE), (data, 0, 0), (data, 0, WRITE)], 0)?;
    fits(&[(data, 64, 0), (data, 1, WRITE)], 1)?;
    fits(&[(data, u32::MAX, WRITE)], 1 << 20)?;
    fits(&[(memory.end() - 8, 4096, WRITE)], 8)?;
    for address in bad_addresses(memory) {
        fits(&[(address, 4096, WRITE), (data, 1, WRITE)], 4097)?;
    }
    Ok(())
}
