use proptest::{collection::vec, prelude::*};

use super::*;

const ACKNOWLEDGE_AND_DRIVER: u8 = 3;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

fn config() -> CommonConfig {
    CommonConfig::new(VERSION_1 | 1 << 9, [256, 64].into_iter(), 3)
}

fn read_16(config: &CommonConfig, offset: u64) -> u16 {
    let mut data = [0; 2];
    config.read(offset, &mut data);
    u16::from_le_bytes(data)
}

fn status(config: &CommonConfig) -> u8 {
    let mut data = [0];
    config.read(STATUS, &mut data);
    data[0]
}

fn accept(config: &mut CommonConfig, features: u64) {
    for select in [0, 1] {
        config.write(DRIVER_FEATURE_SELECT, &u32::to_le_bytes(select));
        config.write(DRIVER_FEATURE, &half(features, select).to_le_bytes());
    }
}

/// A driver that has done all it must but say DRIVER_OK.
fn negotiated() -> CommonConfig {
    let mut config = config();
    config.write(STATUS, &[ACKNOWLEDGE_AND_DRIVER]);
    accept(&mut config, VERSION_1);
    config.write(STATUS, &[ACKNOWLEDGE_AND_DRIVER | FEATURES_OK]);
    config
}

fn running() -> CommonConfig {
    let mut config = negotiated();
    assert_eq!(config.write(STATUS, &[ACKNOWLEDGE_AND_DRIVER | FEATURES_OK | DRIVER_OK]), Effect::Activate);
    config
}

#[test]
fn features_that_were_not_offered_are_not_agreed_to() {
    for features in [VERSION_1 | 1 << 5, 1 << 9] {
        let mut config = config();
        accept(&mut config, features);
        config.write(STATUS, &[ACKNOWLEDGE_AND_DRIVER | FEATURES_OK]);
        assert_eq!(status(&config) & FEATURES_OK, 0, "{features:#x}");
    }
}

#[test]
fn features_are_fixed_once_agreed_to() {
    let mut config = negotiated();
    accept(&mut config, VERSION_1 | 1 << 9);
    assert_eq!(config.accepted_features(), VERSION_1);
}

#[test]
fn a_driver_that_skips_the_features_is_never_ready() {
    let mut config = config();
    assert_eq!(config.write(STATUS, &[ACKNOWLEDGE_AND_DRIVER | DRIVER_OK]), Effect::None);
    assert_eq!(status(&config) & DRIVER_OK, 0);
}

#[test]
fn a_device_is_started_once() {
    let mut config = running();
    assert_eq!(config.write(STATUS, &[0xff]), Effect::None);
    assert_eq!(config.write(STATUS, &[DRIVER_OK]), Effect::None);
}

#[test]
fn queues_are_fixed_once_the_driver_is_ready() {
    let mut config = running();
    let before = config.queues().to_owned();
    config.write(QUEUE_SIZE, &8u16.to_le_bytes());
    config.write(QUEUE_DESC_LOW, &0x1000_u32.to_le_bytes());
    config.write(QUEUE_VECTOR, &1u16.to_le_bytes());
    config.write(QUEUE_ENABLE, &1u16.to_le_bytes());
    assert_eq!(config.queues(), before);
}

#[test]
fn a_queue_is_fixed_once_enabled() {
    let mut config = negotiated();
    config.write(QUEUE_ENABLE, &1u16.to_le_bytes());
    config.write(QUEUE_DESC_LOW, &0x1000_u32.to_le_bytes());
    config.write(QUEUE_ENABLE, &0u16.to_le_bytes());
    assert_eq!((config.queues()[0].desc, config.queues()[0].enabled), (0, true));
}

#[test]
fn sizes_that_are_no_queue_are_ignored() {
    let mut config = negotiated();
    for size in [0u16, 3, 512, 0x8000] {
        config.write(QUEUE_SIZE, &size.to_le_bytes());
        assert_eq!(read_16(&config, QUEUE_SIZE), 256, "{size}");
    }
    config.write(QUEUE_SIZE, &128u16.to_le_bytes());
    assert_eq!(read_16(&config, QUEUE_SIZE), 128);
}

#[test]
fn a_queue_that_does_not_exist_has_no_size() {
    let mut config = negotiated();
    config.write(QUEUE_SELECT, &2u16.to_le_bytes());
    assert_eq!(read_16(&config, QUEUE_SIZE), 0);
}

#[test]
fn a_vector_that_does_not_exist_is_no_vector() {
    let mut config = negotiated();
    config.write(QUEUE_VECTOR, &3u16.to_le_bytes());
    assert_eq!(read_16(&config, QUEUE_VECTOR), NO_VECTOR);
    config.write(QUEUE_VECTOR, &2u16.to_le_bytes());
    assert_eq!(read_16(&config, QUEUE_VECTOR), 2);
}

#[test]
fn registers_answer_only_in_their_own_size() {
    let config = config();
    let mut data = [0xff; 2];
    config.read(STATUS, &mut data);
    config.read(DEVICE_FEATURE, &mut data);
    assert_eq!(data, [0xff; 2]);
}

#[test]
fn after_a_reset_nothing_of_the_old_driver_is_left() {
    let fresh = config();
    let mut config = running();
    assert_eq!(config.write(STATUS, &[0]), Effect::Reset);
    config.reset();
    assert_eq!((status(&config), config.accepted_features()), (0, 0));
    assert_eq!(config.queues(), fresh.queues());
}

proptest! {
    #[test]
    fn no_sequence_of_writes_changes_a_running_queue(
        writes in vec((0u64..0x40, prop_oneof![vec(any::<u8>(), 1), vec(any::<u8>(), 2), vec(any::<u8>(), 4)]), 0..80),
    ) {
        let mut config = running();
        let before = (config.queues().to_owned(), config.accepted_features());
        for (offset, mut data) in writes {
            // A reset is the one thing that may; it is tested above.
            prop_assume!(config.write(offset, &data) != Effect::Reset);
            config.read(offset, &mut data);
        }
        prop_assert_eq!((config.queues().to_owned(), config.accepted_features()), before);
    }
}
