//! The disk as the transport sees it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sublet_vmm_protocol::{DiskEngine, DiskLimits, DiskStatus};
use thiserror::Error;

use super::{
    config::{self, CONFIG_BYTES, IDENTITY, QUEUE_SIZE},
    queue::Server,
};
use crate::{
    block::{disk::Disk, engine::Engine, layer::Layer},
    devices::virtio::{ActivateError, Activation, DeviceIdentity, QueueSlot, VirtioDevice, worker::Worker},
    memory::GuestMemory,
    sandbox::DiskFilters,
    threads::{Made, SpawnError},
};

#[derive(Debug, Error)]
pub enum BlockError {
    #[error("cannot make an event descriptor for a disk")]
    Event(#[source] io::Error),
    #[error("cannot give a disk its thread")]
    Thread(#[source] SpawnError),
}

/// How a disk is given to the guest.
#[derive(Debug, Clone)]
pub struct BlockOptions {
    /// Names the disk's thread.
    pub number: usize,
    /// What the guest reads as the disk's serial number.
    pub serial: String,
    pub queues: u16,
    pub limits: DiskLimits,
}

/// A disk as the guest sees it.
pub struct Block {
    features: u64,
    config: [u8; CONFIG_BYTES],
    queues: Vec<QueueSlot>,
    worker: Worker,
    service: DiskService,
}

/// How a disk is served, from outside.
#[derive(Debug, Clone)]
pub struct DiskService {
    queues: u16,
    engine: DiskEngine,
    held_up_ns: Arc<AtomicU64>,
    disk: Arc<Disk>,
}

impl DiskService {
    /// What makes the disk another than its file.
    pub fn layer(&self) -> Option<&Layer> {
        self.disk.layer()
    }

    pub fn status(&self) -> DiskStatus {
        let throttled_ns = self.held_up_ns.load(Ordering::Relaxed);
        DiskStatus { queues: self.queues, engine: self.engine.clone(), throttled_ns }
    }
}

impl Block {
    /// Makes the device and its thread, which runs where the calling thread may run, makes the engine and then keeps to
    /// that engine's list of system calls.
    pub fn new(
        disk: Arc<Disk>,
        options: &BlockOptions,
        memory: Arc<GuestMemory>,
        filters: DiskFilters,
    ) -> Result<Self, BlockError> {
        Self::with_engine(disk, options, memory, filters, Engine::new)
    }

    pub(super) fn with_engine(
        disk: Arc<Disk>,
        options: &BlockOptions,
        memory: Arc<GuestMemory>,
        filters: DiskFilters,
        engine: fn(&Arc<Disk>) -> (Engine, DiskEngine),
    ) -> Result<Self, BlockError> {
        let queues = (0..options.queues).map(|_| QueueSlot::new(QUEUE_SIZE)).collect::<Result<Vec<_>, _>>();
        let queues = queues.map_err(BlockError::Event)?;
        let (features, config) = (config::features(&disk), config::config(&disk, options.queues));
        let (serial, limits) = (options.serial.clone(), options.limits);
        let served = disk.clone();
        let make = move || {
            let (engine, which) = engine(&served);
            let filter = filters.of(&which).clone();
            let server = Server::new(served, engine, serial, limits, memory);
            let told = (which, server.held_up_ns());
            Made { own: server, filter, told }
        };
        let (worker, (engine, held_up_ns)) =
            Worker::spawn(format!("blk-{}", options.number), &queues, make).map_err(BlockError::Thread)?;
        let service = DiskService { queues: options.queues, engine, held_up_ns, disk };
        Ok(Self { features, config, queues, worker, service })
    }

    /// How the disk is served.
    pub fn service(&self) -> &DiskService {
        &self.service
    }
}

impl VirtioDevice for Block {
    fn identity(&self) -> DeviceIdentity {
        IDENTITY
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

    /// A driver may leave out queues, but not all.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if activation.queues.iter().all(Option::is_none) {
            return Err(ActivateError::MissingQueue(0));
        }
        self.worker.start(activation)
    }

    fn reset(&mut self, patience: Duration) -> bool {
        self.worker.stop(patience)
    }
}
