use std::{fs, ops::Range, path::Path};

use proptest::{collection::vec, prelude::*};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sublet_vmm_protocol::DiskConfig;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::{block::buffers::Segment, memory::GuestMemory};

const MIB: usize = 1 << 20;

struct Place {
    _directory: tempfile::TempDir,
    disk: Arc<Disk>,
    memory: Arc<GuestMemory>,
}

fn place(bytes: usize, read_only: bool) -> Place {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    fs::write(&path, vec![7; bytes]).unwrap();
    let disk = Disk::open(&DiskConfig { read_only, ..DiskConfig::new(&path) }, &[]).unwrap();
    let ranges = [(GuestAddress(0), MIB), (GuestAddress(MIB as u64), MIB)];
    let memory = Arc::new(GuestMemory::from_ranges(&ranges).unwrap());
    Place { _directory: directory, disk: Arc::new(disk), memory }
}

impl Place {
    fn content(&self) -> Vec<u8> {
        fs::read(self._directory.path().join("disk")).unwrap()
    }

    fn path(&self) -> &Path {
        self._directory.path()
    }
}

/// Both engines; only the blocking one on a host without io_uring.
fn engines(disk: &Arc<Disk>) -> Vec<Engine> {
    let (engine, which) = Engine::new(disk);
    match which {
        DiskEngine::IoUring => vec![engine, Engine::blocking()],
        DiskEngine::Blocking { reason } => {
            eprintln!("only the blocking engine is tested: {reason}");
            vec![engine]
        }
    }
}

fn segment(address: usize, length: usize) -> Segment {
    Segment { address: GuestAddress(address as u64), length: length as u32 }
}

fn one(start: u64, end: u64) -> Vec<Range<u64>> {
    std::iter::once(start..end).collect()
}

