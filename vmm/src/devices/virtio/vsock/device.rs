//! The card as the transport sees it.

use std::{io, sync::Arc, time::Duration};

use thiserror::Error;
use vhost::{VhostBackend, vhost_kern::vsock::Vsock, vsock::VhostVsock};

use super::{
    config::{self, IDENTITY, QUEUE_SIZE, QUEUES},
    queue,
};
use crate::{
    devices::virtio::{ActivateError, Activation, DeviceIdentity, QueueSlot, VirtioDevice},
    memory::GuestMemory,
};

#[derive(Debug, Error)]
pub enum VsockError {
    #[error("cannot set up the kernel's vsock: {what}")]
    SetUp { what: &'static str, source: vhost::Error },
    #[error("cannot take context id {cid}; another machine on this host may have it")]
    ContextId { cid: u32, source: vhost::Error },
    #[error("cannot make an event descriptor for vsock")]
    Event(#[source] io::Error),
}

/// The kernel's side of a card: `/dev/vhost-vsock`, open.
pub type KernelVsock = Vsock<Arc<GuestMemory>>;

/// The guest's vsock card.
pub struct VsockCard {
    kernel: KernelVsock,
    memory: Arc<GuestMemory>,
    features: u64,
    config: [u8; 8],
    queues: Vec<QueueSlot>,
    is_running: bool,
}

impl VsockCard {
    /// Takes the context id, for as long as this process lives. The kernel's own thread runs where the calling thread
    /// may run, and as its user.
    pub fn new(kernel: KernelVsock, cid: u32, memory: Arc<GuestMemory>) -> Result<Self, VsockError> {
        let set_up = |what| move |source| VsockError::SetUp { what, source };
        kernel.set_owner().map_err(set_up("owner"))?;
        let offered = kernel.get_features().map_err(set_up("features"))?;
        kernel.set_guest_cid(u64::from(cid)).map_err(|source| VsockError::ContextId { cid, source })?;
        let queues = (0..QUEUES).map(|_| QueueSlot::new(QUEUE_SIZE)).collect::<Result<_, _>>();
        Ok(Self {
            kernel,
            memory,
            features: config::features(offered),
            config: config::config(cid),
            queues: queues.map_err(VsockError::Event)?,
            is_running: false,
        })
    }
}

impl VirtioDevice for VsockCard {
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
        queue::serve(&self.kernel, &self.memory, &activation, &self.queues)?;
        self.is_running = true;
        Ok(())
    }

    fn reset(&mut self, _patience: Duration) -> bool {
        if self.is_running {
            queue::stop(&self.kernel);
            self.is_running = false;
        }
        true
    }
}
