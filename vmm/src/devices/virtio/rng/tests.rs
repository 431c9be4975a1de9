use proptest::{collection::vec, prelude::*};
use sublet_vmm_protocol::{RateLimit, RngConfig};
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::{
    Queue, QueueT,
    desc::{RawDescriptor, split::Descriptor},
};
use vm_memory::{Bytes, GuestAddress};

use std::sync::Arc;

use super::queue::{REQUEST_BYTES_LIMIT, Server};
use crate::{
    devices::virtio::{
        ActiveQueue,
        worker::{Next, Service, Session},
    },
    memory::GuestMemory,
};

const QUEUE: u16 = 16;
const AVAILABLE: u64 = 0x200;
const USED: u64 = 0x400;
const DATA: u64 = 0x1_0000;
const MEMORY_BYTES: usize = 0x2_0000;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const NEXT: u16 = VRING_DESC_F_NEXT as u16;

struct Place {
    memory: Arc<GuestMemory>,
    server: Server,
    session: Session,
}

fn place(burst: u64) -> Place {
    let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap());
    let mut queue = Queue::new(QUEUE).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(USED)).unwrap();
    queue.set_ready(true);
    let server = Server::new(RngConfig { bytes: RateLimit { per_second: 1, burst } }, memory.clone());
    let session = Session { features: 0, queues: vec![Some(ActiveQueue { queue, call: None })] };
    Place { memory, server, session }
}

impl Place {
    /// Offers a chain for each of these descriptors.
    fn offer(&self, descriptors: &[Descriptor]) {
        for (index, descriptor) in (0u64..).zip(descriptors) {
            self.memory.write_obj(RawDescriptor::from(*descriptor), GuestAddress(16 * index)).unwrap();
            self.memory.write_obj(index as u16, GuestAddress(AVAILABLE + 4 + 2 * index)).unwrap();
        }
        self.memory.write_obj(descriptors.len() as u16, GuestAddress(AVAILABLE + 2)).unwrap();
    }

    fn used(&self) -> u16 {
        self.memory.read_obj(GuestAddress(USED + 2)).unwrap()
    }

    fn used_bytes(&self, index: u64) -> u32 {
        self.memory.read_obj(GuestAddress(USED + 8 + 8 * index)).unwrap()
    }
}

#[test]
fn buffers_are_filled_with_what_nobody_can_guess() {
    let mut place = place(1 << 20);
    place.offer(&[Descriptor::new(DATA, 64, WRITE, 0), Descriptor::new(DATA + 64, 64, WRITE, 0)]);
    assert_eq!(place.server.serve(&mut place.session).unwrap(), Next::Event);
    let mut bytes = [[0; 64]; 2];
    place.memory.read_slice(bytes.as_flattened_mut(), GuestAddress(DATA)).unwrap();
    assert_eq!((place.used(), place.used_bytes(0), place.used_bytes(1)), (2, 64, 64));
    assert!(bytes[0] != [0; 64] && bytes[1] != [0; 64] && bytes[0] != bytes[1]);
}

#[test]
fn one_request_is_given_no_more_than_the_limit() {
    let mut place = place(1 << 20);
    place.offer(&[Descriptor::new(DATA, 0x8000, WRITE, 0)]);
    place.server.serve(&mut place.session).unwrap();
    assert_eq!(place.used_bytes(0) as usize, REQUEST_BYTES_LIMIT);
    let beyond: u64 = place.memory.read_obj(GuestAddress(DATA + REQUEST_BYTES_LIMIT as u64)).unwrap();
    assert_eq!(beyond, 0);
}

#[test]
fn a_guest_that_has_drawn_its_share_waits() {
    let mut place = place(100);
    place.offer(&[Descriptor::new(DATA, 64, WRITE, 0); 8]);
    assert!(matches!(place.server.serve(&mut place.session).unwrap(), Next::After(_)));
    assert_eq!(place.used(), 2);
}

#[test]
fn a_buffer_that_cannot_be_filled_is_given_back_empty_and_the_next_is_served() {
    let mut place = place(1 << 20);
    place.offer(&[
        Descriptor::new(DATA, 64, 0, 0),
        Descriptor::new(MEMORY_BYTES as u64, 64, WRITE, 0),
        Descriptor::new(DATA, 0, WRITE, 0),
        Descriptor::new(DATA, 8, WRITE, 0),
    ]);
    place.server.serve(&mut place.session).unwrap();
    let given: Vec<_> = (0..4).map(|index| place.used_bytes(index)).collect();
    assert_eq!(given, [0, 0, 0, 8]);
}

proptest! {
    #[test]
    fn whatever_stands_in_the_ring_the_device_goes_on(ring in vec(any::<u8>(), 0x600), avail in 0u16..20) {
        let mut place = place(1 << 20);
        place.memory.write_slice(&ring, GuestAddress(0)).unwrap();
        place.memory.write_obj(avail, GuestAddress(AVAILABLE + 2)).unwrap();
        let turns = (0..100).take_while(|_| {
            matches!(place.server.serve(&mut place.session), Ok(Next::Now))
        });
        prop_assert!(turns.count() < 100);
    }

    #[test]
    fn whatever_the_descriptors_say_the_device_goes_on(
        descriptors in vec((0u64..0x2_1000, 0u32..70_000, 0u16..8, 0u16..20), 16),
    ) {
        let mut place = place(1 << 20);
        let descriptors: Vec<_> = descriptors
            .into_iter()
            .map(|(address, length, flags, next)| Descriptor::new(address | DATA, length, flags | NEXT, next))
            .collect();
        place.offer(&descriptors);
        let turns = (0..100).take_while(|_| {
            matches!(place.server.serve(&mut place.session), Ok(Next::Now))
        });
        prop_assert!(turns.count() < 100);
    }
}
