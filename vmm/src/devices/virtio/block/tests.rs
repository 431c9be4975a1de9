use std::{
    fs,
    os::fd::{AsRawFd, BorrowedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sublet_vmm_protocol::{DiskConfig, DiskEngine, DiskLimits};
use virtio_bindings::{
    virtio_blk::{VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_WRITE_ZEROES},
    virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE},
};
use virtio_queue::{
    Queue, QueueT,
    desc::{RawDescriptor, split::Descriptor},
};
use vm_memory::{ByteValued, Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::{
    queue::Server,
    request::{SEGMENT_BYTES_LIMIT, SEGMENTS_LIMIT, ZERO_RANGES_LIMIT, ZERO_SECTORS_LIMIT},
    *,
};
use crate::{
    block::{disk::Disk, engine::Engine},
    devices::virtio::{
        ActivateError, Activation, ActiveQueue, DeviceFailure, VirtioDevice,
        worker::{Next, Service, Session},
    },
    memory::GuestMemory,
    sandbox::Lists,
};

mod hostile;
mod layered;
mod limits;
mod model;

/// Queues of 16, each with its parts on a page of its own.
const QUEUE: u16 = 16;
const QUEUES: u16 = 3;
const PAGE: u64 = 0x1000;
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x200;
const USED: u64 = 0x400;
const HEADER: u64 = 0x1_0000;
const DATA: u64 = 0x2_0000;
const STATUS: u64 = 0x3_0000;
/// Where no request of a driver's lies.
const SPARE: u64 = 0x8_0000;
const MEMORY_BYTES: usize = 0x10_0000;
const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const UNTOUCHED: u8 = 0xaa;
const PATIENCE: Duration = Duration::from_secs(20);
const FEATURES: u64 = 1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;

type MakeEngine = fn(&Arc<Disk>) -> (Engine, DiskEngine);

/// What is served by io_uring, where the host has it, and what without.
const ENGINES: [MakeEngine; 2] =
    [Engine::new, |_| (Engine::blocking(), DiskEngine::Blocking { reason: "a test wants it so".into() })];

/// A file as a disk, and a guest's memory.
struct Place {
    _directory: tempfile::TempDir,
    path: PathBuf,
    disk: Arc<Disk>,
    memory: Arc<GuestMemory>,
}

impl Place {
    /// A disk of 64 sectors, each full of its own number.
    fn new(read_only: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let content: Vec<u8> = (0..64u8).flat_map(|sector| [sector; 512]).collect();
        fs::write(&path, content).unwrap();
        let disk = Disk::open(&DiskConfig { read_only, ..DiskConfig::new(&path) }, &[]).unwrap();
        let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap());
        Self { _directory: directory, path, disk: Arc::new(disk), memory }
    }

    fn write<T: ByteValued>(&self, address: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    fn describe(&self, queue: u16, descriptors: &[(u16, Descriptor)]) {
        for (index, descriptor) in descriptors {
            let at = u64::from(queue) * PAGE + DESCRIPTORS + 16 * u64::from(*index);
            self.memory.write_obj(RawDescriptor::from(*descriptor), GuestAddress(at)).unwrap();
        }
    }

    /// Makes the first descriptors of queue 0 heads of that many chains, and available.
    fn offer(&self, chains: u16) {
        (0..QUEUE).for_each(|index| self.write(AVAILABLE + 4 + 2 * u64::from(index), index));
        self.write(AVAILABLE + 2, chains);
    }

    fn server(&self, engine: MakeEngine, limits: DiskLimits) -> Server {
        Server::new(self.disk.clone(), engine(&self.disk).0, "sublet-0".into(), limits, self.memory.clone())
    }
}

fn queue(number: u16) -> Queue {
    let mut queue = Queue::new(QUEUE).unwrap();
    let page = u64::from(number) * PAGE;
    queue.try_set_desc_table_address(GuestAddress(page + DESCRIPTORS)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(page + AVAILABLE)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(page + USED)).unwrap();
    queue.set_ready(true);
    queue
}

/// A disk behind its queues, and the driver's side of it.
struct Driven {
    place: Place,
    block: Block,
    call: EventFd,
    failure: DeviceFailure,
    features: u64,
}

impl Driven {
    fn new(read_only: bool) -> Self {
        Self::with_engine(read_only, Engine::new)
    }

    fn with_engine(read_only: bool, engine: MakeEngine) -> Self {
        Self::of(Place::new(read_only), engine)
    }

    fn of(place: Place, engine: MakeEngine) -> Self {
        let options = BlockOptions {
            number: 0,
            serial: "sublet-0".into(),
            queues: QUEUES,
            limits: DiskLimits::default(),
        };
        let (disk, memory, filters) = (place.disk.clone(), place.memory.clone(), Lists::for_tests().disks);
        let block = Block::with_engine(disk, &options, memory, filters, engine).unwrap();
        let call = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        Self { place, block, call, failure: DeviceFailure::default(), features: FEATURES }
    }

    /// Starts the device on all its queues.
    fn activate(&mut self) {
        let active = |number| {
            let call = Some(self.call.try_clone().unwrap());
            Some(ActiveQueue { queue: queue(number), call })
        };
        let queues = (0..QUEUES).map(active).collect();
        let failure = self.failure.clone();
        self.block.activate(Activation { features: self.features, queues, failure }).unwrap();
    }

    /// Offers one chain and waits until the device has used it; returns how many bytes it says it wrote.
    fn submit(&mut self, descriptors: &[Descriptor]) -> u32 {
        self.place.write(STATUS, UNTOUCHED);
        let numbered: Vec<_> = (0..).zip(descriptors.iter().copied()).collect();
        self.place.describe(0, &numbered);
        self.place.offer(1);
        self.activate();
        self.wait_for_call();
        let used = |offset| self.place.memory.read_obj::<u32>(GuestAddress(USED + offset)).unwrap();
        assert_eq!((used(0) >> 16, used(4)), (1, 0), "one chain used, and it is the one that starts at 0");
        used(8)
    }

    /// Waits for an interrupt.
    fn wait_for_call(&self) {
        // SAFETY: the descriptor is open as long as `self`.
        let call = unsafe { BorrowedFd::borrow_raw(self.call.as_raw_fd()) };
        let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let called = poll(&mut [PollFd::from_borrowed_fd(call, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(called, 1, "the device did not answer");
        self.call.read().unwrap();
    }

    fn header(&self, kind: u32, sector: u64) -> Descriptor {
        self.place.write(HEADER, kind);
        self.place.write(HEADER + 8, sector);
        Descriptor::new(HEADER, 16, NEXT, 1)
    }

    fn status(&self) -> u8 {
        self.place.memory.read_obj(GuestAddress(STATUS)).unwrap()
    }

    fn data(&self, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.place.memory.read_slice(&mut data, GuestAddress(DATA)).unwrap();
        data
    }

    /// What stands in the disk's file; of a layered disk, what is read of it.
    fn content(&self) -> Vec<u8> {
        let Place { disk, memory, path, .. } = &self.place;
        if disk.layer().is_some() { layered::content(disk, memory) } else { fs::read(path).unwrap() }
    }

    /// A request to discard or write zeroes to one range; returns its status.
    fn zero(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        self.place.write(DATA, sector);
        self.place.write(DATA + 8, sectors);
        self.place.write(DATA + 12, flags);
        let chain = [self.header(kind, 0), Descriptor::new(DATA, 16, NEXT, 2), status_at(STATUS)];
        self.submit(&chain);
        self.status()
    }
}

fn status_at(address: u64) -> Descriptor {
    Descriptor::new(address, 1, WRITE, 0)
}

const READ: u32 = 0;
const WRITE_OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
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
    driven.place.memory.write_slice(&[9; 512], GuestAddress(DATA)).unwrap();
    // The header in two parts, and the data's first bytes right behind it.
    driven.header(WRITE_OUT, 1);
    driven.place.memory.write_slice(&[9; 16], GuestAddress(HEADER + 16)).unwrap();
    let chain = [
        Descriptor::new(HEADER, 5, NEXT, 1),
        Descriptor::new(HEADER + 5, 27, NEXT, 2),
        Descriptor::new(DATA, 496, NEXT, 3),
        status_at(STATUS),
    ];
    assert_eq!(driven.submit(&chain), 1);
    assert_eq!(driven.status(), OK);
    let content = driven.content();
    assert_eq!((content[511], &content[512..1024], content[1024]), (0, &[9; 512][..], 2));
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut driven = Driven::new(true);
    let before = driven.content();
    let chain = [driven.header(WRITE_OUT, 0), Descriptor::new(DATA, 512, NEXT, 2), status_at(STATUS)];
    driven.submit(&chain);
    assert_eq!(driven.status(), IO_ERROR);
    assert_eq!(driven.content(), before);
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
        (64, DATA, 512),
        (u64::MAX, DATA, 512),
        (63, DATA, 1024),
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
    driven.place.offer(QUEUE + 1);
    driven.failure = DeviceFailure::new(Some(driven.call.try_clone().unwrap()));
    driven.activate();
    driven.wait_for_call();
    assert!(driven.failure.is_told());
    assert!(driven.block.reset(PATIENCE));
}

#[test]
fn after_a_reset_nothing_is_served_until_it_is_started_again() {
    let mut driven = Driven::new(false);
    driven.activate();
    assert!(driven.block.reset(PATIENCE));
    driven.place.offer(1);
    driven.block.queues()[0].kick.write(1).unwrap();
    assert!(driven.block.reset(PATIENCE));
    let used_index: u16 = driven.place.memory.read_obj(GuestAddress(USED + 2)).unwrap();
    assert_eq!(used_index, 0);
    let flush = [driven.header(FLUSH, 0), status_at(STATUS)];
    driven.submit(&flush);
    assert_eq!(driven.status(), OK);
}

#[test]
fn a_disk_with_no_queue_in_use_is_not_started() {
    let mut driven = Driven::new(false);
    let queues = (0..QUEUES).map(|_| None).collect();
    let activation = Activation { features: 0, queues, failure: DeviceFailure::default() };
    assert!(matches!(driven.block.activate(activation), Err(ActivateError::MissingQueue(0))));
}

#[test]
fn what_is_discarded_or_zeroed_reads_as_zeroes() {
    for (kind, flags) in [(DISCARD, 0), (WRITE_ZEROES, 0), (WRITE_ZEROES, 1)] {
        let mut driven = Driven::new(false);
        assert_eq!(driven.zero(kind, 3, 2, flags), OK);
        let content = driven.content();
        assert_eq!(content[3 * 512..5 * 512], [0; 1024]);
        assert_eq!((content[3 * 512 - 1], content[5 * 512]), (2, 5));
    }
}

#[test]
fn several_ranges_can_be_zeroed_by_one_request() {
    let mut driven = Driven::new(false);
    for (number, sector) in [1u64, 7, 30].into_iter().enumerate() {
        let at = DATA + 16 * number as u64;
        driven.place.write(at, sector);
        driven.place.write(at + 8, 1u32);
        driven.place.write(at + 12, 0u32);
    }
    let chain = [driven.header(DISCARD, 0), Descriptor::new(DATA, 48, NEXT, 2), status_at(STATUS)];
    driven.submit(&chain);
    assert_eq!(driven.status(), OK);
    let content = driven.content();
    let zeroed: Vec<_> = (1..64).filter(|sector| content[sector * 512] == 0).collect();
    assert_eq!(zeroed, [1, 7, 30]);
}

#[test]
fn ranges_that_no_driver_may_ask_for_are_errors_and_change_nothing() {
    for (kind, sector, sectors, flags, status) in [
        (DISCARD, 0, 1, 1, UNSUPPORTED),
        (WRITE_ZEROES, 0, 1, 2, UNSUPPORTED),
        (DISCARD, 60, 5, 0, IO_ERROR),
        (DISCARD, u64::MAX, 1, 0, IO_ERROR),
        (DISCARD, 0, ZERO_SECTORS_LIMIT + 1, 0, IO_ERROR),
        (WRITE_ZEROES, u64::MAX / 512, 1, 0, IO_ERROR),
    ] {
        let mut driven = Driven::new(false);
        let before = driven.content();
        assert_eq!(driven.zero(kind, sector, sectors, flags), status, "{kind} {sector} {sectors} {flags}");
        assert_eq!(driven.content(), before);
    }
}

#[test]
fn a_request_with_too_many_ranges_or_half_a_range_is_an_error() {
    for bytes in [0, 8, 24, 16 * (ZERO_RANGES_LIMIT as u32 + 1)] {
        let mut driven = Driven::new(false);
        let chain = [driven.header(DISCARD, 0), Descriptor::new(DATA, bytes, NEXT, 2), status_at(STATUS)];
        driven.submit(&chain);
        assert_eq!(driven.status(), IO_ERROR, "{bytes}");
    }
}

#[test]
fn what_was_not_negotiated_is_not_done() {
    for (kind, feature) in [(DISCARD, VIRTIO_BLK_F_DISCARD), (WRITE_ZEROES, VIRTIO_BLK_F_WRITE_ZEROES)] {
        let mut driven = Driven::new(false);
        driven.features &= !(1 << feature);
        assert_eq!(driven.zero(kind, 1, 1, 0), UNSUPPORTED);
        assert_eq!(driven.content()[512], 1);
    }
    let mut read_only = Driven::new(true);
    assert_eq!(read_only.block.features() & (1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES), 0);
    assert_eq!(read_only.zero(DISCARD, 1, 1, 0), IO_ERROR);
}

#[test]
fn a_driver_without_flush_has_what_it_wrote_kept_all_the_same() {
    for engine in ENGINES {
        let mut driven = Driven::with_engine(false, engine);
        driven.features = 0;
        driven.place.memory.write_slice(&[9; 512], GuestAddress(DATA)).unwrap();
        let chain = [driven.header(WRITE_OUT, 5), Descriptor::new(DATA, 512, NEXT, 2), status_at(STATUS)];
        driven.submit(&chain);
        assert_eq!((driven.status(), driven.content()[5 * 512]), (OK, 9));
    }
}

#[test]
fn the_driver_reads_every_limit() {
    let driven = Driven::new(false);
    let config = driven.block.config();
    let word = |at: usize| u32::from_le_bytes(config[at..at + 4].try_into().unwrap());
    assert_eq!(config[..8], 64u64.to_le_bytes());
    assert_eq!((word(8), word(12), word(20)), (SEGMENT_BYTES_LIMIT, SEGMENTS_LIMIT as u32, 512));
    assert_eq!(config[34..36], QUEUES.to_le_bytes());
    assert_eq!((word(36), word(40)), (ZERO_SECTORS_LIMIT, ZERO_RANGES_LIMIT as u32));
    assert_eq!((word(48), word(52)), (ZERO_SECTORS_LIMIT, ZERO_RANGES_LIMIT as u32));
    let physical = 512 << config[24];
    assert_eq!(word(44) * 512, physical);
    let status = driven.block.service().status();
    assert_eq!(status.queues, QUEUES);
    let read_only = Driven::new(true);
    assert!(read_only.block.config()[36..].iter().all(|byte| *byte == 0));
}
