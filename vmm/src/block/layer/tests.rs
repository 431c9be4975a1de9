//! A guest that reads, writes, discards and flushes, several at a time, on a disk whose power is cut, over a base that arrives in
//! between; simulated, so that any part of what was not synced can be lost.

use std::{
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use proptest::{collection::vec, prelude::*};
use sublet_vmm_protocol::{
    BaseSource, DiskConfig, DiskKey, LayerConfig,
    config::{CHUNK_BYTES, layered_file_bytes},
};
use vm_memory::{Bytes, GuestAddress};

use crate::{
    block::{
        SECTOR_SIZE,
        buffers::Segment,
        disk::Disk,
        io::{Io, Next, Step},
        layer::base::Base,
    },
    memory::GuestMemory,
};

const CHUNK_SECTORS: u64 = CHUNK_BYTES / SECTOR_SIZE;
/// The last chunk is a short one.
const SECTORS: u64 = 3 * CHUNK_SECTORS + 40;
/// What lies under it ends within a chunk.
const BASE_SECTORS: u64 = CHUNK_SECTORS + 60;
const BASE_BYTE: u8 = 255;
/// What stands in its file where it has not arrived; nobody ever writes that.
const NOT_ARRIVED: u8 = 254;
const BASE_CHUNKS: u64 = BASE_SECTORS.div_ceil(CHUNK_SECTORS);
/// Longest request, in sectors: longer than a piece of work.
const LONGEST: u64 = 3 * CHUNK_SECTORS;

#[derive(Debug, Clone)]
enum Wish {
    Read(Range<u64>),
    Write(Range<u64>),
    Zero(Range<u64>),
    Flush,
}

#[derive(Debug, Clone)]
enum Event {
    Begin(Wish),
    /// One of those that have begun gets on by a step.
    Step(prop::sample::Index),
    /// This chunk of the base arrives, whether anybody waits for it or not.
    Arrive(u64),
}

fn range() -> impl Strategy<Value = Range<u64>> {
    (0..SECTORS, prop_oneof![1..20_u64, 1..LONGEST])
        .prop_map(|(start, length)| start..(start + length).min(SECTORS))
}

fn event() -> impl Strategy<Value = Event> {
    let wish = prop_oneof![
        2 => range().prop_map(Wish::Read),
        4 => range().prop_map(Wish::Write),
        2 => range().prop_map(Wish::Zero),
        2 => Just(Wish::Flush),
    ];
    prop_oneof![
        10 => wish.prop_map(Event::Begin),
        40 => any::<prop::sample::Index>().prop_map(Event::Step),
        1 => (0..BASE_CHUNKS).prop_map(Event::Arrive),
    ]
}

/// A disk's file as the host keeps it: what has been synced, and what is on its way, sector by sector.
struct Platter {
    synced: Vec<u8>,
    on_its_way: Vec<(usize, [u8; SECTOR_SIZE as usize])>,
}

/// What lies under the disk, in a file, and which chunks of that have arrived, in another.
struct Supply {
    content: File,
    map: File,
    arrived: u8,
}

impl Supply {
    fn new() -> Self {
        let [content, map] = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        content.write_all_at(&[NOT_ARRIVED; (BASE_SECTORS * SECTOR_SIZE) as usize], 0).unwrap();
        map.set_len(1).unwrap();
        Self { content, map, arrived: 0 }
    }

    fn base(&self) -> Base {
        let source = BaseSource { disk: 0, bytes: BASE_SECTORS * SECTOR_SIZE, is_arriving: true };
        let [content, map] = [&self.content, &self.map].map(|file| file.try_clone().unwrap().into());
        Base::open(&source, content, Some(map)).unwrap()
    }

    fn arrive(&mut self, chunk: u64) {
        let start = chunk * CHUNK_BYTES;
        let bytes = CHUNK_BYTES.min(BASE_SECTORS * SECTOR_SIZE - start);
        self.content.write_all_at(&vec![BASE_BYTE; bytes as usize], start).unwrap();
        self.arrived |= 1 << chunk;
        self.map.write_all_at(&[self.arrived], 0).unwrap();
    }
}

impl Platter {
    fn seen(&self) -> Vec<u8> {
        let mut seen = self.synced.clone();
        self.on_its_way.iter().for_each(|(at, sector)| put(&mut seen, *at, sector));
        seen
    }

    fn perform(&mut self, step: Step<'_>) -> u64 {
        match step {
            Step::Read { parts, offset } => {
                let from = self.seen();
                let (into, bytes) = memory(parts);
                let from = &from[offset as usize..][..bytes];
                // SAFETY: both are that long, and apart.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into, bytes) };
                bytes as u64
            }
            Step::Write { parts, offset } => {
                let (from, bytes) = memory(parts);
                // SAFETY: it is that long, and stays as it is for so long.
                let sectors =
                    unsafe { std::slice::from_raw_parts(from, bytes) }.chunks_exact(SECTOR_SIZE as usize);
                for (number, sector) in sectors.enumerate() {
                    let at = offset as usize + number * SECTOR_SIZE as usize;
                    self.on_its_way.push((at, sector.try_into().unwrap()));
                }
                bytes as u64
            }
            Step::Sync => {
                self.synced = self.seen();
                self.on_its_way.clear();
                0
            }
            Step::Zero { .. } => panic!("a layered disk is never zeroed by the kernel"),
        }
    }

    /// Of what is on its way any part comes to stand.
    fn cut(&mut self, luck: &[bool]) {
        let mut luck = luck.iter().cycle();
        for (at, sector) in std::mem::take(&mut self.on_its_way) {
            if *luck.next().unwrap() {
                put(&mut self.synced, at, &sector);
            }
        }
    }
}

fn put(disk: &mut [u8], at: usize, sector: &[u8]) {
    disk[at..at + sector.len()].copy_from_slice(sector);
}

/// The memory of a step: a buffer that its work owns, and nobody else uses while it is carried out.
fn memory(parts: &[libc::iovec]) -> (*mut u8, usize) {
    let [part] = parts else { panic!("a layered disk's steps have one part") };
    (part.iov_base.cast(), part.iov_len)
}

/// What may stand in a sector: what has been written there, in that order, from the last that is certain.
struct Sector {
    /// How many there were before.
    before: usize,
    values: Vec<u8>,
    /// How many were acknowledged, those before with them.
    acknowledged: usize,
}

impl Sector {
    fn certain(value: u8) -> Self {
        Self { before: 0, values: vec![value], acknowledged: 1 }
    }

    fn write(&mut self, value: u8) {
        self.values.push(value);
    }

    fn acknowledge(&mut self) {
        self.acknowledged = self.before + self.values.len();
    }

    /// So many, those before with them, can no longer be lost; what was there before the last of them is gone.
    fn keep(&mut self, covers: usize) {
        let gone = (covers - 1).saturating_sub(self.before);
        self.values.drain(..gone);
        self.before += gone;
    }
}

struct Begun {
    wish: Wish,
    io: Io,
    /// Of a flush: how many values of each sector were acknowledged when it began.
    covers: Vec<usize>,
    place: u64,
}

struct World {
    directory: tempfile::TempDir,
    /// How often the power was cut.
    cuts: u32,
    platter: Platter,
    supply: Supply,
    disk: Arc<Disk>,
    memory: Arc<GuestMemory>,
    sectors: Vec<Sector>,
    begun: Vec<Begun>,
    next_value: u8,
}

/// Where in the guest's memory the data of requests are that have begun, each in its place.
const PLACES: u64 = 8;
const PLACE_BYTES: u64 = LONGEST * SECTOR_SIZE;

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let platter = Platter {
            synced: vec![0; layered_file_bytes(SECTORS * SECTOR_SIZE) as usize],
            on_its_way: vec![],
        };
        let supply = Supply::new();
        let disk = open(directory.path(), 0, &platter, &supply);
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), (PLACES * PLACE_BYTES) as usize)]);
        let initial = |sector: u64| if sector < BASE_SECTORS { BASE_BYTE } else { 0 };
        let sectors = (0..SECTORS).map(|at| Sector::certain(initial(at)));
        Self {
            directory,
            cuts: 0,
            platter,
            supply,
            disk,
            memory: Arc::new(memory.unwrap()),
            sectors: sectors.collect(),
            begun: vec![],
            next_value: 0,
        }
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::Begin(wish) => self.begin(wish.clone()),
            Event::Step(_) if self.begun.is_empty() => {}
            Event::Step(which) => {
                let number = which.index(self.begun.len());
                self.step(number);
            }
            Event::Arrive(chunk) => self.supply.arrive(*chunk),
        }
    }

    /// No guest writes what it is reading or writing already.
    fn begin(&mut self, wish: Wish) {
        let overlaps = |one: &Range<u64>, other: &Range<u64>| one.start < other.end && other.start < one.end;
        let taken = |begun: &Begun| match (sectors_of(&begun.wish), sectors_of(&wish)) {
            (Some(one), Some(other)) => overlaps(one, other),
            _ => false,
        };
        if self.begun.iter().any(taken) || self.begun.len() as u64 == PLACES {
            return;
        }
        self.next_value = self.next_value % 250 + 1;
        let value = self.next_value;
        let is_free = |place: &u64| self.begun.iter().all(|begun| begun.place != *place);
        let place = (0..PLACES).map(|number| number * PLACE_BYTES).find(is_free).unwrap();
        let (disk, memory) = (&self.disk, &self.memory);
        let segments = |range: &Range<u64>| {
            let bytes = (range.end - range.start) * SECTOR_SIZE;
            // Cut anywhere, as drivers do.
            let first = bytes / 3;
            [(place, first), (place + first, bytes - first)]
                .map(|(address, length)| Segment { address: GuestAddress(address), length: length as u32 })
        };
        let io = match &wish {
            Wish::Read(range) => Io::read(disk, memory, &segments(range), range.start * SECTOR_SIZE),
            Wish::Write(range) => {
                memory.write_slice(&vec![value; PLACE_BYTES as usize], GuestAddress(place)).unwrap();
                Io::write(disk, memory, &segments(range), range.start * SECTOR_SIZE)
            }
            Wish::Zero(range) => {
                let bytes = range.start * SECTOR_SIZE..range.end * SECTOR_SIZE;
                Io::zero(disk, std::iter::once(bytes).collect())
            }
            Wish::Flush => Ok(Io::flush(disk)),
        };
        let written = match &wish {
            Wish::Write(range) => Some((range, value)),
            Wish::Zero(range) => Some((range, 0)),
            Wish::Read(_) | Wish::Flush => None,
        };
        for sector in written.iter().flat_map(|(range, _)| (*range).clone()) {
            self.sectors[sector as usize].write(written.as_ref().unwrap().1);
        }
        let covers = self.sectors.iter().map(|sector| sector.acknowledged).collect();
        self.begun.push(Begun { wish, io: io.unwrap(), covers, place });
    }

    /// True: it is done, or got on.
    fn step(&mut self, number: usize) -> bool {
        let begun = &mut self.begun[number];
        let done = match begun.io.next_step().unwrap() {
            Next::Step(step) => self.platter.perform(step),
            Next::Wait => return false,
            Next::Done => {
                let begun = self.begun.swap_remove(number);
                self.acknowledged(begun);
                return true;
            }
        };
        begun.io.advance(Ok(done)).unwrap();
        true
    }

    fn acknowledged(&mut self, begun: Begun) {
        match begun.wish {
            Wish::Read(range) => {
                for (number, sector) in range.enumerate() {
                    let mut read = [0; SECTOR_SIZE as usize];
                    let address = GuestAddress(begun.place + number as u64 * SECTOR_SIZE);
                    self.memory.read_slice(&mut read, address).unwrap();
                    let wanted = self.sectors[sector as usize].values.last().unwrap();
                    assert!(read.iter().all(|byte| byte == wanted), "sector {sector}: {} {wanted}", read[0]);
                }
            }
            Wish::Write(range) | Wish::Zero(range) => {
                range.for_each(|sector| self.sectors[sector as usize].acknowledge());
            }
            Wish::Flush => {
                // What had been acknowledged when it began can no longer be lost.
                for (sector, covers) in self.sectors.iter_mut().zip(begun.covers) {
                    sector.keep(covers);
                }
            }
        }
    }

    /// All that has begun is done, each when its turn comes.
    fn settle(&mut self) {
        while !self.begun.is_empty() {
            let any = (0..self.begun.len()).any(|number| self.step(number));
            if !any {
                self.bring_what_is_wanted();
            }
        }
    }

    fn bring_what_is_wanted(&mut self) {
        let wanted = self.disk.layer().unwrap().wanted().chunks;
        assert!(!wanted.is_empty(), "all wait for each other");
        wanted.into_iter().for_each(|chunk| self.supply.arrive(chunk));
    }

    /// The power is cut and comes back: each sector has a value that it may have.
    fn cut(&mut self, luck: &[bool]) {
        self.begun.clear();
        self.platter.cut(luck);
        self.cuts += 1;
        self.disk = open(self.directory.path(), self.cuts, &self.platter, &self.supply);
        for start in (0..SECTORS).step_by(LONGEST as usize) {
            let range = start..(start + LONGEST).min(SECTORS);
            let read = self.read(range.clone());
            for (sector, bytes) in range.zip(read.chunks(SECTOR_SIZE as usize)) {
                let may = &mut self.sectors[sector as usize];
                let is_one = bytes.iter().all(|byte| *byte == bytes[0]);
                assert!(
                    is_one && may.values.contains(&bytes[0]),
                    "sector {sector} has {:?}…, and may have one of {:?}",
                    &bytes[..4],
                    may.values
                );
                *may = Sector::certain(bytes[0]);
            }
        }
    }

    fn read(&mut self, range: Range<u64>) -> Vec<u8> {
        let bytes = (range.end - range.start) * SECTOR_SIZE;
        let into = [Segment { address: GuestAddress(0), length: bytes as u32 }];
        let mut io = Io::read(&self.disk, &self.memory, &into, range.start * SECTOR_SIZE).unwrap();
        loop {
            let done = match io.next_step().unwrap() {
                Next::Step(step) => self.platter.perform(step),
                Next::Wait => {
                    self.bring_what_is_wanted();
                    continue;
                }
                Next::Done => break,
            };
            io.advance(Ok(done)).unwrap();
        }
        let mut read = vec![0; bytes as usize];
        self.memory.read_slice(&mut read, GuestAddress(0)).unwrap();
        read
    }
}

