//! A disk's queues.
//!
//! The first byte chooses: bit 0 the engine with io_uring, bit 1 a read-only disk, bit 2 the rings' event indices, bit 3 a
//! driver that knows of no flush, discard and write zeroes.

use std::{os::unix::fs::FileExt, sync::Arc};

use sublet_vmm::{
    block::{disk::Disk, engine::Engine},
    devices::virtio::block::queue::Server,
};
use sublet_vmm_protocol::{DiskConfig, DiskLimits};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

use crate::{
    Seed,
    files::MemoryFile,
    guest::Guest,
    rings::{self, Described, INDIRECT, NEXT, Rings, Step, WRITE},
    steps,
};

const QUEUES: u16 = 2;
const SECTORS: u8 = 64;
const SECTOR_BYTES: usize = 512;
const FEATURES: u64 = 1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;

const WITH_RING: u8 = 1;
const READ_ONLY: u8 = 2;
const EVENT_IDX: u8 = 4;
const OLD_DRIVER: u8 = 8;

pub fn run(input: &[u8]) {
    let guest = Guest::new(rings::MEMORY_BYTES);
    play(&guest, input);
}

fn play(guest: &Guest, input: &[u8]) {
    let (options, input) = input.split_first().unwrap_or((&0, &[]));
    let has = |option| options & option != 0;
    let content: Vec<u8> = (0..SECTORS).flat_map(|sector| [sector; SECTOR_BYTES]).collect();
    let file = MemoryFile::new(content.len() as u64);
    file.0.write_all_at(&content, 0).unwrap();
    let config = DiskConfig { read_only: has(READ_ONLY), ..DiskConfig::new(file.path()) };
    let disk = Arc::new(Disk::open(&config, &[]).unwrap());
    let engine = if has(WITH_RING) { Engine::new(&disk).0 } else { Engine::blocking() };
    let server = Server::new(disk, engine, "sublet-0".into(), DiskLimits::default(), guest.memory.clone());
    let features = if has(OLD_DRIVER) { 0 } else { FEATURES };
    Rings::new(guest, server, QUEUES, features, has(EVENT_IDX)).play(steps::read(input));
    check(&file, has(READ_ONLY).then_some(&content), content.len());
}

/// A disk keeps its size, and one that is only read its content.
fn check(file: &MemoryFile, content: Option<&Vec<u8>>, bytes: usize) {
    assert_eq!(file.0.metadata().unwrap().len(), bytes as u64, "the disk has grown or shrunk");
    if let Some(content) = content {
        let mut now = vec![0; bytes];
        file.0.read_exact_at(&mut now, 0).unwrap();
        assert!(now == *content, "a read-only disk has been written");
    }
}

const HEADER: u32 = 0x1_0000;
const DATA: u32 = 0x2_0000;
const STATUS: u64 = 0x3_0000;

/// A request whose data is this one descriptor, if there is any.
fn request(kind: u32, sector: u64, data: Option<(u32, u8)>) -> Vec<Step> {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    let mut descriptors = vec![Described { address: HEADER.into(), length: 16, flags: NEXT, next: 1 }];
    if let Some((length, flags)) = data {
        descriptors.push(Described { address: DATA.into(), length, flags: NEXT | flags, next: 2 });
    }
    descriptors.push(Described { address: STATUS, length: 1, flags: WRITE, next: 0 });
    let mut steps = vec![Step::Write(HEADER, header.into()), Step::Write(STATUS as u32, vec![0xff])];
    steps.extend(rings::table(&descriptors));
    steps.extend([Step::Offer { queue: 0, head: 0 }, Step::Serve]);
    steps
}

fn zeroing(kind: u32, sector: u64, sectors: u32, flags: u32) -> Vec<Step> {
    let range: Vec<u8> =
        sector.to_le_bytes().into_iter().chain(sectors.to_le_bytes()).chain(flags.to_le_bytes()).collect();
    [vec![Step::Write(DATA, range)], request(kind, 0, Some((16, 0)))].into_iter().flatten().collect()
}

