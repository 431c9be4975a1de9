//! What each device does for a driver that behaves.

use std::time::Duration;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_RO, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};

use crate::{
    Outcome,
    device::{BLOCK, Device, NO_VECTOR, RNG, VSOCK},
    memory::Memory,
    ring::{Ring, WRITE},
};

/// Longest a single request may take: what is answered at all is answered sooner, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(60);

const SECTOR: u32 = 512;
const PATTERN: u8 = 0x5a;

/// vsock's packets (virtio 1.2, 5.10.6).
pub(crate) const PACKET_HEADER: usize = 44;
pub(crate) const HOST_CID: u64 = 2;
const STREAM: u16 = 1;
pub(crate) const REQUEST: u16 = 1;
const REFUSED: u16 = 3;
/// Where nobody listens.
const DEAD_PORT: u32 = 0xdead;

/// Header of a vsock packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) source: u64,
    pub(crate) destination: u64,
    pub(crate) ports: [u32; 2],
    pub(crate) bytes: u32,
    pub(crate) kind: u16,
    pub(crate) operation: u16,
    pub(crate) rest: [u32; 3],
}

impl Packet {
    /// What asks the host for a connection to where nobody listens.
    pub(crate) fn connect(device: &Device) -> Self {
        Self {
            source: own_cid(device),
            destination: HOST_CID,
            ports: [1025, DEAD_PORT],
            bytes: 0,
            kind: STREAM,
            operation: REQUEST,
            rest: [0, 65536, 0],
        }
    }

    pub(crate) fn put(&self, memory: Memory, address: u64) {
        memory.put(address, self.source);
        memory.put(address + 8, self.destination);
        memory.put(address + 16, self.ports[0]);
        memory.put(address + 20, self.ports[1]);
        memory.put(address + 24, self.bytes);
        memory.put(address + 28, self.kind);
        memory.put(address + 30, self.operation);
        (address + 32..).step_by(4).zip(self.rest).for_each(|(at, word)| memory.put(at, word));
    }
}

pub(crate) fn own_cid(device: &Device) -> u64 {
    u64::from(device.registers.get::<u32>(device.own))
}

/// Resets a device, starts it, and has it do what it is for.
pub(crate) fn works(device: &Device, memory: Memory) -> Outcome {
    let mut rings = device.start(memory, NO_VECTOR)?;
    serves(device, memory, &mut rings)?;
    device.reset()
}

/// Has a device that has been started with these rings do what it is for.
pub(crate) fn serves(device: &Device, memory: Memory, rings: &mut [Ring]) -> Outcome {
    match device.kind {
        BLOCK => (0..).zip(rings).try_for_each(|(queue, ring)| stores(device, memory, queue, ring)),
        RNG => draws(device, memory, rings),
        VSOCK => is_answered(device, memory, rings),
        _ => Ok(()),
    }
}

/// Writes a sector and reads it; of a disk that cannot be written only reads one.
fn stores(device: &Device, memory: Memory, queue: u16, ring: &mut Ring) -> Outcome {
    let data = memory.data().start;
    let sector = memory.data();
    let sector = sector.start..sector.start + u64::from(SECTOR);
    memory.fill(sector.clone(), PATTERN);
    if device.offered() & 1 << VIRTIO_BLK_F_RO == 0 {
        block_request(device, memory, queue, ring, VIRTIO_BLK_T_OUT, (data, SECTOR, 0))?;
        memory.fill(sector.clone(), 0);
        block_request(device, memory, queue, ring, VIRTIO_BLK_T_IN, (data, SECTOR, WRITE))?;
        return match memory.first_other(sector, PATTERN) {
            None => Ok(()),
            Some(_) => Err("it lost what was written".into()),
        };
    }
    block_request(device, memory, queue, ring, VIRTIO_BLK_T_IN, (data, SECTOR, WRITE))
}

/// A request of the disk's first sector, with its header and status behind the data.
fn block_request(
    device: &Device,
    memory: Memory,
    queue: u16,
    ring: &mut Ring,
    kind: u32,
    data: (u64, u32, u16),
) -> Outcome {
    let (header, status) = (data.0 + 0x1000, data.0 + 0x1010);
    memory.fill(header..header + 16, 0);
    memory.put(header, kind);
    memory.put(status, 0xffu8);
    ring.chain(0, &[(header, 16, 0), data, (status, 1, WRITE)]);
    ring.offer(0);
    device.notify(queue);
    let used = ring.wait_used(LIMIT).ok_or_else(|| unanswered(device, "a request"))?;
    match (used.head, memory.get::<u8>(status)) {
        (0, 0) => Ok(()),
        (head, status) => Err(format!("a request of kind {kind} gave {status:#x}, head {head}")),
    }
}

fn draws(device: &Device, memory: Memory, rings: &mut [Ring]) -> Outcome {
    let data = memory.data().start;
    memory.fill(data..data + 64, 0);
    let ring = rings.first_mut().ok_or("it has no queue")?;
    ring.chain(0, &[(data, 64, WRITE)]);
    ring.offer(0);
    device.notify(0);
    let used = ring.wait_used(LIMIT).ok_or_else(|| unanswered(device, "a request"))?;
    let is_drawn = used.written > 0 && memory.first_other(data..data + 64, 0).is_some();
    if is_drawn { Ok(()) } else { Err(format!("{used:?} is no random bytes")) }
}

/// Asks for a connection that the host refuses.
fn is_answered(device: &Device, memory: Memory, rings: &mut [Ring]) -> Outcome {
    let [received, sent, ..] = rings else { return Err("it lacks queues".into()) };
    let data = memory.data().start;
    received.chain(0, &[(data + 0x1000, 4096, WRITE)]);
    received.offer(0);
    device.notify(0);
    Packet::connect(device).put(memory, data);
    sent.chain(0, &[(data, PACKET_HEADER as u32, 0)]);
    sent.offer(0);
    device.notify(1);
    sent.wait_used(LIMIT).ok_or_else(|| unanswered(device, "a packet"))?;
    received.wait_used(LIMIT).ok_or_else(|| unanswered(device, "a connection"))?;
    let operation = memory.get::<u16>(data + 0x1000 + 30);
    if operation == REFUSED { Ok(()) } else { Err(format!("the host answered with operation {operation}")) }
}

fn unanswered(device: &Device, what: &str) -> String {
    format!("{what} stays unanswered, the status is {:#x}", device.status())
}
