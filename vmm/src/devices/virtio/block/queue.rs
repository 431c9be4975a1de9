//! What is done with a disk's queues: requests are taken in turn from each of them, started, and given back in the order
//! in which they end.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sublet_vmm_protocol::DiskLimits;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP,
};
use virtio_queue::{Error as QueueError, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::request::{Action, Request, Zeroing, identify};
use crate::{
    block::{
        disk::Disk,
        engine::{DEPTH, Engine, Finished},
        io::Io,
        layer::Layer,
    },
    devices::virtio::{
        ActiveQueue,
        worker::{Next, ServeError, Service, Session},
    },
    memory::GuestMemory,
    rate_limit::RateLimiter,
};

/// How long to wait before the kernel is given once more what it had no room for.
const RETRY: Duration = Duration::from_millis(1);

/// Serves one disk.
pub struct Server {
    disk: Arc<Disk>,
    engine: Engine,
    serial: String,
    memory: Arc<GuestMemory>,
    limiter: RateLimiter,
    /// Origin of the limiter's time.
    begun: Instant,
    held_up: HeldUp,
    /// Requests that the engine has in hand, by their number there.
    started: Vec<Option<Started>>,
    /// Numbers that are free.
    free: Vec<usize>,
    /// The queue whose turn it is.
    turn: usize,
    /// The driver has let go, and what it has written is being made to last.
    is_storing: bool,
    /// Queues in which something has been given back and the driver not interrupted yet.
    answered: u64,
}

/// How long the limits have held up requests.
#[derive(Default)]
struct HeldUp {
    /// Those that are over.
    total_ns: Arc<AtomicU64>,
    since: Option<Instant>,
}

impl HeldUp {
    fn begins(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn ends(&mut self) {
        if let Some(since) = self.since.take() {
            self.total_ns.fetch_add(since.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
    }
}

/// A request in the engine's hands.
struct Started {
    queue: usize,
    head: u16,
    status: GuestAddress,
    /// Bytes of the guest's memory that are filled when it is done.
    filled: u32,
}

/// What became of a request.
enum Outcome {
    /// It is to be done, and fills this many bytes of the guest's memory.
    Started(Io, u32),
    Done(u32),
    Failed,
    Unsupported,
}

/// Why no more requests are taken for now.
enum Pause {
    /// There are none.
    Idle,
    /// The engine has as many as it takes.
    Full,
    /// It is time to see what is done.
    Batch,
    Limited(Duration),
}

impl Server {
    pub fn new(
        disk: Arc<Disk>,
        engine: Engine,
        serial: String,
        limits: DiskLimits,
        memory: Arc<GuestMemory>,
    ) -> Self {
        Self {
            disk,
            engine,
            serial,
            memory,
            limiter: RateLimiter::new(limits.operations, limits.bytes, 0),
            begun: Instant::now(),
            held_up: HeldUp::default(),
            started: (0..DEPTH).map(|_| None).collect(),
            free: (0..DEPTH).collect(),
            turn: 0,
            is_storing: false,
            answered: 0,
        }
    }

    /// How long the limits have held up requests, in nanoseconds; it grows while the disk is served.
    pub fn held_up_ns(&self) -> Arc<AtomicU64> {
        self.held_up.total_ns.clone()
    }

    /// Whether the driver has offered something that was not taken yet.
    fn has_requests(&self, session: &Session) -> bool {
        let waits = |active: &ActiveQueue| {
            let offered = active.queue.avail_idx(&*self.memory, Ordering::Acquire);
            offered.is_ok_and(|offered| offered.0 != active.queue.next_avail())
        };
        session.queues.iter().flatten().any(waits)
    }

    /// Takes requests from the queues in turn.
    fn take_requests(&mut self, session: &mut Session) -> Result<Pause, ServeError> {
        let (mut idle, mut taken) = (0, 0);
        while idle < session.queues.len() {
            let wait_ns = self.limiter.wait_ns(|| self.begun.elapsed().as_nanos() as u64);
            if wait_ns > 0 {
                if self.has_requests(session) {
                    self.held_up.begins();
                }
                return Ok(Pause::Limited(Duration::from_nanos(wait_ns)));
            }
            self.held_up.ends();
            if self.free.is_empty() {
                return Ok(Pause::Full);
            }
            if taken == self.engine.batch() {
                return Ok(Pause::Batch);
            }
            let took = self.take_request(session)?;
            (idle, taken) = if took { (0, taken + 1) } else { (idle + 1, taken) };
        }
        Ok(Pause::Idle)
    }

    /// Takes one from the queue whose turn it is; false: it has none.
    fn take_request(&mut self, session: &mut Session) -> Result<bool, ServeError> {
        let number = self.turn % session.queues.len();
        self.turn = number + 1;
        let Some(Some(active)) = session.queues.get_mut(number) else { return Ok(false) };
        let memory = &*self.memory;
        active.queue.disable_notification(memory)?;
        let Some(chain) = active.queue.iter(memory)?.next() else {
            // True if the driver has added something meanwhile and was not asked to notify.
            return Ok(active.queue.enable_notification(memory)?);
        };
        let head = chain.head_index();
        match Request::parse(chain, memory) {
            Ok(request) => self.begin(request, number, head, session.features, active)?,
            // Nothing can be told about it, but the driver gets its buffers back.
            Err(_) => self.give_back(number, head, 0, active)?,
        }
        Ok(true)
    }

    fn begin(
        &mut self,
        request: Request,
        queue: usize,
        head: u16,
        features: u64,
        active: &mut ActiveQueue,
    ) -> Result<(), ServeError> {
        self.limiter.take(request.cost(&self.disk));
        let status = request.status;
        let outcome = self.judge(request, features).unwrap_or(Outcome::Failed);
        match (outcome, self.free.pop()) {
            (Outcome::Started(io, filled), Some(number)) => {
                if let Some(place) = self.started.get_mut(number) {
                    *place = Some(Started { queue, head, status, filled });
                }
                self.engine.start(number, io);
                Ok(())
            }
            (outcome, number) => {
                self.free.extend(number);
                let written = self.tell_status(status, &outcome);
                Ok(self.give_back(queue, head, written, active)?)
            }
        }
    }

    /// What a request comes to, before the engine has anything to do with it.
    fn judge(&self, request: Request, features: u64) -> io::Result<Outcome> {
        let has = |feature: u32| features & 1 << feature != 0;
        // A driver that knows of no flush takes what is written for kept (virtio 1.2, 5.2.6.2).
        let kept = |io: Io| if has(VIRTIO_BLK_F_FLUSH) { io } else { io.and_flush() };
        let (disk, memory) = (&self.disk, &self.memory);
        Ok(match request.action {
            Action::Read { offset, into, bytes } => {
                Outcome::Started(Io::read(disk, memory, &into, offset)?, bytes)
            }
            Action::Write { offset, from, .. } => {
                Outcome::Started(kept(Io::write(disk, memory, &from, offset)?), 0)
            }
            Action::Flush => Outcome::Started(Io::flush(disk), 0),
            Action::Zero { how: Zeroing::Discard, .. } if !has(VIRTIO_BLK_F_DISCARD) => Outcome::Unsupported,
            Action::Zero { how: Zeroing::WriteZeroes, .. } if !has(VIRTIO_BLK_F_WRITE_ZEROES) => {
                Outcome::Unsupported
            }
            Action::Zero { ranges, .. } => Outcome::Started(kept(Io::zero(disk, ranges)?), 0),
            Action::Identify { into } => Outcome::Done(identify(&self.serial, &into, memory)?),
            Action::Unsupported => Outcome::Unsupported,
            Action::Malformed => Outcome::Failed,
        })
    }

    /// Gives back what the engine has finished; whether there was any.
    fn give_back_finished(&mut self, session: &mut Session) -> Result<bool, ServeError> {
        let mut any = false;
        while let Some(Finished { number, result }) = self.engine.next_finished() {
            any = true;
            let Some(started) = self.release(number) else { continue };
            let outcome = result.map_or(Outcome::Failed, |()| Outcome::Done(started.filled));
            let written = self.tell_status(started.status, &outcome);
            if let Some(Some(active)) = session.queues.get_mut(started.queue) {
                self.give_back(started.queue, started.head, written, active)?;
            }
        }
        Ok(any)
    }

    fn release(&mut self, number: usize) -> Option<Started> {
        let started = self.started.get_mut(number).and_then(Option::take)?;
        self.free.push(number);
        Some(started)
    }

    /// Returns how many bytes of the guest's memory have been written, the status with them.
    fn tell_status(&self, status: GuestAddress, outcome: &Outcome) -> u32 {
        let (code, filled) = match outcome {
            Outcome::Done(filled) => (VIRTIO_BLK_S_OK, *filled),
            Outcome::Unsupported => (VIRTIO_BLK_S_UNSUPP, 0),
            Outcome::Started(..) | Outcome::Failed => (VIRTIO_BLK_S_IOERR, 0),
        };
        match self.memory.write_obj(code as u8, status) {
            Ok(()) => filled + 1,
            // The driver put its status outside its memory and will not learn of it.
            Err(_) => 0,
        }
    }

    fn give_back(
        &mut self,
        queue: usize,
        head: u16,
        written: u32,
        active: &mut ActiveQueue,
    ) -> Result<(), QueueError> {
        self.answered |= 1 << queue;
        active.queue.add_used(&*self.memory, head, written)
    }

    /// Interrupts the driver for each queue in which it waits for that.
    fn interrupt(&mut self, session: &mut Session) -> Result<(), ServeError> {
        for (number, active) in session.queues.iter_mut().enumerate() {
            let Some(active) = active.as_mut().filter(|_| self.answered & 1 << number != 0) else { continue };
            if active.queue.needs_notification(&*self.memory)?
                && let Some(call) = &active.call
            {
                // Fails only when the interrupt is pending already.
                let _ = call.write(1);
            }
        }
        self.answered = 0;
        Ok(())
    }
}

impl Server {
    /// Begins to make last what the driver has written and not flushed; false: it cannot be begun.
    fn store(&mut self) -> bool {
        let Some(number) = self.free.pop() else { return false };
        self.engine.cancel(false);
        if let Some(place) = self.started.get_mut(number) {
            // Nobody is told of its end.
            *place = Some(Started { queue: 0, head: 0, status: GuestAddress(0), filled: 0 });
        }
        self.engine.start(number, Io::flush(&self.disk));
        true
    }
}

impl Service for Server {
    fn serve(&mut self, session: &mut Session) -> Result<Next, ServeError> {
        self.engine.cancel(false);
        if let Some(layer) = self.disk.layer() {
            layer.ask_again(|| self.engine.ask_waiting());
        }
        self.give_back_finished(session)?;
        let pause = self.take_requests(session)?;
        self.engine.submit()?;
        let finished = self.give_back_finished(session)?;
        // Work of several steps may have gone on to the next.
        let all_submitted = self.engine.submit()?;
        self.interrupt(session)?;
        Ok(match pause {
            _ if !all_submitted => Next::After(RETRY),
            Pause::Batch => Next::Now,
            // There is room for more.
            _ if finished => Next::Now,
            Pause::Idle | Pause::Full => Next::Event,
            Pause::Limited(wait) => Next::After(wait),
        })
    }

    fn settle(&mut self) -> bool {
        self.engine.cancel(!self.is_storing);
        // What the kernel does not take now it is given again when it has let go of something.
        let _ = self.engine.submit();
        while let Some(Finished { number, .. }) = self.engine.next_finished() {
            self.release(number);
        }
        self.answered = 0;
        if self.free.len() < DEPTH {
            return false;
        }
        // A guest that wants something else each time would have all of it kept.
        self.disk.layer().into_iter().for_each(Layer::forget_wanted);
        // Once: what cannot be stored then is as after a cut of the power.
        let is_stored = self.is_storing || self.disk.layer().is_none_or(Layer::is_stored);
        self.is_storing = !is_stored && self.store();
        !self.is_storing
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        let arrived = self.disk.layer().map(Layer::arrived_event);
        self.engine.event().into_iter().chain(arrived).collect()
    }
}
