//! virtio-vsock (virtio 1.2, 5.10) served by the host's kernel (vhost-vsock): this process only configures it.

use std::{io, sync::Arc};

use thiserror::Error;
use vhost::{
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData, vhost_kern::vsock::Vsock as KernelVsock,
    vsock::VhostVsock,
};
use virtio_queue::QueueT;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use super::{
    ActivateError, Activation, ActiveQueue, COMMON_FEATURES, DeviceIdentity, QueueSlot, VirtioDevice,
};
use crate::memory::GuestMemory;

const DEVICE_TYPE: u16 = 19;
const QUEUE_SIZE: u16 = 256;
/// Receive, transmit, event; the kernel serves the first two, and events tell of migrations, which there are none.
const QUEUES: usize = 3;
const KERNEL_QUEUES: usize = 2;
/// PCI class: communication controller, other.
const CLASS: u32 = 0x07_80_00;
/// VIRTIO_VSOCK_F_SEQPACKET.
const SEQPACKET: u64 = 1 << 1;

#[derive(Debug, Error)]
pub enum VsockError {
    #[error("cannot open /dev/vhost-vsock; it must exist and this user must be allowed to read and write it")]
    Open(#[source] vhost::Error),
    #[error("cannot set up the kernel's vsock: {what}")]
    SetUp { what: &'static str, source: vhost::Error },
    #[error("cannot take context id {cid}; another machine on this host may have it")]
    ContextId { cid: u32, source: vhost::Error },
    #[error("cannot make an event descriptor for vsock")]
    Event(#[source] io::Error),
}

/// The guest's vsock card.
pub struct Vsock {
    kernel: KernelVsock<Arc<GuestMemory>>,
    memory: Arc<GuestMemory>,
    features: u64,
    config: [u8; 8],
    queues: Vec<QueueSlot>,
    is_running: bool,
}

impl Vsock {
    /// Opens the kernel's vsock and takes the context id, for as long as this process lives. The kernel's own
    /// thread runs where the calling thread may run.
    pub fn new(cid: u32, memory: Arc<GuestMemory>) -> Result<Self, VsockError> {
        let set_up = |what| move |source| VsockError::SetUp { what, source };
        let kernel = KernelVsock::new(memory.clone()).map_err(VsockError::Open)?;
        kernel.set_owner().map_err(set_up("owner"))?;
        let offered = kernel.get_features().map_err(set_up("features"))?;
        kernel.set_guest_cid(u64::from(cid)).map_err(|source| VsockError::ContextId { cid, source })?;
        let queues = (0..QUEUES).map(|_| QueueSlot::new(QUEUE_SIZE)).collect::<Result<_, _>>();
        Ok(Self {
            kernel,
            memory,
            features: offered & (COMMON_FEATURES | SEQPACKET),
            config: u64::from(cid).to_le_bytes(),
            queues: queues.map_err(VsockError::Event)?,
            is_running: false,
        })
    }

    fn share_memory(&self) -> Result<(), vhost::Error> {
        let describe = |region: &GuestRegionMmap| VhostUserMemoryRegionInfo {
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            ..Default::default()
        };
        let regions: Vec<_> = self.memory.iter().map(describe).collect();
        self.kernel.set_mem_table(&regions).map(|_| ())
    }

    fn share_queue(&self, index: usize, active: &ActiveQueue) -> Result<(), vhost::Error> {
        let queue = &active.queue;
        let rings = VringConfigData {
            queue_max_size: queue.max_size(),
            queue_size: queue.size(),
            flags: 0,
            desc_table_addr: queue.desc_table(),
            used_ring_addr: queue.used_ring(),
            avail_ring_addr: queue.avail_ring(),
            log_addr: None,
        };
        self.kernel.set_vring_num(index, queue.size())?;
        self.kernel.set_vring_addr(index, &rings)?;
        self.kernel.set_vring_base(index, 0)?;
        if let Some(call) = &active.call {
            self.kernel.set_vring_call(index, call)?;
        }
        match self.queues.get(index) {
            Some(slot) => self.kernel.set_vring_kick(index, &slot.kick),
            None => Ok(()),
        }
    }
}

impl VirtioDevice for Vsock {
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
        let vhost = |what| move |source| ActivateError::Vhost { what, source };
        self.kernel.set_features(activation.features).map_err(vhost("its features"))?;
        self.share_memory().map_err(vhost("the guest's memory"))?;
        for (index, queue) in activation.queues.iter().take(KERNEL_QUEUES).enumerate() {
            let queue = queue.as_ref().ok_or(ActivateError::MissingQueue(index))?;
            self.share_queue(index, queue).map_err(vhost("a queue"))?;
        }
        self.kernel.start().map_err(vhost("the word to start"))?;
        self.is_running = true;
        Ok(())
    }

    fn reset(&mut self) {
        if self.is_running {
            // Refused only while it does not run.
            let _ = self.kernel.stop();
            self.is_running = false;
        }
    }
}
