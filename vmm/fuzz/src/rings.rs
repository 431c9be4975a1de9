//! A hostile driver's side of a device's queues: any bytes anywhere in memory, any descriptors, any rings.

use serde::{Deserialize, Serialize};
use sublet_vmm::devices::virtio::{
    ActiveQueue,
    worker::{Next, Service, Session},
};
use virtio_queue::{
    Queue, QueueT,
    desc::{RawDescriptor, split::Descriptor},
};
use vm_memory::{Bytes, GuestAddress};

use crate::guest::Guest;

pub const MEMORY_BYTES: usize = 0x10_0000;
/// Queues of 16, each with its parts on a page of its own.
pub const SIZE: u16 = 16;
const PAGE: u64 = 0x1000;
const AVAILABLE: u64 = 0x200;
const USED: u64 = 0x400;
/// Turns in a row in which a device that wants another one must have done something.
const IDLE_TURNS_MAX: usize = 300;
/// A guest can have a device write its own rings and so keep it busy without end, turn by turn.
const TURNS_MAX: usize = 2000;

#[derive(Debug, Serialize, Deserialize)]
pub enum Step {
    Write(#[serde(with = "postcard::fixint::le")] u32, Vec<u8>),
    Describe(Place, Described),
    /// The head of a chain is made available.
    Offer {
        queue: u8,
        #[serde(with = "postcard::fixint::le")]
        head: u16,
    },
    /// The available ring's index.
    Index {
        queue: u8,
        #[serde(with = "postcard::fixint::le")]
        index: u16,
    },
    /// The device has a turn.
    Serve,
    /// The driver resets the device and starts it again.
    Reset,
}

/// A place in the table of a queue.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Place {
    pub queue: u8,
    pub index: u8,
}

/// A descriptor (virtio 1.2, 2.7.5).
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Described {
    #[serde(with = "postcard::fixint::le")]
    pub address: u64,
    #[serde(with = "postcard::fixint::le")]
    pub length: u32,
    pub flags: u8,
    pub next: u8,
}

/// A device at work, and its driver.
pub struct Rings<'a, S> {
    guest: &'a Guest,
    server: S,
    session: Session,
    queues: u16,
    has_event_idx: bool,
    /// What the driver believes the available rings' indices to be.
    available: Vec<u16>,
    /// The device cannot go on until it is reset.
    is_broken: bool,
}

impl<'a, S: Service> Rings<'a, S> {
    pub fn new(guest: &'a Guest, server: S, queues: u16, features: u64, has_event_idx: bool) -> Self {
        let session = Session { features, queues: vec![] };
        let mut rings =
            Self { guest, server, session, queues, has_event_idx, available: vec![], is_broken: false };
        rings.start();
        rings
    }

    /// Plays the steps, lets the device come to an end, and looks at what it has left.
    pub fn play(mut self, steps: impl Iterator<Item = Step>) {
        for step in steps {
            self.take(step);
        }
        self.finish();
    }

    /// Lets the device come to an end, and looks at what it has left.
    pub fn finish(mut self) {
        self.serve_all();
        self.settle();
        self.guest.check();
    }

    pub fn take(&mut self, step: Step) {
        match step {
            Step::Write(address, bytes) => self.write(u64::from(address), &bytes),
            Step::Describe(place, described) => self.describe(place, described),
            Step::Offer { queue, head } => self.offer(u16::from(queue) % self.queues, head),
            Step::Index { queue, index } => {
                let queue = u16::from(queue) % self.queues;
                self.set_index(queue, index);
            }
            Step::Serve => _ = self.serve(),
            Step::Reset => {
                self.settle();
                self.start();
            }
        }
    }

    fn describe(&self, place: Place, described: Described) {
        let queue = u64::from(u16::from(place.queue) % self.queues);
        let at = queue * PAGE + 16 * u64::from(u16::from(place.index) % SIZE);
        let Described { address, length, flags, next } = described;
        let descriptor = Descriptor::new(address, length, flags.into(), next.into());
        self.guest.memory.write_obj(RawDescriptor::from(descriptor), GuestAddress(at)).unwrap();
    }

    fn offer(&mut self, queue: u16, head: u16) {
        let index = self.available[usize::from(queue)];
        let at = u64::from(queue) * PAGE + AVAILABLE + 4 + 2 * u64::from(index % SIZE);
        self.write(at, &head.to_le_bytes());
        self.set_index(queue, index.wrapping_add(1));
    }

    fn set_index(&mut self, queue: u16, index: u16) {
        self.available[usize::from(queue)] = index;
        self.write(u64::from(queue) * PAGE + AVAILABLE + 2, &index.to_le_bytes());
    }

    /// What does not fit into memory is left out.
    fn write(&self, address: u64, bytes: &[u8]) {
        if self.guest.has(address, bytes.len() as u64) {
            self.guest.memory.write_slice(bytes, GuestAddress(address)).unwrap();
        }
    }

    fn start(&mut self) {
        let active = |number| Some(ActiveQueue { queue: queue(number, self.has_event_idx), call: None });
        self.session.queues = (0..self.queues).map(active).collect();
        self.available = vec![0; self.queues.into()];
        self.is_broken = false;
        (0..self.queues).for_each(|number| self.set_index(number, 0));
    }

    /// One turn; whether the device wants another one.
    fn serve(&mut self) -> bool {
        if self.is_broken {
            return false;
        }
        let next = self.server.serve(&mut self.session);
        self.is_broken = next.is_err();
        matches!(next, Ok(Next::Now | Next::After(_)))
    }

    fn serve_all(&mut self) {
        let mut done = self.done();
        let mut idle = 0;
        for _ in 0..TURNS_MAX {
            if !self.serve() {
                return;
            }
            let now = self.done();
            idle = if now == done { idle + 1 } else { 0 };
            assert!(idle < IDLE_TURNS_MAX, "the device wants turns and does nothing in them");
            done = now;
        }
    }

    /// How far the device is in its used rings.
    fn done(&self) -> Vec<u16> {
        self.session.queues.iter().flatten().map(|active| active.queue.next_used()).collect()
    }

    fn settle(&mut self) {
        while !self.server.settle() {
            std::thread::yield_now();
        }
    }
}

fn queue(number: u16, has_event_idx: bool) -> Queue {
    let mut queue = Queue::new(SIZE).unwrap();
    let page = u64::from(number) * PAGE;
    queue.try_set_desc_table_address(GuestAddress(page)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(page + AVAILABLE)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(page + USED)).unwrap();
    queue.set_event_idx(has_event_idx);
    queue.set_ready(true);
    queue
}

/// Descriptor flags.
pub const NEXT: u8 = 1;
pub const WRITE: u8 = 2;
pub const INDIRECT: u8 = 4;

/// Steps that put these descriptors at the start of queue 0's table.
pub fn table(descriptors: &[Described]) -> Vec<Step> {
    table_of(0, descriptors)
}

/// Steps that put these descriptors at the start of a queue's table.
pub fn table_of(queue: u8, descriptors: &[Described]) -> Vec<Step> {
    let describe = |(index, described): (u8, &Described)| Step::Describe(Place { queue, index }, *described);
    (0..).zip(descriptors).map(describe).collect()
}

/// How many chains of a queue the device has given back, by its ring.
#[cfg(test)]
pub fn used(guest: &Guest, queue: u64) -> u16 {
    guest.memory.read_obj(GuestAddress(queue * PAGE + USED + 2)).unwrap()
}
