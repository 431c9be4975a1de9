//! virtio devices (virtio 1.2), modern PCI transport, MSI-X only.
//!
//! A device is what [`VirtioDevice`] says; the [`transport`] is the same for all: it negotiates features, collects
//! the queues' configuration and hands them over, once, when the driver is ready. A [`worker`] is a thread that serves
//! a device's queues; [`vhost`] is for devices whose queues the host's kernel serves.
//!
//! Each device's folder has the same files: `device` is what the transport sees, `config` what the driver reads of it,
//! `queue` what is done with what the driver offers.

pub mod block;
pub mod common_config;
pub mod net;
pub mod rng;
pub mod transport;
pub mod vhost;
pub mod vsock;
pub mod worker;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use thiserror::Error;
use virtio_bindings::{
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

/// Feature bits that every device here offers.
pub const COMMON_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// What a device does behind the transport.
pub trait VirtioDevice: Send {
    /// Device id (virtio 1.2, 5) and PCI class.
    fn identity(&self) -> DeviceIdentity;
    /// Feature bits offered to the driver.
    fn features(&self) -> u64;
    /// The queues, in order; their number never changes.
    fn queues(&self) -> &[QueueSlot];
    /// The device's configuration, which no driver writes.
    fn config(&self) -> &[u8];
    /// The driver is ready: starts serving. Queues that the driver left out are none.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;
    /// Stops serving, and waits for what is in hand, but no longer than `patience`. True: nothing of the guest's
    /// memory is touched any more. False: to be asked again.
    fn reset(&mut self, patience: Duration) -> bool;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceIdentity {
    pub device_type: u16,
    pub class: u32,
}

/// A queue as the device offers it.
#[derive(Debug)]
pub struct QueueSlot {
    pub max_size: u16,
    /// Written by KVM when the driver notifies the device.
    pub kick: EventFd,
}

/// What the driver chose.
pub struct Activation {
    pub features: u64,
    pub queues: Vec<Option<ActiveQueue>>,
    pub failure: DeviceFailure,
}

/// A queue as the driver configured it: checked against the guest's memory, and ours from now on.
pub struct ActiveQueue {
    pub queue: Queue,
    /// Raises the queue's interrupt; none if the driver only polls.
    pub call: Option<EventFd>,
}

/// How a device that cannot go on tells the driver (DEVICE_NEEDS_RESET; virtio 1.2, 2.1.1).
#[derive(Debug, Clone, Default)]
pub struct DeviceFailure {
    needs_reset: Arc<AtomicBool>,
    config_changed: Option<Arc<EventFd>>,
}

#[derive(Debug, Error)]
pub enum ActivateError {
    #[error("the driver left out queue {0}")]
    MissingQueue(usize),
    #[error("the device's thread has ended")]
    NoThread,
    #[error("cannot give the kernel's vhost device {what}")]
    Vhost { what: &'static str, source: ::vhost::Error },
    #[error("cannot tell the TAP interface what the driver does of its frames' work")]
    Offloads(#[source] io::Error),
}

impl DeviceFailure {
    pub fn new(config_changed: Option<EventFd>) -> Self {
        Self { needs_reset: Arc::default(), config_changed: config_changed.map(Arc::new) }
    }

    pub fn tell(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
        if let Some(event) = &self.config_changed {
            // Fails only when it is pending already.
            let _ = event.write(1);
        }
    }

    pub fn is_told(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }
}

impl QueueSlot {
    /// A queue whose notifications are read by a thread that waits for them.
    pub fn new(max_size: u16) -> io::Result<Self> {
        Ok(Self { max_size, kick: EventFd::new(libc::EFD_CLOEXEC)? })
    }
}
