//! A layered disk behind its queues.

use std::{fs::File, os::unix::fs::FileExt, path::Path, thread};

use sublet_vmm_protocol::{
    BaseSource, DiskKey, LayerConfig,
    config::{layered_file_bytes, map_of_arrived_bytes},
};

use super::*;
use crate::block::{buffers::Segment, io::Io, layer::base::Base};

impl Place {
    /// The same with these sectors under it, and none of its own yet.
    pub(super) fn layered() -> Self {
        let place = Self::new(true);
        let own = place.path.with_file_name("own");
        fs::write(&own, vec![0; layered_file_bytes(place.disk.bytes()) as usize]).unwrap();
        Self { disk: place.open_layered(&own), path: own, ..place }
    }

    /// The same, and nothing of what lies under it has arrived; with the map that will say so.
    fn arriving() -> (Self, File) {
        let place = Self::layered();
        let map = tempfile::tempfile().unwrap();
        map.set_len(map_of_arrived_bytes(place.disk.bytes())).unwrap();
        let content = File::open(place.path.with_file_name("disk")).unwrap();
        let source = BaseSource { disk: 0, bytes: place.disk.bytes(), is_arriving: true };
        let base = Base::open(&source, content.into(), Some(map.try_clone().unwrap().into())).unwrap();
        let own = place.path.with_file_name("over");
        fs::copy(&place.path, &own).unwrap();
        (Self { disk: place.open_over(&own, base), path: own, ..place }, map)
    }

    /// This file as a layered disk over the place's first.
    fn open_layered(&self, own: &Path) -> Arc<Disk> {
        let base = File::open(self.path.with_file_name("disk")).unwrap();
        let source = BaseSource { disk: 0, bytes: self.disk.bytes(), is_arriving: false };
        self.open_over(own, Base::open(&source, base.into(), None).unwrap())
    }

    fn open_over(&self, own: &Path, base: Base) -> Arc<Disk> {
        let layer = LayerConfig { bytes: self.disk.bytes(), key: DiskKey::new([7; 64]) };
        let disk = Disk::open(&DiskConfig { layer: Some(layer), ..DiskConfig::new(own) }, &[]).unwrap();
        disk.layer().unwrap().put_over(base).unwrap();
        Arc::new(disk)
    }
}

/// What is read of a disk, by way of spare memory.
pub(super) fn content(disk: &Arc<Disk>, memory: &Arc<GuestMemory>) -> Vec<u8> {
    let mut content = vec![0; disk.bytes() as usize];
    let into = [Segment { address: GuestAddress(SPARE), length: content.len() as u32 }];
    let mut engine = Engine::blocking();
    engine.start(0, Io::read(disk, memory, &into, 0).unwrap());
    engine.next_finished().unwrap().result.unwrap();
    memory.read_slice(&mut content, GuestAddress(SPARE)).unwrap();
    content
}

#[test]
fn what_a_driver_has_written_and_not_flushed_is_found_again_after_it_has_let_go() {
    for engine in ENGINES {
        let mut driven = Driven::of(Place::layered(), engine);
        driven.place.memory.write_slice(&[9; 512], GuestAddress(DATA)).unwrap();
        let header = driven.header(WRITE_OUT, 5);
        driven.submit(&[header, Descriptor::new(DATA, 512, NEXT, 2), status_at(STATUS)]);
        assert_eq!(driven.status(), OK);
        assert!(driven.block.reset(PATIENCE));
        // As it stands there, in another machine's hands.
        let copy = driven.place.path.with_file_name("copy");
        fs::copy(&driven.place.path, &copy).unwrap();
        let found = driven.place.open_layered(&copy);
        assert_eq!(
            content(&found, &driven.place.memory)[4 * 512..7 * 512],
            [[4; 512], [9; 512], [6; 512]].concat()
        );
    }
}

/// Waits until something of what lies under the disk is wanted; what it is.
fn wait_until_wanted(disk: &Disk) -> Vec<u64> {
    let layer = disk.layer().unwrap();
    let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut watched = [PollFd::from_borrowed_fd(layer.wanted_event(), PollFlags::IN)];
    assert_eq!(poll(&mut watched, Some(&limit)).unwrap(), 1, "nothing is wanted");
    layer.acknowledge_wanted();
    layer.wanted().chunks
}

#[test]
fn a_request_waits_for_what_has_not_arrived_and_fails_where_it_will_not_and_is_served_when_it_has() {
    for engine in ENGINES {
        let (place, map) = Place::arriving();
        let disk = place.disk.clone();
        let supplier = thread::spawn(move || {
            let layer = disk.layer().unwrap();
            assert_eq!(wait_until_wanted(&disk), [0]);
            layer.arrived(&[0]);
            assert_eq!(wait_until_wanted(&disk), [0], "who wants it later waits again");
            map.write_all_at(&[1], 0).unwrap();
            layer.arrived(&[]);
        });
        let mut driven = Driven::of(place, engine);
        let data = Descriptor::new(DATA, 512, NEXT | WRITE, 2);
        for (status, read) in [(IO_ERROR, 0), (OK, 7)] {
            let header = driven.header(READ, 7);
            driven.submit(&[header, data, status_at(STATUS)]);
            assert_eq!((driven.status(), driven.data(512)), (status, vec![read; 512]));
            assert!(driven.block.reset(PATIENCE));
        }
        supplier.join().unwrap();
    }
}

#[test]
fn a_driver_that_resets_its_disk_waits_for_nothing_that_has_not_arrived() {
    for engine in ENGINES {
        let (place, _map) = Place::arriving();
        let mut driven = Driven::of(place, engine);
        let header = driven.header(READ, 0);
        let chain = [header, Descriptor::new(DATA, 512, NEXT | WRITE, 2), status_at(STATUS)];
        driven.place.describe(0, &(0..).zip(chain).collect::<Vec<_>>());
        driven.place.offer(1);
        driven.activate();
        assert_eq!(wait_until_wanted(&driven.place.disk), [0]);
        assert!(driven.block.reset(PATIENCE));
        assert_eq!(driven.place.disk.layer().unwrap().wanted().chunks, [0; 0], "it is wanted no more");
    }
}
