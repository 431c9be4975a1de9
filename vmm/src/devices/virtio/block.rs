//! virtio-blk (virtio 1.2, 5.2): one queue, served by a thread of its own so that a slow disk holds up nothing else.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use thiserror::Error;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
};
use virtio_queue::{Error as QueueError, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::{
    ActivateError, Activation, ActiveQueue, COMMON_FEATURES, DeviceFailure, DeviceIdentity, QueueSlot,
    VirtioDevice,
};
use crate::{
    block::{
        SECTOR_SIZE,
        disk::Disk,
        request::{Request, SEGMENT_BYTES_LIMIT, SEGMENTS_LIMIT},
    },
    memory::GuestMemory,
    threads,
};

const DEVICE_TYPE: u16 = 2;
const QUEUE_SIZE: u16 = 256;
/// PCI class: mass storage, other.
const CLASS: u32 = 0x01_80_00;
/// Bytes of the configuration up to and with the block size (virtio 1.2, 5.2.4).
const CONFIG_BYTES: usize = 24;

#[derive(Debug, Error)]
pub enum BlockError {
    #[error("cannot make an event descriptor for a disk")]
    Event(#[source] io::Error),
    #[error("cannot start a disk's thread")]
    Thread(#[source] io::Error),
}

/// A disk as the guest sees it.
pub struct Block {
    features: u64,
    config: [u8; CONFIG_BYTES],
    queues: [QueueSlot; 1],
    shared: Arc<Shared>,
}

/// Between the device and its thread.
struct Shared {
    disk: Disk,
    id: String,
    memory: Arc<GuestMemory>,
    serving: Mutex<Option<Serving>>,
    /// The thread is to let go of the queue after the request that it is at.
    pausing: AtomicBool,
}

struct Serving {
    queue: ActiveQueue,
    failure: DeviceFailure,
}

impl Block {
    /// Makes the device and its thread, which runs where the calling thread may run. `id` is what the guest reads
    /// as the disk's serial number.
    pub fn new(disk: Disk, id: String, memory: Arc<GuestMemory>) -> Result<Self, BlockError> {
        let queues = [QueueSlot::new(QUEUE_SIZE).map_err(BlockError::Event)?];
        let kick = queues[0].kick.try_clone().map_err(BlockError::Event)?;
        let (features, config) = (features(&disk), config(&disk));
        let shared =
            Arc::new(Shared { disk, id, memory, serving: Mutex::default(), pausing: AtomicBool::new(false) });
        let (serves, broken) = (shared.clone(), shared.clone());
        threads::spawn(format!("blk-{}", shared.id), move || serves.run(&kick), move || broken.fail())
            .map_err(BlockError::Thread)?;
        Ok(Self { features, config, queues, shared })
    }
}

impl VirtioDevice for Block {
    fn identity(&self) -> DeviceIdentity {
        DeviceIdentity { device_type: DEVICE_TYPE, class: CLASS }
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queues(&self) -> &[QueueSlot] {
        &self.queues
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { queues, failure, .. } = activation;
        let queue = queues.into_iter().next().flatten().ok_or(ActivateError::MissingQueue(0))?;
        *self.shared.lock() = Some(Serving { queue, failure });
        // A driver may have notified before it was ready. Fails only when a notification is pending already.
        let _ = self.queues[0].kick.write(1);
        Ok(())
    }

    fn reset(&mut self) {
        self.shared.pausing.store(true, Ordering::SeqCst);
        *self.shared.lock() = None;
        self.shared.pausing.store(false, Ordering::SeqCst);
    }
}

impl Shared {
    /// Serves the queue whenever the driver notifies; for as long as the process lives.
    fn run(&self, kick: &EventFd) {
        let mut has_more = false;
        while has_more || kick.read().is_ok() {
            has_more = !self.pausing.load(Ordering::SeqCst) && self.serve_one();
        }
    }

    /// Serves one request, if there is one. The lock is held for one request only, so that a reset gets in.
    fn serve_one(&self) -> bool {
        let mut serving = self.lock();
        let Some(active) = serving.as_mut() else { return false };
        match self.serve(&mut active.queue) {
            Ok(served) => served,
            Err(_) => {
                // The rings themselves are broken; nothing more can be told through them.
                active.failure.tell();
                *serving = None;
                false
            }
        }
    }

    fn serve(&self, active: &mut ActiveQueue) -> Result<bool, QueueError> {
        let memory = &*self.memory;
        let queue = &mut active.queue;
        queue.disable_notification(memory)?;
        let Some(chain) = queue.iter(memory)?.next() else {
            // True if the driver has added something meanwhile and was not asked to notify.
            return queue.enable_notification(memory);
        };
        let head = chain.head_index();
        let written = match Request::parse(chain, memory) {
            Ok(request) => request.execute(&self.disk, &self.id, memory),
            Err(_) => 0,
        };
        queue.add_used(memory, head, written)?;
        if queue.needs_notification(memory)?
            && let Some(call) = &active.call
        {
            // Fails only when the interrupt is pending already.
            let _ = call.write(1);
        }
        Ok(true)
    }

    fn fail(&self) {
        if let Some(serving) = self.lock().take() {
            serving.failure.tell();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Serving>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn features(disk: &Disk) -> u64 {
    let read_only = if disk.is_read_only() { 1 << VIRTIO_BLK_F_RO } else { 0 };
    COMMON_FEATURES
        | read_only
        | 1 << VIRTIO_BLK_F_SIZE_MAX
        | 1 << VIRTIO_BLK_F_SEG_MAX
        | 1 << VIRTIO_BLK_F_BLK_SIZE
        | 1 << VIRTIO_BLK_F_FLUSH
}

/// Capacity, longest segment, most segments, no geometry, block size.
fn config(disk: &Disk) -> [u8; CONFIG_BYTES] {
    let mut config = [0; CONFIG_BYTES];
    config[0..8].copy_from_slice(&disk.sectors().to_le_bytes());
    config[8..12].copy_from_slice(&SEGMENT_BYTES_LIMIT.to_le_bytes());
    config[12..16].copy_from_slice(&(SEGMENTS_LIMIT as u32).to_le_bytes());
    config[20..24].copy_from_slice(&(SECTOR_SIZE as u32).to_le_bytes());
    config
}

#[cfg(test)]
mod tests;
