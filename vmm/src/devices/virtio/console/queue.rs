//! What is done with the queues: bytes go from the socket to the guest and back, no more of them in between than one
//! buffer each way. Each side waits for the other by itself: the guest for its buffers, the host for its socket.
//!
//! Each time that a program in the guest opens the port it gets one connection, and the next only when it has closed the
//! port and opened it again: nothing that was meant for one connection reaches another, and a guest that closes the
//! port because its connection has ended does not end the next.

use std::{
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    sync::{Arc, atomic::Ordering},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send},
};
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT};
use vm_memory::Bytes;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{
    config::{CONTROL_FROM_GUEST, CONTROL_TO_GUEST, FROM_GUEST, MULTIPORT, TO_GUEST},
    control::{MESSAGE_BYTES, Port},
};
use crate::{
    devices::virtio::{
        ActiveQueue,
        worker::{Next, ServeError, Service, Session},
    },
    memory::GuestMemory,
};

/// Most that is taken from the host at once.
const READ_BYTES: usize = 16 << 10;
/// Most that one chain of the guest's can say; Linux says 32 KiB at a time. Whoever says more has the connection cut.
pub const CHAIN_BYTES_MAX: usize = 256 << 10;
/// Rounds after which the thread looks whether it has been told to stop.
const ROUNDS: usize = 64;

/// Serves one port.
pub struct Server {
    memory: Arc<GuestMemory>,
    listener: UnixListener,
    /// Tells of connections, and when one can be read or written.
    events: Epoll,
    port: Port,
    stream: Option<OwnedFd>,
    /// The guest has closed the port: what it said before ends at this index of its ring, and the connection with it.
    ends_at: Option<u16>,
    to_guest: Vec<u8>,
    to_host: Vec<u8>,
}

impl Server {
    /// `listener` does not block.
    pub fn new(name: String, listener: UnixListener, memory: Arc<GuestMemory>) -> io::Result<Self> {
        let events = Epoll::new()?;
        let edges = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
        events.ctl(ControlOperation::Add, listener.as_raw_fd(), edges)?;
        Ok(Self {
            memory,
            listener,
            events,
            port: Port::new(name),
            stream: None,
            ends_at: None,
            to_guest: vec![],
            to_host: vec![],
        })
    }

    /// One step in each direction; whether anything went on.
    fn round(&mut self, session: &mut Session) -> Result<bool, ServeError> {
        let memory = self.memory.clone();
        let has_ports = session.features & MULTIPORT != 0;
        let mut queues = session.queues.iter_mut().map(Option::as_mut);
        let mut queue = |_| queues.next().flatten().map(|active| Ring { active, memory: &memory });
        let [mut to_guest, mut from_guest, mut control_to_guest, mut control_from_guest] =
            [TO_GUEST, FROM_GUEST, CONTROL_TO_GUEST, CONTROL_FROM_GUEST].map(&mut queue);
        let went_on = [
            self.hear(from_guest.as_mut())?,
            self.say_to_host(),
            self.listen(control_from_guest.as_mut(), from_guest.as_mut())?,
            self.meet(self.port.is_waiting() || !has_ports)?,
            self.read_from_host(),
            self.say_to_guest(to_guest.as_mut())?,
            self.tell(control_to_guest.as_mut())?,
        ];
        Ok(went_on.contains(&true))
    }

    /// Takes in what the guest says, once the host has what it said before. It waits for who is to hear it; what it says
    /// to who has gone is lost.
    fn hear(&mut self, ring: Option<&mut Ring<'_>>) -> Result<bool, ServeError> {
        if !self.to_host.is_empty() {
            return Ok(false);
        }
        let is_over = |ring: &Ring<'_>| self.ends_at == Some(ring.active.queue.next_avail());
        let Some(ring) = ring.filter(|ring| !is_over(ring)) else { return Ok(self.end()) };
        if self.ends_at.is_none() && self.port.is_waiting() {
            return Ok(false);
        }
        let Some(chain) = ring.next()? else { return Ok(self.end()) };
        let head = chain.head_index();
        match read(chain, ring.memory, CHAIN_BYTES_MAX) {
            Some(said) if self.stream.is_some() => self.to_host = said,
            Some(_) => {}
            None => self.hang_up(),
        }
        ring.give_back(head, 0)?;
        Ok(true)
    }

