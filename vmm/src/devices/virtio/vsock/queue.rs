//! The kernel serves the queues; it is told when to begin and when to end.

use vhost::vsock::VhostVsock;

use super::{KernelVsock, config::KERNEL_QUEUES};
use crate::{
    devices::virtio::{
        ActivateError, Activation, QueueSlot,
        vhost::{refused, share},
    },
    memory::GuestMemory,
};

pub fn serve(
    kernel: &KernelVsock,
    memory: &GuestMemory,
    activation: &Activation,
    slots: &[QueueSlot],
) -> Result<(), ActivateError> {
    let slots = slots.get(..KERNEL_QUEUES).unwrap_or(slots);
    share(kernel, activation.features, memory, activation, slots)?;
    kernel.start().map_err(refused("the word to start"))
}

/// When this returns the kernel has let go of the guest's memory.
pub fn stop(kernel: &KernelVsock) {
    // Refused only while it does not run.
    let _ = kernel.stop();
}
