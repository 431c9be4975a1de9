//! A split ring, as a driver has it (virtio 1.2, 2.7), wherever its parts are.

use std::time::Duration;

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};

use crate::{memory::Memory, until};

pub(crate) const NEXT: u16 = VRING_DESC_F_NEXT as u16;
pub(crate) const WRITE: u16 = VRING_DESC_F_WRITE as u16;
pub(crate) const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR: u64 = 16;

/// Addresses of descriptor table, available ring and used ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) bytes: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// What has been given back: the chain's head, and how many bytes were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) head: u32,
    pub(crate) written: u32,
}

#[derive(Debug)]
pub(crate) struct Ring {
    memory: Memory,
    pub(crate) places: Places,
    pub(crate) size: u16,
    /// The available ring's index.
    offered: u16,
    /// How much of the used ring has been looked at.
    seen: u16,
}

impl Places {
    /// Where a queue's rings should be.
    pub(crate) fn of(memory: Memory, queue: u16) -> Self {
        let start = memory.queue(queue);
        Self { descriptors: start, available: start + 0x4000, used: start + 0x8000 }
    }
}

impl Ring {
    /// Rings in good places, empty.
    pub(crate) fn new(memory: Memory, queue: u16, size: u16) -> Self {
        let places = Places::of(memory, queue);
        memory.fill(places.descriptors..places.used + 0x4000, 0);
        Self { memory, places, size, offered: 0, seen: 0 }
    }

    pub(crate) fn describe(&self, index: u16, descriptor: Descriptor) {
        describe(self.memory, self.places.descriptors + u64::from(index) * DESCRIPTOR, descriptor);
    }

    /// Describes buffers one after another from `first` on, as one chain.
    pub(crate) fn chain(&self, first: u16, buffers: &[(u64, u32, u16)]) {
        let last = buffers.len() - 1;
        for (at, (index, (address, bytes, flags))) in (first..).zip(buffers).enumerate() {
            let more = if at == last { 0 } else { NEXT };
            let next = index + 1;
            self.describe(index, Descriptor { address: *address, bytes: *bytes, flags: flags | more, next });
        }
    }

    pub(crate) fn offer(&mut self, head: u16) {
        let at = self.places.available + 4 + 2 * u64::from(self.offered % self.size);
        self.memory.put(at, head);
        self.jump(1);
    }

    /// Moves the available ring's index, whatever stands there.
    pub(crate) fn jump(&mut self, by: u16) {
        self.offered = self.offered.wrapping_add(by);
        self.memory.put(self.places.available + 2, self.offered);
    }

    /// The available ring's word in which the driver says whether it wants interrupts, and the one after its entries.
    pub(crate) fn set_flags(&self, flags: u16, event: u16) {
        self.memory.put(self.places.available, flags);
        self.memory.put(self.places.available + 4 + 2 * u64::from(self.size), event);
    }

    pub(crate) fn next_used(&mut self) -> Option<Used> {
        if self.memory.get::<u16>(self.places.used + 2) == self.seen {
            return None;
        }
        let at = self.places.used + 4 + 8 * u64::from(self.seen % self.size);
        self.seen = self.seen.wrapping_add(1);
        Some(Used { head: self.memory.get(at), written: self.memory.get(at + 4) })
    }

    pub(crate) fn wait_used(&mut self, limit: Duration) -> Option<Used> {
        until(limit, || self.next_used())
    }
}

/// Writes a descriptor at an address.
pub(crate) fn describe(memory: Memory, at: u64, descriptor: Descriptor) {
    memory.try_put(at, descriptor.address);
    memory.try_put(at + 8, descriptor.bytes);
    memory.try_put(at + 12, descriptor.flags);
    memory.try_put(at + 14, descriptor.next);
}