    /// All has been taken in that the guest said before it closed the port; whether it had.
    fn end(&mut self) -> bool {
        let had_closed = self.ends_at.take().is_some();
        if had_closed {
            self.hang_up();
        }
        had_closed
    }

    fn say_to_host(&mut self) -> bool {
        let (Some(stream), false) = (&self.stream, self.to_host.is_empty()) else { return false };
        match send(stream, &self.to_host, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) => drop(self.to_host.drain(..sent)),
            Err(Errno::AGAIN) => return false,
            Err(Errno::INTR) => {}
            Err(_) => self.hang_up(),
        }
        true
    }

    /// Hears what the driver says about the port. A driver waits until that is heard, so what is in the other ring when
    /// it closes the port is all that was said before.
    fn listen(
        &mut self,
        ring: Option<&mut Ring<'_>>,
        from_guest: Option<&mut Ring<'_>>,
    ) -> Result<bool, ServeError> {
        let (Some(ring), true) = (ring, self.port.can_hear()) else { return Ok(false) };
        let Some(chain) = ring.next()? else { return Ok(false) };
        let head = chain.head_index();
        let was_open = self.port.is_open();
        if let Some(message) = read(chain, ring.memory, MESSAGE_BYTES).and_then(|said| said.try_into().ok()) {
            self.port.hear(message);
        }
        if was_open && !self.port.is_open() {
            self.close(from_guest)?;
        }
        ring.give_back(head, 0)?;
        Ok(true)
    }

    /// The guest has closed the port. A connection that still has not taken what was said before the last time is cut.
    fn close(&mut self, from_guest: Option<&mut Ring<'_>>) -> Result<(), ServeError> {
        if self.ends_at.is_some() {
            self.hang_up();
        }
        self.to_guest.clear();
        let said = from_guest.map(|ring| ring.active.queue.avail_idx(ring.memory, Ordering::Acquire));
        self.ends_at = Some(said.transpose()?.map_or(0, |index| index.0));
        Ok(())
    }

    /// Lets somebody in, if there is nobody and the guest waits for somebody.
    fn meet(&mut self, is_waiting: bool) -> Result<bool, ServeError> {
        if self.stream.is_some() || self.ends_at.is_some() || !is_waiting {
            return Ok(false);
        }
        match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(stream) => {
                let edges = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
                self.events.ctl(ControlOperation::Add, stream.as_raw_fd(), EpollEvent::new(edges, 0))?;
                self.stream = Some(stream);
                Ok(true)
            }
            Err(Errno::AGAIN) => Ok(false),
            // The other side may have gone before it was let in.
            Err(Errno::INTR | Errno::CONNABORTED) => Ok(true),
            Err(error) => Err(ServeError::Host(error.into())),
        }
    }

    /// Takes in what the host says, once the guest has what it said before.
    fn read_from_host(&mut self) -> bool {
        let (Some(stream), true) = (&self.stream, self.to_guest.is_empty()) else { return false };
        let mut buffer = [0; READ_BYTES];
        match recv(stream, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((_, count)) if count > 0 => self.to_guest.extend_from_slice(&buffer[..count]),
            Err(Errno::AGAIN) => return false,
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => self.hang_up(),
        }
        true
    }

    fn say_to_guest(&mut self, ring: Option<&mut Ring<'_>>) -> Result<bool, ServeError> {
        let (Some(ring), false) = (ring, self.to_guest.is_empty()) else { return Ok(false) };
        let Some(chain) = ring.next()? else { return Ok(false) };
        let head = chain.head_index();
        let written = write(chain, ring.memory, &self.to_guest);
        self.to_guest.drain(..written);
        ring.give_back(head, written)?;
        Ok(true)
    }

    /// Tells the driver what it has to know about the port: that the host has gone only after all that it said. Who came
    /// and went without a word was not there.
    fn tell(&mut self, ring: Option<&mut Ring<'_>>) -> Result<bool, ServeError> {
        let is_connected = self.stream.is_some() || !self.to_guest.is_empty();
        self.port.set_connected(is_connected && self.ends_at.is_none());
        let (Some(ring), Some(message)) = (ring, self.port.unread()) else { return Ok(false) };
        let Some(chain) = ring.next()? else { return Ok(false) };
        let head = chain.head_index();
        let written = write(chain, ring.memory, message);
        self.port.told();
        ring.give_back(head, written)?;
        Ok(true)
    }

    fn hang_up(&mut self) {
        self.stream = None;
        self.to_host.clear();
    }
}