/// Submits and waits for the next piece of work that is over.
fn next(engine: &mut Engine) -> Finished {
    loop {
        engine.submit().unwrap();
        if let Some(finished) = engine.next_finished() {
            return finished;
        }
        engine.submit().unwrap();
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        let event = engine.event().unwrap();
        match poll(&mut [PollFd::from_borrowed_fd(event, PollFlags::IN)], Some(&limit)) {
            Ok(0) => panic!("nothing ever came back"),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn run(engine: &mut Engine, io: Io) -> io::Result<()> {
    engine.start(0, io);
    let finished = next(engine);
    assert_eq!(finished.number, 0);
    finished.result
}

#[test]
fn bytes_go_both_ways_in_pieces_and_across_regions() {
    let place = place(4096, false);
    for mut engine in engines(&place.disk) {
        let data: Vec<u8> = (0..1024u32).map(|at| at as u8).collect();
        let at = MIB - 512;
        place.memory.write_slice(&data, GuestAddress(at as u64)).unwrap();
        let from = [segment(at, 100), segment(at + 100, 924)];
        run(&mut engine, Io::write(&place.disk, &place.memory, &from, 512).unwrap()).unwrap();
        assert_eq!(place.content()[512..1536], data);
        let into = [segment(0x100, 512), segment(MIB - 256, 512)];
        run(&mut engine, Io::read(&place.disk, &place.memory, &into, 512).unwrap()).unwrap();
        let mut back = vec![0; 512];
        place.memory.read_slice(&mut back, GuestAddress(MIB as u64 - 256)).unwrap();
        assert_eq!(back, data[512..]);
    }
}

#[test]
fn work_beyond_the_end_or_on_a_read_only_disk_is_refused_before_it_starts() {
    let writable = place(1000, false);
    for offset in [512, 1, u64::MAX - 10] {
        assert!(Io::write(&writable.disk, &writable.memory, &[segment(0, 512)], offset).is_err(), "{offset}");
        assert!(Io::zero(&writable.disk, one(offset, offset.saturating_add(512))).is_err(), "{offset}");
    }
    assert!(Io::zero(&writable.disk, one(512, 0)).is_err());
    let read_only = place(1024, true);
    assert!(Io::write(&read_only.disk, &read_only.memory, &[segment(0, 512)], 0).is_err());
    assert!(Io::zero(&read_only.disk, one(0, 512)).is_err());
    assert_eq!(writable.content(), vec![7; 1000]);
    assert_eq!(read_only.content(), vec![7; 1024]);
}

#[test]
fn a_disk_whose_file_was_cut_short_fails_and_does_not_hang() {
    let place = place(4096, false);
    fs::File::options().write(true).open(place.path().join("disk")).unwrap().set_len(512).unwrap();
    for mut engine in engines(&place.disk) {
        let read = Io::read(&place.disk, &place.memory, &[segment(0, 1024)], 0).unwrap();
        assert_eq!(run(&mut engine, read).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn what_is_zeroed_reads_as_zeroes_and_stays_allocated() {
    use std::os::unix::fs::MetadataExt;
    for lacks_zeroing in [false, true] {
        let place = place(8 * MIB, false);
        if lacks_zeroing {
            place.disk.learn_that_it_lacks_zeroing();
        }
        for mut engine in engines(&place.disk) {
            fs::write(place.path().join("disk"), vec![7; 8 * MIB]).unwrap();
            let (first, second) = (512..1024, 4096..7 * MIB as u64);
            let io = Io::zero(&place.disk, vec![first, second, 0..0]).unwrap().and_flush();
            run(&mut engine, io).unwrap();
            let content = place.content();
            let wanted = |at: usize| !((512..1024).contains(&at) || (4096..7 * MIB).contains(&at));
            assert!(content.iter().enumerate().all(|(at, byte)| (*byte == 7) == wanted(at)));
            let metadata = fs::metadata(place.path().join("disk")).unwrap();
            assert!(metadata.blocks() * 512 >= 8 * MIB as u64, "{}", metadata.blocks());
        }
    }
}

#[test]
fn an_engine_that_goes_first_finishes_what_it_has_in_hand() {
    let place = place(2 * MIB, false);
    for mut engine in engines(&place.disk) {
        place.memory.write_slice(&vec![9; MIB], GuestAddress(0)).unwrap();
        for number in 0..DEPTH {
            let (offset, from) = (number * 8192, [segment(number * 8192, 8192)]);
            engine.start(number, Io::write(&place.disk, &place.memory, &from, offset as u64).unwrap());
        }
        drop(engine);
        assert_eq!(Arc::strong_count(&place.memory), 1, "something still holds the guest's memory");
        assert!(place.content()[..MIB].iter().all(|byte| *byte == 9));
        fs::write(place.path().join("disk"), vec![7; 2 * MIB]).unwrap();
    }
}

#[test]
fn work_that_is_cancelled_ends_with_the_step_that_it_is_at() {
    let place = place(4096, false);
    let mut engine = engines(&place.disk).remove(0);
    let ranges = || (0..8).map(|number| number * 512..(number + 1) * 512).collect();
    if engine.event().is_none() {
        return eprintln!("not tested: this host has no io_uring");
    }
    engine.cancel(true);
    let ended = run(&mut engine, Io::zero(&place.disk, ranges()).unwrap());
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::Interrupted);
    engine.cancel(false);
    run(&mut engine, Io::zero(&place.disk, ranges()).unwrap()).unwrap();
    assert_eq!(place.content(), vec![0; 4096]);
}

#[test]
fn a_flush_is_work_like_any_other() {
    let place = place(4096, false);
    for mut engine in engines(&place.disk) {
        run(&mut engine, Io::flush(&place.disk)).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn as_much_at_once_as_it_takes_all_comes_back_once(sectors in vec((0usize..64, any::<bool>()), 1..DEPTH)) {
        let place = place(64 * 512, false);
        for mut engine in engines(&place.disk) {
            for (number, (sector, writes)) in sectors.iter().enumerate() {
                let (offset, segments) = (*sector as u64 * 512, [segment(number * 512, 512)]);
                let io = match writes {
                    true => Io::write(&place.disk, &place.memory, &segments, offset),
                    false => Io::read(&place.disk, &place.memory, &segments, offset),
                };
                engine.start(number, io.unwrap());
            }
            let mut back: Vec<_> = (0..sectors.len()).map(|_| next(&mut engine)).collect();
            back.sort_by_key(|finished| finished.number);
            for (number, finished) in back.into_iter().enumerate() {
                prop_assert_eq!(finished.number, number);
                prop_assert!(finished.result.is_ok());
            }
            prop_assert!(engine.next_finished().is_none());
        }
    }
}
