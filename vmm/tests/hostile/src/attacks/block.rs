//! Requests that no disk should be asked for.

use rand::{RngExt as _, rngs::StdRng};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

use super::ask;
use crate::{
    Outcome,
    device::{Device, NO_VECTOR},
    memory::Memory,
    ring::{Ring, WRITE},
};

const READ: u32 = VIRTIO_BLK_T_IN;
const KINDS: [u32; 9] = [
    READ,
    VIRTIO_BLK_T_OUT,
    2,
    3,
    VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_WRITE_ZEROES,
    u32::MAX,
];
const AT_RANDOM: u32 = 300;

/// A place in the data for a header, 16 bytes of arguments, a status; and for what is read and written.
struct Room {
    memory: Memory,
    header: u64,
    arguments: u64,
    status: u64,
    data: u64,
}

impl Room {
    fn of(memory: Memory) -> Self {
        let start = memory.data().start;
        Self { memory, header: start, arguments: start + 0x100, status: start + 0x200, data: start + 0x1000 }
    }

    fn put_header(&self, kind: u32, sector: u64) {
        self.memory.put(self.header, kind);
        self.memory.put(self.header + 4, 0u32);
        self.memory.put(self.header + 8, sector);
    }

    /// A range of sectors to discard or to fill with zeroes.
    fn put_range(&self, sector: u64, sectors: u32, flags: u32) {
        self.memory.put(self.arguments, sector);
        self.memory.put(self.arguments + 8, sectors);
        self.memory.put(self.arguments + 12, flags);
    }
}

/// Performs it, and returns its status; none if the device did not write any.
fn perform(device: &Device, ring: &mut Ring, room: &Room, buffers: &[(u64, u32, u16)]) -> Result<u8, String> {
    room.memory.put(room.status, 0xffu8);
    ring.chain(0, buffers);
    let used = ask(device, 0, ring, 0);
    used.ok_or_else(|| format!("a request stays unanswered: {buffers:x?}"))?;
    Ok(room.memory.get(room.status))
}

/// Each is answered, and none of them well.
pub(super) fn block_requests_of_all_kinds(device: &Device, memory: Memory, _: &mut StdRng) -> Outcome {
    let room = Room::of(memory);
    let mut rings = device.start(memory, NO_VECTOR)?;
    let ring = &mut rings[0];
    let header = (room.header, 16, 0);
    let status = (room.status, 1, WRITE);
    let sector = (room.data, 512, WRITE);
    let mut refused = |kind: u32, at: u64, buffers: &[(u64, u32, u16)]| {
        room.put_header(kind, at);
        match u32::from(perform(device, ring, &room, buffers)?) {
            VIRTIO_BLK_S_OK => Err(format!("{kind} at {at:#x} with {buffers:x?} was performed")),
            _ => Ok(()),
        }
    };
    let capacity = device.registers.get::<u64>(device.own);
    for at in [capacity, capacity - 1, capacity + 1, 1 << 40, u64::MAX / 512, u64::MAX] {
        refused(READ, at, &[header, (room.data, 1024, WRITE), status])?;
        refused(VIRTIO_BLK_T_OUT, at, &[header, (room.data, 1024, 0), status])?;
    }
    for kind in [2, 3, 5, 7, 9, 10, 12, 15, 16, 0x8000_0000, u32::MAX] {
        refused(kind, 0, &[header, sector, status])?;
    }
    // Odd lengths, and buffers where the header or the status should be.
    for bytes in [1, 511, 513, u32::MAX] {
        refused(READ, 0, &[header, (room.data, bytes, WRITE), status])?;
    }
    refused(READ, 0, &[(room.header, 15, 0), sector, status])?;
    refused(READ, 0, &[(room.header, 16, WRITE), sector, status])?;
    refused(READ, 0, &[header, (room.data, 512, 0)])?;
    refused(READ, 0, &[header])?;
    refused(READ, 0, &[status, header, sector])?;
    refused(READ, 0, &[header, sector, (room.status, 0, WRITE), (memory.end(), 1, WRITE)])?;
    refused(READ, 0, &[header, sector, (u64::MAX, 1, WRITE)])?;
    refused(READ, 0, &[(memory.end(), 16, 0), sector, status])?;
    refused(VIRTIO_BLK_T_GET_ID, 0, &[header, (room.data, 19, WRITE), status])?;
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        for (at, sectors, flags) in [
            (capacity, 1, 0),
            (0, u32::MAX, 0),
            (u64::MAX, 8, 0),
            (1 << 55, 8, 0),
            (0, 8, !0),
            (capacity - 1, 2, 0),
        ] {
            room.put_range(at, sectors, flags);
            refused(kind, 0, &[header, (room.arguments, 16, 0), status])?;
        }
        refused(kind, 0, &[header, status])?;
        refused(kind, 0, &[header, (room.arguments, 15, 0), status])?;
        refused(kind, 0, &[header, (memory.data().start, 0x1000, 0), status])?;
    }
    Ok(())
}

/// Any kind, any sector, any lengths, cut anyhow: each is answered, or the device asks for a reset.
pub(super) fn block_requests_at_random(device: &Device, memory: Memory, random: &mut StdRng) -> Outcome {
    let room = Room::of(memory);
    let mut rings = device.start(memory, NO_VECTOR)?;
    for _ in 0..AT_RANDOM {
        let ring = &mut rings[0];
        room.put_header(
            KINDS[random.random_range(0..KINDS.len())],
            random.random::<u64>() >> random.random_range(0..64),
        );
        room.put_range(random.random_range(0..4096), random.random_range(0..4096), random.random_range(0..3));
        let mut buffers = vec![(room.header, 16, 0)];
        for _ in 0..random.random_range(0..6) {
            let address = random.random_range(memory.data().start..memory.end());
            let bytes = random.random::<u32>() >> random.random_range(0..32);
            buffers.push((address, bytes, if random.random() { WRITE } else { 0 }));
        }
        buffers.push((room.status, 1, WRITE));
        let status = perform(device, ring, &room, &buffers);
        if device.needs_reset() {
            return Err(format!("it asks for a reset after {buffers:x?}"));
        }
        status?;
    }
    // None of them moved anything to where it does not belong.
    match u32::from(memory.get::<u8>(room.status)) {
        0..=2 | 0xff => Ok(()),
        status => Err(format!("{status:#x} is no status but {VIRTIO_BLK_S_IOERR} would be")),
    }
}
