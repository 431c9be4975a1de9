//! The card as the transport sees it.

use std::{io, sync::Arc, time::Duration};

use sublet_vmm_protocol::MacAddress;
use thiserror::Error;
use vhost::{VhostBackend, vhost_kern::net::Net};

use super::{
    config::{self, CONFIG_BYTES, IDENTITY, QUEUE_SIZE, QUEUES},
    queue,
};
use crate::{
    devices::virtio::{ActivateError, Activation, DeviceIdentity, QueueSlot, VirtioDevice},
    memory::GuestMemory,
    tap::Tap,
};

#[derive(Debug, Error)]
pub enum NetError {
    #[error("cannot set up the kernel's side of the network card: {what}")]
    SetUp { what: &'static str, source: vhost::Error },
    #[error("cannot make an event descriptor for the network card")]
    Event(#[source] io::Error),
}

/// The kernel's side of a card: `/dev/vhost-net`, open.
pub type KernelNet = Net<Arc<GuestMemory>>;

/// The guest's network card.
pub struct NetCard {
    kernel: KernelNet,
    tap: Tap,
    memory: Arc<GuestMemory>,
    features: u64,
    config: [u8; CONFIG_BYTES],
    queues: Vec<QueueSlot>,
    /// What the TAP interface was told last; nothing yet by this process.
    offloads: Option<u32>,
    is_running: bool,
}

impl NetCard {
    /// The kernel's own thread runs where the calling thread may run, and as its user.
    pub fn new(
        kernel: KernelNet,
        tap: Tap,
        mac: MacAddress,
        memory: Arc<GuestMemory>,
    ) -> Result<Self, NetError> {
        let set_up = |what| move |source| NetError::SetUp { what, source };
        kernel.set_owner().map_err(set_up("owner"))?;
        let offered = kernel.get_features().map_err(set_up("features"))?;
        let queues = (0..QUEUES).map(|_| QueueSlot::new(QUEUE_SIZE)).collect::<Result<_, _>>();
        Ok(Self {
            config: config::config(mac, tap.mtu()),
            kernel,
            tap,
            memory,
            features: config::features(offered),
            queues: queues.map_err(NetError::Event)?,
            offloads: None,
            is_running: false,
        })
    }

    /// The interface's lock is the whole host's, so it is not asked without need.
    fn set_offloads(&mut self, offloads: u32) -> Result<(), ActivateError> {
        if self.offloads != Some(offloads) {
            self.tap.set_offloads(offloads).map_err(ActivateError::Offloads)?;
            self.offloads = Some(offloads);
        }
        Ok(())
    }
}

impl VirtioDevice for NetCard {
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

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.set_offloads(config::offloads(activation.features))?;
        queue::serve(&self.kernel, &self.tap, &self.memory, &activation, &self.queues)?;
        self.is_running = true;
        Ok(())
    }

    fn reset(&mut self, _patience: Duration) -> bool {
        self.is_running = self.is_running && !queue::stop(&self.kernel);
        !self.is_running
    }
}
