//! The kernel serves the queues, for as long as it is told which TAP interface is behind them.

use vhost::net::VhostNet;

use super::{
    KernelNet,
    config::{QUEUES, of_queues},
};
use crate::{
    devices::virtio::{
        ActivateError, Activation, QueueSlot,
        vhost::{refused, share},
    },
    memory::GuestMemory,
    tap::Tap,
};

pub fn serve(
    kernel: &KernelNet,
    tap: &Tap,
    memory: &GuestMemory,
    activation: &Activation,
    slots: &[QueueSlot],
) -> Result<(), ActivateError> {
    share(kernel, of_queues(activation.features), memory, activation, slots)?;
    let attach = |queue| kernel.set_backend(queue, Some(tap.file())).map_err(refused("the TAP interface"));
    // Refuses none of queues that it has just taken.
    (0..QUEUES).try_for_each(attach).inspect_err(|_| _ = stop(kernel))
}

/// Whether the kernel has let go of the guest's memory: it waits for what it has in hand. Queues that it was never told
/// of it refuses to let go of.
pub fn stop(kernel: &KernelNet) -> bool {
    let kept = (0..QUEUES).filter(|queue| kernel.set_backend(*queue, None).is_err());
    kept.count() == 0
}
