//! What the kernel is told of memory and queues, so that it can serve them.

use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::QueueT;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::{devices::virtio::ActiveQueue, memory::GuestMemory};

pub fn share_memory(kernel: &impl VhostBackend, memory: &GuestMemory) -> Result<(), vhost::Error> {
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
pub fn share_queue(
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
