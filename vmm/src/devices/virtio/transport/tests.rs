use std::sync::Mutex;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    devices::virtio::{COMMON_FEATURES, DeviceIdentity, QueueSlot},
    pci::msix::tests::remembered,
};

/// A device that counts what is asked of it.
struct Counting {
    queues: Vec<QueueSlot>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default, Debug, PartialEq, Eq, Clone)]
struct Seen {
    activations: usize,
    resets: usize,
    /// Something of its driver's is in hand.
    is_busy: bool,
    queue_sizes: Vec<Option<u16>>,
}

impl VirtioDevice for Counting {
    fn identity(&self) -> DeviceIdentity {
        DeviceIdentity { device_type: 2, class: 0x01_80_00 }
    }

    fn features(&self) -> u64 {
        COMMON_FEATURES
    }

    fn queues(&self) -> &[QueueSlot] {
        &self.queues
    }

    fn config(&self) -> &[u8] {
        b"configuration"
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut seen = self.seen.lock().unwrap();
        seen.activations += 1;
        seen.queue_sizes =
            activation.queues.iter().map(|queue| queue.as_ref().map(|active| active.queue.size())).collect();
        Ok(())
    }

    fn reset(&mut self, _patience: Duration) -> bool {
        let mut seen = self.seen.lock().unwrap();
        seen.resets += 1;
        !seen.is_busy
    }
}

fn transport() -> (Transport, Arc<Mutex<Seen>>, EventFd) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let slot = || QueueSlot { max_size: 256, kick: EventFd::new(libc::EFD_NONBLOCK).unwrap() };
    let queues = vec![slot(), slot()];
    let kick = queues[1].kick.try_clone().unwrap();
    let device = Box::new(Counting { queues, seen: seen.clone() });
    let msix = Msix::new((0..3).map(|_| remembered().0).collect());
    let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap());
    (Transport::with_msix(device, 3, msix, memory), seen, kick)
}

fn set(transport: &mut Transport, register: u64, value: &[u8]) {
    transport.write_registers(COMMON_START + register, value);
}

fn status(transport: &mut Transport) -> u8 {
    let mut data = [0xff];
    transport.read_registers(COMMON_START + 0x14, &mut data);
    data[0]
}

/// A driver that uses queue 0 with its rings at these addresses.
fn drive(transport: &mut Transport, desc: u32, avail: u32, used: u32) {
    for status in [1, 3] {
        set(transport, 0x14, &[status]);
    }
    for (select, features) in [(0u32, 0u32), (1, 1)] {
        set(transport, 0x08, &select.to_le_bytes());
        set(transport, 0x0c, &features.to_le_bytes());
    }
    set(transport, 0x14, &[0xb]);
    for (register, address) in [(0x20, desc), (0x28, avail), (0x30, used)] {
        set(transport, register, &address.to_le_bytes());
    }
    set(transport, 0x1c, &1u16.to_le_bytes());
    set(transport, 0x14, &[0xf]);
}

/// The kinds of virtio's capabilities, with where each points to.
fn capabilities(transport: &mut Transport) -> Vec<(u8, u32)> {
    let mut found = vec![];
    let mut at = [0];
    transport.read_config(0x34, &mut at);
    while at[0] != 0 {
        let mut head = [0; 12];
        transport.read_config(at[0] as usize, &mut head);
        if head[0] == CAPABILITY_ID {
            found.push((head[3], u32::from_le_bytes(head[8..12].try_into().unwrap())));
        }
        at = [head[1]];
    }
    found
}

#[test]
fn a_driver_finds_everything_by_the_capabilities() {
    let (mut transport, ..) = transport();
    let expected = [(1, 0), (3, 0x1000), (4, 0x2000), (2, 0x3000), (5, 0)];
    assert_eq!(capabilities(&mut transport), expected);
}

