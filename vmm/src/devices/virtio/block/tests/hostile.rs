//! Whatever a driver puts into its memory, the device goes on, within its memory and its disk.

use super::*;

/// Serves queue 0 here and now until there is nothing left to do, or the queue is broken.
fn serve_all(place: &Place, engine: MakeEngine) {
    let mut server = place.server(engine, DiskLimits::default());
    let active = ActiveQueue { queue: queue(0), call: None };
    let mut session = Session { features: FEATURES, queues: vec![Some(active)] };
    let again = |_: &u32| matches!(server.serve(&mut session), Ok(Next::Now | Next::After(_)));
    let turns = (0..1000).take_while(again).count();
    assert!(turns < 1000, "it never came to an end");
    while !server.settle() {
        std::thread::yield_now();
    }
    let size = fs::metadata(&place.path).unwrap().len();
    assert_eq!(size, 64 * 512, "the disk has grown or shrunk");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_stands_in_the_ring_the_device_goes_on(
        ring in vec(any::<u8>(), 0x600),
        header in vec(any::<u8>(), 64),
        avail in 0u16..20,
        engine in 0usize..2,
    ) {
        let place = Place::new(false);
        place.memory.write_slice(&ring, GuestAddress(0)).unwrap();
        place.memory.write_slice(&header, GuestAddress(HEADER)).unwrap();
        place.write(AVAILABLE + 2, avail);
        serve_all(&place, ENGINES[engine]);
    }

    #[test]
    fn whatever_the_descriptors_say_the_device_goes_on(
        descriptors in vec((0u64..0x11_0000, 0u32..70_000, 0u16..8, 0u16..20), 16),
        kind in 0u32..14,
        sector in 0u64..70,
        ranges in vec(any::<u8>(), 128),
        engine in 0usize..2,
    ) {
        let place = Place::new(false);
        place.write(HEADER, kind);
        place.write(HEADER + 8, sector);
        place.memory.write_slice(&ranges, GuestAddress(HEADER + 16)).unwrap();
        let descriptors: Vec<_> = (0..)
            .zip(descriptors)
            .map(|(index, (address, length, flags, next))| {
                let address = if index == 0 { HEADER } else { address };
                (index, Descriptor::new(address, length, flags, next))
            })
            .collect();
        place.describe(0, &descriptors);
        place.offer(QUEUE);
        serve_all(&place, ENGINES[engine]);
    }
}

#[test]
fn a_head_that_is_no_descriptor_stops_the_device_and_nothing_else() {
    let mut driven = Driven::new(false);
    driven.place.offer(1);
    driven.place.write(AVAILABLE + 4, QUEUE);
    driven.failure = DeviceFailure::new(Some(driven.call.try_clone().unwrap()));
    driven.activate();
    driven.wait_for_call();
    assert!(driven.failure.is_told());
    assert!(driven.block.reset(PATIENCE));
}

#[test]
fn a_driver_that_resets_under_load_can_start_again_and_finds_its_memory_left_alone() {
    for engine in ENGINES {
        let mut driven = Driven::with_engine(false, engine);
        for round in 0..50u16 {
            let data = Descriptor::new(DATA, 512, NEXT | WRITE, 2);
            let chain = [driven.header(READ, 3), data, status_at(STATUS)];
            driven.place.describe(0, &[(0, chain[0]), (1, chain[1]), (2, chain[2])]);
            // The same chain over and over, more often than any honest driver.
            (0..QUEUE).for_each(|index| driven.place.write(AVAILABLE + 4 + 2 * u64::from(index), 0u16));
            driven.place.write(AVAILABLE + 2, 1 + round % QUEUE);
            driven.activate();
            assert!(driven.block.reset(PATIENCE));
            driven.place.memory.write_slice(&[UNTOUCHED; 512], GuestAddress(DATA)).unwrap();
            driven.place.write(USED + 2, 0u16);
            assert_eq!(driven.data(512), [UNTOUCHED; 512]);
        }
        // What the device had done before each reset.
        let _ = driven.call.read();
        let chain = [driven.header(READ, 3), Descriptor::new(DATA, 512, NEXT | WRITE, 2), status_at(STATUS)];
        assert_eq!(driven.submit(&chain), 513);
    }
}
