use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::Arc,
};

use proptest::{collection::vec, prelude::*};
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::{
    Queue, QueueT,
    desc::{RawDescriptor, split::Descriptor},
};
use vm_memory::{Bytes, GuestAddress};

use super::{
    config::{CONTROL_FROM_GUEST, CONTROL_TO_GUEST, FROM_GUEST, MULTIPORT, QUEUES, TO_GUEST},
    queue::{CHAIN_BYTES_MAX, Server},
};
use crate::{
    devices::virtio::{
        ActiveQueue,
        worker::{Next, Service, Session},
    },
    memory::GuestMemory,
};

const QUEUE: u16 = 16;
/// Each queue has its rings and a page a descriptor in a part of its own.
const PART: u64 = 0x20_0000;
const AVAILABLE: u64 = 0x200;
const USED: u64 = 0x400;
const DATA: u64 = 0x1000;
const PAGE: u64 = 0x1000;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const NEXT: u16 = VRING_DESC_F_NEXT as u16;

struct Place {
    memory: Arc<GuestMemory>,
    server: Server,
    session: Session,
    folder: tempfile::TempDir,
    /// How many chains each queue has been offered.
    offered: [u16; QUEUES],
    /// How many of them have been looked at.
    seen: [u16; QUEUES],
}

fn place() -> Place {
    let bytes = PART as usize * QUEUES;
    let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), bytes)]).unwrap());
    let queues = (0..QUEUES as u64).map(|part| {
        let mut queue = Queue::new(QUEUE).unwrap();
        queue.try_set_desc_table_address(GuestAddress(part * PART)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(part * PART + AVAILABLE)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(part * PART + USED)).unwrap();
        queue.set_ready(true);
        Some(ActiveQueue { queue, call: None })
    });
    let session = Session { features: MULTIPORT, queues: queues.collect() };
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("port")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let server = Server::new("org.example".into(), listener, memory.clone()).unwrap();
    Place { memory, server, session, folder, offered: [0; QUEUES], seen: [0; QUEUES] }
}

impl Place {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.folder.path().join("port")).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// Offers the next descriptor of a queue.
    fn offer(&mut self, queue: usize, descriptor: Descriptor) {
        let (part, number) = (queue as u64 * PART, self.offered[queue]);
        let index = u64::from(number % QUEUE);
        self.memory.write_obj(RawDescriptor::from(descriptor), GuestAddress(part + 16 * index)).unwrap();
        self.memory.write_obj(index as u16, GuestAddress(part + AVAILABLE + 4 + 2 * index)).unwrap();
        self.offered[queue] = number.wrapping_add(1);
        self.memory.write_obj(self.offered[queue], GuestAddress(part + AVAILABLE + 2)).unwrap();
    }

    /// Where the data of the next descriptor of a queue belongs.
    fn data(&self, queue: usize) -> u64 {
        queue as u64 * PART + DATA + u64::from(self.offered[queue] % QUEUE) * PAGE
    }

    fn offer_buffer(&mut self, queue: usize, bytes: u32) {
        self.offer(queue, Descriptor::new(self.data(queue), bytes, WRITE, 0));
    }

    fn say(&mut self, queue: usize, bytes: &[u8]) {
        let data = self.data(queue);
        self.memory.write_slice(bytes, GuestAddress(data)).unwrap();
        self.offer(queue, Descriptor::new(data, bytes.len() as u32, 0, 0));
    }

    /// A control message about port 0.
    fn tell(&mut self, event: u16, value: u16) {
        let mut message = vec![0; 4];
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        self.say(CONTROL_FROM_GUEST, &message);
    }

    fn serve(&mut self) {
        while self.server.serve(&mut self.session).unwrap() == Next::Now {}
    }

    fn used(&self, queue: usize) -> u16 {
        self.memory.read_obj(GuestAddress(queue as u64 * PART + USED + 2)).unwrap()
    }

    /// What has been written into the buffers of a queue since this was last asked.
    fn written(&mut self, queue: usize) -> Vec<Vec<u8>> {
        let part = queue as u64 * PART;
        let numbers = self.seen[queue]..self.used(queue);
        self.seen[queue] = numbers.end;
        let read = |number: u16| {
            let place = part + USED + 4 + 8 * u64::from(number % QUEUE);
            let [head, bytes]: [u32; 2] = self.memory.read_obj(GuestAddress(place)).unwrap();
            let mut data = vec![0; bytes as usize];
            self.memory.read_slice(&mut data, GuestAddress(part + DATA + u64::from(head) * PAGE)).unwrap();
            data
        };
        numbers.map(read).collect()
    }

    /// A driver that has come up, with a program that has the port open.
    fn opened() -> Self {
        let mut place = place();
        (0..8).for_each(|_| place.offer_buffer(CONTROL_TO_GUEST, 64));
        place.tell(0, 1);
        place.tell(3, 1);
        place.tell(6, 1);
        place.serve();
        let told = place.written(CONTROL_TO_GUEST);
        let [add, name, closed] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((&add[..], &closed[..]), (&[0, 0, 0, 0, 1, 0, 1, 0][..], &[0, 0, 0, 0, 6, 0, 0, 0][..]));
        assert_eq!((&name[..8], &name[8..]), (&[0, 0, 0, 0, 7, 0, 1, 0][..], &b"org.example"[..]));
        place
    }

    /// The same with somebody at the other end.
    fn connected() -> (Self, UnixStream) {
        let mut place = Self::opened();
        let stream = place.connect();
        place.serve();
        assert_eq!(place.written(CONTROL_TO_GUEST), [[0, 0, 0, 0, 6, 0, 1, 0]]);
        (place, stream)
    }
}

