//! The source as the transport sees it.

use std::{io, sync::Arc, time::Duration};

use sublet_vmm_protocol::RngConfig;
use thiserror::Error;

use super::{
    config::{FEATURES, IDENTITY, QUEUE_SIZE},
    queue::Server,
};
use crate::{
    devices::virtio::{ActivateError, Activation, DeviceIdentity, QueueSlot, VirtioDevice, worker::Worker},
    memory::GuestMemory,
    sandbox::seccomp::Filter,
    threads::{Made, SpawnError},
};

#[derive(Debug, Error)]
pub enum RngError {
    #[error("cannot make an event descriptor for the source of random bytes")]
    Event(#[source] io::Error),
    #[error("cannot give the source of random bytes its thread")]
    Thread(#[source] SpawnError),
}

/// A source of random bytes as the guest sees it.
pub struct Rng {
    queues: [QueueSlot; 1],
    worker: Worker,
}

impl Rng {
    /// Makes the device and its thread, which runs where the calling thread may run; `filter` is what it may call.
    pub fn new(config: RngConfig, memory: Arc<GuestMemory>, filter: Filter) -> Result<Self, RngError> {
        let queues = [QueueSlot::new(QUEUE_SIZE).map_err(RngError::Event)?];
        let make = move || Made { own: Server::new(config, memory), filter, told: () };
        let (worker, ()) = Worker::spawn("rng".into(), &queues, make).map_err(RngError::Thread)?;
        Ok(Self { queues, worker })
    }
}

impl VirtioDevice for Rng {
    fn identity(&self) -> DeviceIdentity {
        IDENTITY
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queues(&self) -> &[QueueSlot] {
        &self.queues
    }

    fn config(&self) -> &[u8] {
        &[]
    }

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
