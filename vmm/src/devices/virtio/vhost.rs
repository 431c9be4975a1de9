//! What the host's kernel is told of a device whose queues it serves (vhost): features, the guest's memory, queues.

use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::QueueT;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};
use vmm_sys_util::eventfd::EventFd;

use super::{ActivateError, Activation, ActiveQueue, QueueSlot};
use crate::memory::GuestMemory;

/// Shares what the driver chose, but for the word to begin: `features` of those that it accepted, and as many of the
/// queues as there are `slots`, without one of which there is nothing to serve.
pub fn share(
    kernel: &impl VhostBackend,
    features: u64,
    memory: &GuestMemory,
    activation: &Activation,
    slots: &[QueueSlot],
) -> Result<(), ActivateError> {
    kernel.set_features(features).map_err(refused("its features"))?;
    share_memory(kernel, memory).map_err(refused("the guest's memory"))?;
    for (index, (active, slot)) in activation.queues.iter().zip(slots).enumerate() {
        let active = active.as_ref().ok_or(ActivateError::MissingQueue(index))?;
        share_queue(kernel, index, active, &slot.kick).map_err(refused("a queue"))?;
    }
    Ok(())
}

/// The error of a kernel that did not take `what`.
pub fn refused(what: &'static str) -> impl Fn(vhost::Error) -> ActivateError {
    move |source| ActivateError::Vhost { what, source }
}

fn share_memory(kernel: &impl VhostBackend, memory: &GuestMemory) -> Result<(), vhost::Error> {
    let describe = |region: &GuestRegionMmap| VhostUserMemoryRegionInfo {
        guest_phys_addr: region.start_addr().0,
        memory_size: region.len(),
        userspace_addr: region.as_ptr() as u64,
        ..Default::default()
    };
    let regions: Vec<_> = memory.iter().map(describe).collect();
    kernel.set_mem_table(&regions).map(|_| ())
}

/// Shares a queue; `kick` is what the driver notifies it with.
fn share_queue(
    kernel: &impl VhostBackend,
    index: usize,
    active: &ActiveQueue,
    kick: &EventFd,
) -> Result<(), vhost::Error> {
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
    kernel.set_vring_num(index, queue.size())?;
    kernel.set_vring_addr(index, &rings)?;
    kernel.set_vring_base(index, 0)?;
    if let Some(call) = &active.call {
        kernel.set_vring_call(index, call)?;
    }
    kernel.set_vring_kick(index, kick)
}
