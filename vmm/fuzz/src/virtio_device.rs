//! A virtio device that holds its transport to what it promises, and interrupts that go nowhere.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use sublet_vmm::{
    devices::virtio::{
        ActivateError, Activation, COMMON_FEATURES, DeviceFailure, DeviceIdentity, QueueSlot, VirtioDevice,
        transport::Transport,
    },
    interrupts::{InterruptError, Message, MessageLine},
    memory::GuestMemory,
    pci::msix::Msix,
};
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::EventFd;

use crate::guest::Guest;

pub const QUEUES: u16 = 2;
pub const MAX_SIZE: u16 = 16;
/// Offered beside what all devices offer.
pub const FEATURE: u64 = 1 << 5;
pub const FEATURES: u64 = COMMON_FEATURES | FEATURE;
pub const CONFIG: &[u8] = b"configuration";

/// What the device is told to do, and what it has been asked.
#[derive(Debug, Default)]
pub struct Seen {
    /// It has queues.
    pub is_active: bool,
    /// It does not let go of them yet when it is asked to.
    pub is_busy: bool,
    /// It has been asked to let go, and has not.
    pub is_resetting: bool,
    /// Interrupts cannot be connected.
    pub refuses_lines: bool,
    pub resets: usize,
    pub failure: Option<DeviceFailure>,
}

/// The device's other end.
#[derive(Clone, Default)]
pub struct Handle(Arc<Mutex<Seen>>);

impl Handle {
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }
}

/// The device behind a transport in `slot`, in this guest.
pub fn transport(slot: usize, guest: &Guest) -> (Transport, Handle) {
    let handle = Handle::default();
    let queues = (0..QUEUES).map(|_| QueueSlot { max_size: MAX_SIZE, kick: event() }).collect();
    let device = Box::new(Device { queues, memory_bytes: guest.bytes(), handle: handle.clone() });
    let line = || -> Box<dyn MessageLine> {
        Box::new(Line { event: event(), is_connected: false, handle: handle.clone() })
    };
    let msix = Msix::new((0..=QUEUES).map(|_| line()).collect());
    let memory: Arc<GuestMemory> = guest.memory.clone();
    (Transport::with_msix(device, slot, msix, memory), handle)
}

fn event() -> EventFd {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).unwrap()
}

struct Device {
    queues: Vec<QueueSlot>,
    memory_bytes: u64,
    handle: Handle,
}

impl Device {
    /// What virtio 1.2, 2.7 asks of a queue's parts.
    fn check(&self, queue: &impl QueueT) {
        let size = u64::from(queue.size());
        assert!(size.is_power_of_two() && queue.size() <= MAX_SIZE, "a queue of {size}");
        for (address, bytes, alignment) in [
            (queue.desc_table(), 16 * size, 16),
            (queue.avail_ring(), 6 + 2 * size, 2),
            (queue.used_ring(), 6 + 8 * size, 4),
        ] {
            assert!(address.is_multiple_of(alignment), "{address:#x} is misaligned");
            let end = address.checked_add(bytes).unwrap();
            assert!(end <= self.memory_bytes, "a ring ends at {end:#x}, outside of memory");
        }
    }
}

impl VirtioDevice for Device {
    fn identity(&self) -> DeviceIdentity {
        DeviceIdentity { device_type: 2, class: 0x01_80_00 }
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queues(&self) -> &[QueueSlot] {
        &self.queues
    }

    fn config(&self) -> &[u8] {
        CONFIG
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        assert_eq!(activation.queues.len(), self.queues.len());
        assert_eq!(activation.features & !FEATURES, 0, "features that were not offered");
        let queues = activation.queues.iter().flatten();
        queues.for_each(|active| self.check(&active.queue));
        let mut seen = self.handle.seen();
        assert!(!seen.is_active && !seen.is_resetting, "started before it was reset");
        if activation.queues.iter().all(Option::is_none) {
            return Err(ActivateError::MissingQueue(0));
        }
        seen.is_active = true;
        seen.failure = Some(activation.failure);
        Ok(())
    }

    fn reset(&mut self, _patience: Duration) -> bool {
        let mut seen = self.handle.seen();
        seen.is_resetting = seen.is_active && seen.is_busy;
        if !seen.is_resetting {
            seen.is_active = false;
            seen.failure = None;
            seen.resets += 1;
        }
        !seen.is_resetting
    }
}

struct Line {
    event: EventFd,
    is_connected: bool,
    handle: Handle,
}

impl Line {
    fn answer(&self) -> Result<(), InterruptError> {
        if self.handle.seen().refuses_lines { Err(InterruptError::TooMany) } else { Ok(()) }
    }
}

impl MessageLine for Line {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn connect(&mut self, _message: Message) -> Result<(), InterruptError> {
        self.answer()?;
        self.is_connected = true;
        Ok(())
    }

    fn disconnect(&mut self) -> Result<(), InterruptError> {
        self.answer()?;
        assert!(self.is_connected, "an interrupt is disconnected that never was connected");
        self.is_connected = false;
        Ok(())
    }
}