#[test]
fn a_device_is_started_with_the_queues_that_were_enabled() {
    let (mut transport, seen, _) = transport();
    drive(&mut transport, 0x1000, 0x3000, 0x4000);
    assert_eq!(seen.lock().unwrap().queue_sizes, [Some(256), None]);
    assert_eq!(status(&mut transport), 0xf);
}

#[test]
fn rings_that_are_not_in_memory_start_nothing_and_the_driver_is_told() {
    for (desc, avail, used) in [
        (0x2_0000, 0x3000, 0x4000),
        (0x1000, 0xffff, 0x4000),
        (0x1000, 0x3000, 0xfff0),
        (0x1001, 0x3000, 0x4000),
        (0x1000, 0, 0x4000),
    ] {
        let (mut transport, seen, _) = transport();
        drive(&mut transport, desc, avail, used);
        assert_eq!(seen.lock().unwrap().activations, 0);
        assert_eq!(status(&mut transport) & 0x40, 0x40, "{desc:#x} {avail:#x} {used:#x}");
    }
}

#[test]
fn a_reset_makes_a_device_that_can_be_started_again() {
    let (mut transport, seen, _) = transport();
    drive(&mut transport, 0x2_0000, 0x3000, 0x4000);
    set(&mut transport, 0x14, &[0]);
    assert_eq!(status(&mut transport), 0);
    drive(&mut transport, 0x1000, 0x3000, 0x4000);
    let seen = seen.lock().unwrap();
    assert_eq!((seen.activations, seen.resets), (1, 1));
}

#[test]
fn a_device_that_takes_long_to_reset_reads_as_reset_only_when_it_is_and_is_not_started_before() {
    let (mut transport, seen, _) = transport();
    drive(&mut transport, 0x1000, 0x3000, 0x4000);
    seen.lock().unwrap().is_busy = true;
    set(&mut transport, 0x14, &[0]);
    assert_ne!(status(&mut transport), 0);
    drive(&mut transport, 0x1000, 0x3000, 0x4000);
    assert_eq!(seen.lock().unwrap().activations, 1);
    seen.lock().unwrap().is_busy = false;
    assert_eq!(status(&mut transport), 0);
    drive(&mut transport, 0x1000, 0x3000, 0x4000);
    assert_eq!(seen.lock().unwrap().activations, 2);
}

#[test]
fn each_queue_has_its_own_notification() {
    let (mut transport, _, kick) = transport();
    transport.write_registers(NOTIFY_START, &[0, 0]);
    assert!(kick.read().is_err());
    transport.write_registers(NOTIFY_START + u64::from(NOTIFY_STEP), &[1, 0]);
    assert_eq!(kick.read().unwrap(), 1);
}

#[test]
fn registers_can_be_read_through_configuration_space() {
    let (mut transport, ..) = transport();
    let at = transport.access_capability;
    transport.write_config(at + ACCESS_OFFSET, &0x2000_u32.to_le_bytes());
    transport.write_config(at + ACCESS_LENGTH, &4u32.to_le_bytes());
    let mut data = [0; 4];
    transport.read_config(at + ACCESS_DATA, &mut data);
    assert_eq!(&data, b"conf");
}

#[test]
fn beyond_the_devices_configuration_there_are_all_ones() {
    let (mut transport, ..) = transport();
    let mut data = [0; 4];
    transport.read_registers(DEVICE_START + 11, &mut data);
    assert_eq!(data, [b'o', b'n', 0xff, 0xff]);
}

proptest! {
    #[test]
    fn no_access_breaks_it(
        accesses in vec((0u64..layout::PCI_BAR_SIZE, 0usize..4088, vec(any::<u8>(), 0..9)), 0..80),
    ) {
        let (mut transport, ..) = transport();
        drive(&mut transport, 0x1000, 0x3000, 0x4000);
        for (offset, config_offset, mut data) in accesses {
            transport.write_registers(offset, &data);
            transport.write_config(config_offset % 256, &data);
            transport.read_registers(offset, &mut data);
            transport.read_config(config_offset, &mut data);
        }
    }
}