fn sectors_of(wish: &Wish) -> Option<&Range<u64>> {
    match wish {
        Wish::Read(range) | Wish::Write(range) | Wish::Zero(range) => Some(range),
        Wish::Flush => None,
    }
}

/// The disk as it is found after so many cuts.
fn open(directory: &Path, cuts: u32, platter: &Platter, supply: &Supply) -> Arc<Disk> {
    let path = directory.join(format!("own-{cuts}"));
    fs::write(&path, &platter.synced).unwrap();
    let layer = LayerConfig { bytes: SECTORS * SECTOR_SIZE, key: DiskKey::new([9; 64]) };
    let config = DiskConfig { layer: Some(layer), ..DiskConfig::new(&path) };
    let disk = Disk::open(&config, &[]).unwrap();
    disk.layer().unwrap().put_over(supply.base()).unwrap();
    Arc::new(disk)
}

proptest! {
    #[test]
    fn whatever_a_cut_of_the_power_leaves_nothing_acknowledged_is_lost_and_no_chunk_is_mixed(
        lives in vec((vec(event(), 1..120), vec(any::<bool>(), 1..64)), 1..4),
    ) {
        let mut world = World::new();
        for (events, luck) in lives {
            events.iter().for_each(|event| world.happens(event));
            world.cut(&luck);
        }
    }

    #[test]
    fn whatever_is_at_work_at_once_all_of_it_is_done_and_what_is_read_is_what_was_written_last(
        events in vec(event(), 1..200),
    ) {
        let mut world = World::new();
        events.iter().for_each(|event| world.happens(event));
        world.settle();
        world.begin(Wish::Flush);
        world.settle();
        // Of what has been flushed nothing depends on luck.
        world.cut(&[false]);
        for (number, sector) in world.sectors.iter().enumerate() {
            prop_assert_eq!(sector.values.len(), 1, "sector {}", number);
        }
    }
}
