//! What is done with the queue: buffers are filled, each with a bounded number of bytes, and no more bytes a second than
//! the limit.

use std::{
    os::fd::BorrowedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    io,
    rand::{GetRandomFlags, getrandom},
};
use sublet_vmm_protocol::RngConfig;
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT};
use vm_memory::Bytes;

use crate::{
    devices::virtio::{
        ActiveQueue,
        worker::{Next, ServeError, Service, Session},
    },
    memory::GuestMemory,
    rate_limit::RateLimiter,
};

/// Most bytes that one request is given; it may be given fewer than it asks for (virtio 1.2, 5.4.6). The kernel never
/// gives fewer than it is asked for up to this many.
pub const REQUEST_BYTES_LIMIT: usize = 256;

/// Serves one source.
pub struct Server {
    memory: Arc<GuestMemory>,
    limiter: RateLimiter,
    /// Origin of the limiter's time.
    begun: Instant,
}

impl Server {
    pub fn new(config: RngConfig, memory: Arc<GuestMemory>) -> Self {
        let limiter = RateLimiter::new(None, Some(config.bytes), 0);
        Self { memory, limiter, begun: Instant::now() }
    }

    /// Serves a queue until there is nothing left to do or the limit is reached.
    fn serve_queue(&mut self, active: &mut ActiveQueue) -> Result<Next, ServeError> {
        let memory = self.memory.clone();
        let queue = &mut active.queue;
        let mut given = 0;
        let next = loop {
            let wait_ns = self.limiter.wait_ns(|| self.begun.elapsed().as_nanos() as u64);
            if wait_ns > 0 {
                break Next::After(Duration::from_nanos(wait_ns));
            }
            if given == queue.size() {
                break Next::Now;
            }
            queue.disable_notification(&*memory)?;
            let Some(chain) = queue.iter(&*memory)?.next() else {
                // True if the driver has added something meanwhile and was not asked to notify.
                break if queue.enable_notification(&*memory)? { Next::Now } else { Next::Event };
            };
            let head = chain.head_index();
            let bytes = fill(chain, &memory)?;
            // Nor can requests for nothing go on without end.
            self.limiter.take(u64::from(bytes.max(1)));
            queue.add_used(&*memory, head, bytes)?;
            given += 1;
        };
        if given > 0
            && queue.needs_notification(&*memory)?
            && let Some(call) = &active.call
        {
            // Fails only when the interrupt is pending already.
            let _ = call.write(1);
        }
        Ok(next)
    }
}

impl Service for Server {
    fn serve(&mut self, session: &mut Session) -> Result<Next, ServeError> {
        match session.queues.first_mut() {
            Some(Some(active)) => self.serve_queue(active),
            _ => Ok(Next::Event),
        }
    }

    fn settle(&mut self) -> bool {
        true
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        vec![]
    }
}

/// Fills a chain's buffers as far as a request goes; returns with how many bytes. What lies outside of the guest's
/// memory ends it.
fn fill(chain: DescriptorChain<&GuestMemory>, memory: &GuestMemory) -> Result<u32, ServeError> {
    let random = random_bytes()?;
    let mut left = random.as_slice();
    for buffer in chain.writable() {
        let (part, rest) = left.split_at(left.len().min(buffer.len() as usize));
        if part.is_empty() || memory.write_slice(part, buffer.addr()).is_err() {
            break;
        }
        left = rest;
    }
    Ok((random.len() - left.len()) as u32)
}

fn random_bytes() -> Result<[u8; REQUEST_BYTES_LIMIT], ServeError> {
    let mut bytes = [0; REQUEST_BYTES_LIMIT];
    let mut filled = 0;
    while filled < bytes.len() {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(io::Errno::INTR) => {}
            Err(error) => return Err(ServeError::Host(error.into())),
        }
    }
    Ok(bytes)
}
