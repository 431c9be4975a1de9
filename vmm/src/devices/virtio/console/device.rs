//! The card as the transport sees it.

use std::{io, os::unix::net::UnixListener, sync::Arc, time::Duration};

use thiserror::Error;

use super::{
    config::{CONFIG, FEATURES, IDENTITY, QUEUE_SIZE, QUEUES},
    queue::Server,
};
use crate::{
    devices::virtio::{ActivateError, Activation, DeviceIdentity, QueueSlot, VirtioDevice, worker::Worker},
    memory::GuestMemory,
    sandbox::seccomp::Filter,
    threads::{Made, SpawnError},
};

#[derive(Debug, Error)]
pub enum PortError {
    #[error("cannot make an event descriptor for the port")]
    Event(#[source] io::Error),
    #[error("cannot wait for the port's socket")]
    Wait(#[source] io::Error),
    #[error("cannot give the port its thread")]
    Thread(#[source] SpawnError),
}

/// A card with one port.
pub struct PortCard {
    queues: Vec<QueueSlot>,
    worker: Worker,
}

impl PortCard {
    /// Makes the device and its thread, which runs where the calling thread may run; `filter` is what it may call.
    pub fn new(
        name: String,
        listener: UnixListener,
        memory: Arc<GuestMemory>,
        filter: Filter,
    ) -> Result<Self, PortError> {
        let queues = (0..QUEUES).map(|_| QueueSlot::new(QUEUE_SIZE)).collect::<io::Result<Vec<_>>>();
        let queues = queues.map_err(PortError::Event)?;
        let server = Server::new(name, listener, memory).map_err(PortError::Wait)?;
        let make = move || Made { own: server, filter, told: () };
        let (worker, ()) = Worker::spawn("port".into(), &queues, make).map_err(PortError::Thread)?;
        Ok(Self { queues, worker })
    }
}

impl VirtioDevice for PortCard {
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
        &CONFIG
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.worker.start(activation)
    }

    fn reset(&mut self, patience: Duration) -> bool {
        self.worker.stop(patience)
    }
}
