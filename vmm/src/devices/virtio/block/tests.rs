use std::{
    fs,
    os::fd::{AsRawFd, BorrowedFd},
    path::PathBuf,
};

use proptest::{collection::vec, prelude::*};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sublet_vmm_protocol::DiskConfig;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::{
    Queue,
    desc::{RawDescriptor, split::Descriptor},
};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::*;

/// A queue of 16, with its parts where the tests want them.
const QUEUE: u16 = 16;
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x200;
const USED: u64 = 0x400;
const HEADER: u64 = 0x1_0000;
const DATA: u64 = 0x2_0000;
const STATUS: u64 = 0x3_0000;
const MEMORY_BYTES: usize = 0x10_0000;
const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const UNTOUCHED: u8 = 0xaa;

/// A disk behind a queue, and the driver's side of it.
struct Driven {
    _directory: tempfile::TempDir,
    path: PathBuf,
    memory: Arc<GuestMemory>,
    block: Block,
    call: EventFd,
    failure: DeviceFailure,
}

impl Driven {
    /// A disk of 8 sectors, each full of its own number.
    fn new(read_only: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let content: Vec<u8> = (0..8u8).flat_map(|sector| [sector; 512]).collect();
        fs::write(&path, content).unwrap();
        let disk = Disk::open(&DiskConfig { path: path.clone(), read_only }).unwrap();
        let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap());
        let block = Block::new(disk, "sublet-0".into(), memory.clone()).unwrap();
        let call = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        Self { _directory: directory, path, memory, block, call, failure: DeviceFailure::default() }
    }

    /// Starts the device on the queue.
    fn activate(&mut self) {
        let queue = queue();
        let call = Some(self.call.try_clone().unwrap());
        let queues = vec![Some(ActiveQueue { queue, call })];
        let failure = self.failure.clone();
        self.block.activate(Activation { features: 0, queues, failure }).unwrap();
    }

    /// Offers one chain and waits until the device has used it; returns how many bytes it says it wrote.
    fn submit(&mut self, descriptors: &[Descriptor]) -> u32 {
        self.write(STATUS, UNTOUCHED);
        self.describe(descriptors);
        self.offer(1);
        self.activate();
        assert!(self.is_called(), "the device did not answer");
        let used = |offset| self.memory.read_obj::<u32>(GuestAddress(USED + offset)).unwrap();
        assert_eq!((used(0) >> 16, used(4)), (1, 0), "one chain used, and it is the one that starts at 0");
        used(8)
    }

    fn describe(&self, descriptors: &[Descriptor]) {
        for (index, descriptor) in descriptors.iter().enumerate() {
            let at = GuestAddress(DESCRIPTORS + 16 * index as u64);
            self.memory.write_obj(RawDescriptor::from(*descriptor), at).unwrap();
        }
    }

    /// Makes the first descriptors heads of that many chains, and available.
    fn offer(&self, chains: u16) {
        (0..QUEUE).for_each(|index| self.write(AVAILABLE + 4 + 2 * u64::from(index), index));
        self.write(AVAILABLE + 2, chains);
    }

    fn write<T: ByteValued>(&self, address: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    /// Waits for the queue's interrupt.
    fn is_called(&self) -> bool {
        // SAFETY: the descriptor is open as long as `self`.
        let call = unsafe { BorrowedFd::borrow_raw(self.call.as_raw_fd()) };
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        poll(&mut [PollFd::from_borrowed_fd(call, PollFlags::IN)], Some(&limit)).unwrap() == 1
    }

    fn header(&self, kind: u32, sector: u64) -> Descriptor {
        self.write(HEADER, kind);
        self.write(HEADER + 8, sector);
        Descriptor::new(HEADER, 16, NEXT, 1)
    }

    fn status(&self) -> u8 {
        self.memory.read_obj(GuestAddress(STATUS)).unwrap()
    }

    fn data(&self, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.memory.read_slice(&mut data, GuestAddress(DATA)).unwrap();
        data
    }
}

fn queue() -> Queue {
    let mut queue = Queue::new(QUEUE).unwrap();
    queue.try_set_desc_table_address(GuestAddress(DESCRIPTORS)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(USED)).unwrap();
    queue.set_ready(true);
    queue
}

fn status_at(address: u64) -> Descriptor {
    Descriptor::new(address, 1, WRITE, 0)
}

const READ: u32 = 0;
const WRITE_OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

#[test]
fn sectors_are_read() {
    let mut driven = Driven::new(true);
    let chain = [driven.header(READ, 3), Descriptor::new(DATA, 1024, NEXT | WRITE, 2), status_at(STATUS)];
    assert_eq!(driven.submit(&chain), 1025);
    assert_eq!(driven.status(), OK);
    assert_eq!(driven.data(1024), [[3; 512], [4; 512]].concat());
}

