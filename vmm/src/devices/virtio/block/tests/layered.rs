//! A layered disk behind its queues.

use std::path::Path;

use sublet_vmm_protocol::{DiskKey, LayerConfig, config::layered_file_bytes};

use super::*;
use crate::block::{buffers::Segment, io::Io};

impl Place {
    /// The same with these sectors under it, and none of its own yet.
    pub(super) fn layered() -> Self {
        let place = Self::new(true);
        let own = place.path.with_file_name("own");
        fs::write(&own, vec![0; layered_file_bytes(place.disk.bytes()) as usize]).unwrap();
        Self { disk: place.open_layered(&own), path: own, ..place }
    }

    /// This file as a layered disk over the place's first.
    fn open_layered(&self, own: &Path) -> Arc<Disk> {
        let base = self.path.with_file_name("disk");
        let layer = LayerConfig { bytes: self.disk.bytes(), key: DiskKey::new([7; 64]), base: Some(base) };
        Arc::new(Disk::open(&DiskConfig { layer: Some(layer), ..DiskConfig::new(own) }, &[]).unwrap())
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