/// What can be read without waiting; none: the other side has hung up.
fn heard(mut stream: &UnixStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; CHAIN_BYTES_MAX];
    match stream.read(&mut bytes) {
        Ok(0) => None,
        Ok(count) => Some(bytes[..count].to_vec()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(vec![]),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn bytes_go_both_ways_and_wait_where_the_other_side_is_not_ready() {
    let (mut place, mut stream) = Place::connected();
    place.say(FROM_GUEST, b"from the guest");
    stream.write_all(b"to the guest").unwrap();
    place.serve();
    assert_eq!(heard(&stream).unwrap(), b"from the guest");
    assert_eq!(place.used(TO_GUEST), 0);
    (0..2).for_each(|_| place.offer_buffer(TO_GUEST, 8));
    place.serve();
    assert_eq!(place.written(TO_GUEST), [&b"to the g"[..], b"uest"]);
}

#[test]
fn nobody_is_let_in_before_a_program_opens_the_port_and_the_next_only_when_it_opens_it_again() {
    let mut place = Place::opened();
    place.tell(6, 0);
    let (first, second) = (place.connect(), place.connect());
    place.say(FROM_GUEST, b"to nobody");
    place.serve();
    assert_eq!(heard(&first).unwrap(), b"");
    place.tell(6, 1);
    place.serve();
    place.say(FROM_GUEST, b"to the first");
    place.serve();
    assert_eq!((heard(&first).unwrap(), heard(&second).unwrap()), (b"to the first".to_vec(), vec![]));
    drop(first);
    place.serve();
    place.say(FROM_GUEST, b"too late for the first");
    place.serve();
    assert_eq!(heard(&second).unwrap(), b"");
    place.tell(6, 0);
    place.serve();
    place.tell(6, 1);
    place.serve();
    place.say(FROM_GUEST, b"to the second");
    place.serve();
    assert_eq!(heard(&second).unwrap(), b"to the second");
    let told: Vec<_> = place.written(CONTROL_TO_GUEST).iter().map(|message| message[6]).collect();
    assert_eq!(told, [1, 0, 1]);
}

#[test]
fn who_has_gone_before_the_port_is_opened_takes_nobodys_place() {
    let mut place = place();
    (0..8).for_each(|_| place.offer_buffer(CONTROL_TO_GUEST, 64));
    drop(place.connect());
    let stream = place.connect();
    [(0, 1), (3, 1), (6, 1)].into_iter().for_each(|(event, value)| place.tell(event, value));
    place.serve();
    place.say(FROM_GUEST, b"hello");
    place.serve();
    assert_eq!(heard(&stream).unwrap(), b"hello");
    assert_eq!(place.written(CONTROL_TO_GUEST).last().unwrap(), &[0, 0, 0, 0, 6, 0, 1, 0]);
}

#[test]
fn what_a_program_says_before_it_has_anybody_waits_for_whom_it_gets() {
    let mut place = Place::opened();
    place.say(FROM_GUEST, b"hello");
    place.serve();
    let stream = place.connect();
    place.serve();
    assert_eq!(heard(&stream).unwrap(), b"hello");
}

#[test]
fn a_program_that_closes_the_port_hangs_up_once_all_that_it_said_is_through() {
    let (mut place, stream) = Place::connected();
    place.say(FROM_GUEST, b"last ");
    place.say(FROM_GUEST, b"words");
    place.tell(6, 0);
    place.tell(6, 1);
    place.serve();
    assert_eq!(heard(&stream).unwrap(), b"last words");
    assert_eq!(heard(&stream), None);
    let next = place.connect();
    place.say(FROM_GUEST, b"of the next program");
    place.serve();
    assert_eq!(heard(&next).unwrap(), b"of the next program");
}

#[test]
fn a_guest_hears_that_the_host_has_gone_after_all_that_it_said() {
    let (mut place, mut stream) = Place::connected();
    stream.write_all(b"last words").unwrap();
    drop(stream);
    place.serve();
    assert_eq!(place.written(CONTROL_TO_GUEST), [[0; 0]; 0]);
    (0..2).for_each(|_| place.offer_buffer(TO_GUEST, 8));
    place.serve();
    assert_eq!(place.written(TO_GUEST), [&b"last wor"[..], b"ds"]);
    assert_eq!(place.written(CONTROL_TO_GUEST), [[0, 0, 0, 0, 6, 0, 0, 0]]);
}

#[test]
fn what_a_program_leaves_unread_is_not_for_the_next() {
    let (mut place, mut stream) = Place::connected();
    stream.write_all(b"for the first program").unwrap();
    place.serve();
    place.tell(6, 0);
    place.tell(6, 1);
    place.serve();
    place.offer_buffer(TO_GUEST, 64);
    place.serve();
    assert_eq!(place.written(TO_GUEST), [[0; 0]; 0]);
}

#[test]
fn a_reset_hangs_up_and_forgets_what_was_under_way() {
    let (mut place, mut stream) = Place::connected();
    stream.write_all(b"never read").unwrap();
    place.serve();
    assert!(place.server.settle());
    assert!(heard(&stream).is_none());
    let mut again = Place::opened();
    std::mem::swap(&mut again.server, &mut place.server);
    again.offer_buffer(TO_GUEST, 64);
    again.serve();
    assert_eq!(again.used(TO_GUEST), 0);
}

#[test]
fn a_driver_that_asks_without_end_and_reads_nothing_makes_nothing_grow() {
    let mut place = place();
    for _ in 0..QUEUE {
        place.tell(0, 1);
    }
    place.serve();
    let heard = place.used(CONTROL_FROM_GUEST);
    assert!(heard < QUEUE, "{heard}");
    (0..QUEUE).for_each(|_| place.offer_buffer(CONTROL_TO_GUEST, 64));
    place.serve();
    assert_eq!((place.used(CONTROL_FROM_GUEST), place.used(CONTROL_TO_GUEST)), (QUEUE, QUEUE));
}

#[test]
fn who_says_more_at_once_than_anybody_does_is_cut_off() {
    let (mut place, stream) = Place::connected();
    let start = FROM_GUEST as u64 * PART;
    let limit = CHAIN_BYTES_MAX as u32;
    place.offer(FROM_GUEST, Descriptor::new(start, limit, 0, 0));
    place.serve();
    assert_eq!(place.used(FROM_GUEST), 1);
    assert_ne!(heard(&stream), None);
    place.offer(FROM_GUEST, Descriptor::new(start, limit + 1, 0, 0));
    place.serve();
    while let Some(rest) = heard(&stream) {
        assert_ne!(rest, b"", "it is not cut off");
    }
}

fn descriptors() -> impl Strategy<Value = Vec<(u8, u64, u32, u16, u16)>> {
    let address = prop_oneof![0..PART * QUEUES as u64, any::<u64>()];
    let length = prop_oneof![0u32..0x2000, any::<u32>()];
    let flags = prop_oneof![Just(0), Just(WRITE), Just(NEXT), Just(WRITE | NEXT), any::<u16>()];
    vec((0..QUEUES as u8, address, length, flags, 0u16..20), 0..40)
}

proptest! {
    #[test]
    fn any_descriptors_are_an_end_and_no_panic(descriptors in descriptors()) {
        let (mut place, mut stream) = Place::connected();
        for (queue, address, length, flags, next) in descriptors {
            let _ = stream.write(b"some");
            place.offer(queue.into(), Descriptor::new(address, length, flags, next));
            match place.server.serve(&mut place.session) {
                Ok(_) => {}
                Err(_) => return Ok(()),
            }
        }
    }
}