/// Requests that are answered with a status of 0.
fn good_requests() -> Vec<(&'static str, Vec<Step>)> {
    vec![
        ("read", request(VIRTIO_BLK_T_IN, 3, Some((1024, WRITE)))),
        ("write", request(VIRTIO_BLK_T_OUT, 1, Some((512, 0)))),
        ("flush", request(VIRTIO_BLK_T_FLUSH, 0, None)),
        ("identify", request(VIRTIO_BLK_T_GET_ID, 0, Some((20, WRITE)))),
        ("discard", zeroing(VIRTIO_BLK_T_DISCARD, 3, 2, 0)),
        ("write_zeroes", zeroing(VIRTIO_BLK_T_WRITE_ZEROES, 7, 1, 1)),
    ]
}

/// A chain that goes round, one in a table of its own, one that leaves memory, and an index from nowhere.
fn hostile() -> Vec<Step> {
    let descriptors = [
        Described { address: HEADER.into(), length: 16, flags: NEXT, next: 0 },
        Described { address: 0x100, length: 32, flags: INDIRECT, next: 0 },
        Described { address: rings::MEMORY_BYTES as u64 - 8, length: 64, flags: WRITE, next: 0 },
        Described { address: u64::MAX, length: u32::MAX, flags: NEXT | WRITE, next: 15 },
    ];
    let mut steps = rings::table(&descriptors);
    steps.extend((0..4).map(|head| Step::Offer { queue: 0, head }));
    steps.extend([Step::Serve, Step::Reset, Step::Index { queue: 1, index: 40 }, Step::Serve]);
    steps
}

/// Requests that begin on the disk and end after it, and one that begins after it.
fn beyond_the_end() -> Vec<Step> {
    let last = u64::from(SECTORS) - 1;
    let requests = [
        request(VIRTIO_BLK_T_IN, last, Some((1024, WRITE))),
        request(VIRTIO_BLK_T_OUT, last, Some((1024, 0))),
        request(VIRTIO_BLK_T_OUT, last + 1, Some((512, 0))),
        zeroing(VIRTIO_BLK_T_DISCARD, last, 2, 0),
        zeroing(VIRTIO_BLK_T_WRITE_ZEROES, last + 1, 1, 0),
        request(VIRTIO_BLK_T_OUT, u64::MAX >> 9, Some((512, 0))),
    ];
    requests.into_iter().flatten().collect()
}

fn with(options: u8, steps: &[Step]) -> Vec<u8> {
    [vec![options], steps::written(steps)].concat()
}

pub fn seeds() -> Vec<Seed> {
    let all: Vec<Step> = good_requests().into_iter().flat_map(|(_, steps)| steps).collect();
    let mut seeds: Vec<_> =
        good_requests().into_iter().map(|(name, steps)| (name, with(0, &steps))).collect();
    seeds.extend([
        ("all_by_ring", with(WITH_RING | EVENT_IDX, &all)),
        ("all_read_only", with(READ_ONLY, &all)),
        ("all_by_an_old_driver", with(OLD_DRIVER, &all)),
        ("beyond_the_end", with(0, &beyond_the_end())),
        ("beyond_the_end_by_ring", with(WITH_RING, &beyond_the_end())),
        ("hostile", with(0, &hostile())),
        ("hostile_by_ring", with(WITH_RING, &hostile())),
    ]);
    seeds
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    #[test]
    fn requests_that_are_good_are_served() {
        for (name, steps) in good_requests() {
            let guest = Guest::new(rings::MEMORY_BYTES);
            play(&guest, &with(0, &steps));
            let status: u8 = guest.memory.read_obj(GuestAddress(STATUS)).unwrap();
            assert_eq!((rings::used(&guest, 0), status), (1, 0), "{name}");
        }
    }
}