#[test]
fn sectors_are_written_wherever_the_driver_cuts_them() {
    let mut driven = Driven::new(false);
    driven.memory.write_slice(&[9; 512], GuestAddress(DATA)).unwrap();
    // The header in two parts, and the data's first bytes right behind it.
    driven.header(WRITE_OUT, 1);
    driven.memory.write_slice(&[9; 16], GuestAddress(HEADER + 16)).unwrap();
    let chain = [
        Descriptor::new(HEADER, 5, NEXT, 1),
        Descriptor::new(HEADER + 5, 27, NEXT, 2),
        Descriptor::new(DATA, 496, NEXT, 3),
        status_at(STATUS),
    ];
    assert_eq!(driven.submit(&chain), 1);
    assert_eq!(driven.status(), OK);
    let content = fs::read(&driven.path).unwrap();
    assert_eq!((content[511], &content[512..1024], content[1024]), (0, &[9; 512][..], 2));
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut driven = Driven::new(true);
    let before = fs::read(&driven.path).unwrap();
    let chain = [driven.header(WRITE_OUT, 0), Descriptor::new(DATA, 512, NEXT, 2), status_at(STATUS)];
    driven.submit(&chain);
    assert_eq!(driven.status(), IO_ERROR);
    assert_eq!(fs::read(&driven.path).unwrap(), before);
    assert_ne!(driven.block.features() & 1 << VIRTIO_BLK_F_RO, 0);
}

#[test]
fn a_disk_flushes_and_says_its_name() {
    let mut driven = Driven::new(false);
    let flush = [driven.header(FLUSH, 0), status_at(STATUS)];
    assert_eq!(driven.submit(&flush), 1);
    assert_eq!(driven.status(), OK);

    let mut driven = Driven::new(false);
    let identify = [driven.header(GET_ID, 0), Descriptor::new(DATA, 20, NEXT | WRITE, 2), status_at(STATUS)];
    assert_eq!(driven.submit(&identify), 21);
    assert_eq!(&driven.data(20), b"sublet-0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn an_unknown_request_is_told_so() {
    let mut driven = Driven::new(false);
    let chain = [driven.header(77, 0), status_at(STATUS)];
    driven.submit(&chain);
    assert_eq!(driven.status(), UNSUPPORTED);
}

#[test]
fn what_lies_outside_of_disk_or_memory_is_an_error_to_the_driver_only() {
    let beyond = MEMORY_BYTES as u64;
    for (sector, address, length) in [
        (8, DATA, 512),
        (u64::MAX, DATA, 512),
        (7, DATA, 1024),
        (0, beyond, 512),
        (0, u64::MAX, 512),
        (0, DATA, 100),
    ] {
        let mut driven = Driven::new(false);
        let data = Descriptor::new(address, length, NEXT | WRITE, 2);
        let chain = [driven.header(READ, sector), data, status_at(STATUS)];
        assert_eq!(driven.submit(&chain), 1);
        assert_eq!(driven.status(), IO_ERROR, "{sector} {address:#x} {length}");
    }
}

#[test]
fn a_chain_that_cannot_be_answered_is_given_back_and_the_next_is_served() {
    for broken in [
        // No place for the status; a status outside of memory; a chain that ends in nothing.
        vec![Descriptor::new(HEADER, 16, 0, 0)],
        vec![Descriptor::new(HEADER, 16, NEXT, 1), status_at(MEMORY_BYTES as u64)],
        vec![Descriptor::new(HEADER, 16, NEXT, 99)],
    ] {
        let mut driven = Driven::new(false);
        driven.header(READ, 0);
        assert_eq!(driven.submit(&broken), 0);
        assert!(!driven.failure.is_told());
    }
}

#[test]
fn a_chain_that_runs_in_a_circle_ends() {
    let mut driven = Driven::new(false);
    let circle = [driven.header(READ, 0), Descriptor::new(DATA, 512, NEXT | WRITE, 1)];
    driven.submit(&circle);
}

#[test]
fn a_ring_that_claims_more_than_it_holds_stops_the_device_and_the_driver_is_told() {
    let mut driven = Driven::new(false);
    driven.offer(QUEUE + 1);
    driven.failure = DeviceFailure::new(Some(driven.call.try_clone().unwrap()));
    driven.activate();
    assert!(driven.is_called());
    assert!(driven.failure.is_told());
    assert!(driven.block.shared.lock().is_none());
}

#[test]
fn after_a_reset_nothing_is_served() {
    let mut driven = Driven::new(false);
    driven.activate();
    driven.block.reset();
    assert!(driven.block.shared.lock().is_none());
}

/// Serves the queue here and now until there is nothing left to do; its length is bounded by the ring's.
fn serve_all(driven: &mut Driven) {
    let mut active = ActiveQueue { queue: queue(), call: None };
    let served = (0..100).take_while(|_| matches!(driven.block.shared.serve(&mut active), Ok(true))).count();
    assert!(served <= 17, "{served}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_stands_in_the_ring_the_device_goes_on(
        ring in vec(any::<u8>(), 0x600),
        header in vec(any::<u8>(), 64),
        avail in 0u16..20,
    ) {
        let mut driven = Driven::new(false);
        driven.memory.write_slice(&ring, GuestAddress(0)).unwrap();
        driven.memory.write_slice(&header, GuestAddress(HEADER)).unwrap();
        driven.write(AVAILABLE + 2, avail);
        serve_all(&mut driven);
    }

    #[test]
    fn whatever_the_descriptors_say_the_device_goes_on(
        descriptors in vec((0u64..0x11_0000, 0u32..70_000, 0u16..8, 0u16..20), 16),
        kind in 0u32..12,
        sector in 0u64..12,
    ) {
        let mut driven = Driven::new(false);
        driven.header(kind, sector);
        let descriptors: Vec<_> = descriptors
            .into_iter()
            .enumerate()
            .map(|(index, (address, length, flags, next))| {
                Descriptor::new(if index == 0 { HEADER } else { address }, length, flags, next)
            })
            .collect();
        driven.describe(&descriptors);
        driven.offer(QUEUE);
        serve_all(&mut driven);
    }
}