impl Service for Server {
    fn serve(&mut self, session: &mut Session) -> Result<Next, ServeError> {
        // Taken back before anything is looked at: what comes later raises it anew.
        self.events.wait(0, &mut [EpollEvent::default(); 2])?;
        for _ in 0..ROUNDS {
            if !self.round(session)? {
                return Ok(Next::Event);
            }
        }
        Ok(Next::Now)
    }

    fn settle(&mut self) -> bool {
        self.hang_up();
        self.ends_at = None;
        self.to_guest.clear();
        self.port.reset();
        true
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        // SAFETY: the descriptor is this epoll's, which lives as long as `self`.
        vec![unsafe { BorrowedFd::borrow_raw(self.events.as_raw_fd()) }]
    }
}

/// A queue and where its buffers are.
struct Ring<'a> {
    active: &'a mut ActiveQueue,
    memory: &'a GuestMemory,
}

impl<'a> Ring<'a> {
    /// The next chain that the driver offers; none: it will notify when there is one.
    fn next(&mut self) -> Result<Option<DescriptorChain<&'a GuestMemory>>, ServeError> {
        loop {
            if let Some(chain) = self.active.queue.iter(self.memory)?.next() {
                return Ok(Some(chain));
            }
            if !self.active.queue.enable_notification(self.memory)? {
                return Ok(None);
            }
        }
    }

    fn give_back(&mut self, head: u16, written: usize) -> Result<(), ServeError> {
        self.active.queue.add_used(self.memory, head, written as u32)?;
        if self.active.queue.needs_notification(self.memory)?
            && let Some(call) = &self.active.call
        {
            // Fails only when the interrupt is pending already.
            let _ = call.write(1);
        }
        Ok(())
    }
}

/// What a chain says; none if that is more than `limit` or lies outside of the guest's memory.
fn read(chain: DescriptorChain<&GuestMemory>, memory: &GuestMemory, limit: usize) -> Option<Vec<u8>> {
    let mut said = vec![];
    for buffer in chain.readable() {
        let (start, bytes) = (said.len(), buffer.len() as usize);
        if bytes > limit - start {
            return None;
        }
        said.resize(start + bytes, 0);
        memory.read_slice(&mut said[start..], buffer.addr()).ok()?;
    }
    Some(said)
}

/// Writes as much as a chain takes; what lies outside of the guest's memory ends it.
fn write(chain: DescriptorChain<&GuestMemory>, memory: &GuestMemory, bytes: &[u8]) -> usize {
    let mut left = bytes;
    for buffer in chain.writable() {
        let (part, rest) = left.split_at(left.len().min(buffer.len() as usize));
        if part.is_empty() || memory.write_slice(part, buffer.addr()).is_err() {
            break;
        }
        left = rest;
    }
    bytes.len() - left.len()
}
