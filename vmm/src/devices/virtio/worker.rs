//! A thread that serves a device's queues.
//!
//! It is there from when the machine is prepared, opens nothing, and of the device's queues has none until the driver is
//! ready and none any more once the driver has reset the device.
//! What it may call is in [`crate::sandbox::lists`]: it makes its service and what it waits with, keeps to its list from
//! then on, and only then is told of queues. Descriptors of notifications are watched for edges and so never read.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError},
    },
    time::Duration,
};

use thiserror::Error;
use virtio_queue::Error as QueueError;
use vmm_sys_util::{
    epoll::{ControlOperation, Epoll, EpollEvent, EventSet},
    eventfd::EventFd,
};

use super::{ActivateError, Activation, ActiveQueue, DeviceFailure, QueueSlot};
use crate::threads::{Made, Plan, SpawnError};

/// How often a service that has been stopped is asked, without an event, whether it has settled.
const SETTLE_INTERVAL: Duration = Duration::from_millis(10);

/// Why a device cannot go on; the driver is told to reset it.
#[derive(Debug, Error)]
pub enum ServeError {
    #[error("a queue's rings are broken")]
    Queue(#[from] QueueError),
    #[error("the host takes no more requests")]
    Host(#[from] io::Error),
}

/// What a worker does for its device.
pub trait Service {
    /// Takes what the driver offers and gives back what is done.
    fn serve(&mut self, session: &mut Session) -> Result<Next, ServeError>;
    /// Drops what is in hand without telling the driver; whether nothing is left.
    fn settle(&mut self) -> bool;
    /// Each becomes readable when there is something to give back.
    fn events(&self) -> Vec<BorrowedFd<'_>>;
}

/// When a service wants to be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// As soon as there is a notification, or its own event.
    Event,
    Now,
    /// After this time, if there is no event before.
    After(Duration),
}

/// What the driver chose, from when it is ready until it resets the device.
pub struct Session {
    pub features: u64,
    pub queues: Vec<Option<ActiveQueue>>,
}

/// The way to the thread. Dropped, it ends the thread.
pub struct Worker {
    commands: Sender<Command>,
    wake: EventFd,
    is_serving: bool,
    /// The answer to the last [`Command::Stop`].
    stopped: Option<Receiver<()>>,
}

enum Command {
    Start(Session, DeviceFailure),
    /// Answered once nothing is in hand.
    Stop(Sender<()>),
    End,
}

/// Tells the driver of a failure of the thread itself.
type SharedFailure = Arc<Mutex<Option<DeviceFailure>>>;

impl Worker {
    /// Starts a thread that runs where the calling thread may run, has it make the service, and then keeps it to the
    /// service's list of system calls.
    pub fn spawn<S: Service, T: Send + 'static>(
        name: String,
        slots: &[QueueSlot],
        make: impl FnOnce() -> Made<S, T> + Send + 'static,
    ) -> Result<(Self, T), SpawnError> {
        let (wake, watched) = events(slots).map_err(SpawnError::Make)?;
        let (commands, orders) = mpsc::channel();
        let failure = SharedFailure::default();
        let broken = failure.clone();
        let make = move || {
            let Made { own, filter, told } = make();
            Ok(Made { own: Thread::new(own, orders, watched, failure)?, filter, told })
        };
        let plan = Plan { name, cpus: None };
        let (_, told) = plan.spawn_after(make, |mut thread| thread.run(), move || tell(&broken))?;
        Ok((Self { commands, wake, is_serving: false, stopped: None }, told))
    }

    /// Has the thread serve these queues.
    pub fn start(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { features, queues, failure } = activation;
        self.is_serving = true;
        self.tell(Command::Start(Session { features, queues }, failure)).map_err(|_| ActivateError::NoThread)
    }

    /// Has the thread let go of the queues and of all that it has in hand; see [`super::VirtioDevice::reset`].
    pub fn stop(&mut self, patience: Duration) -> bool {
        if self.is_serving {
            let (answer, stopped) = mpsc::channel();
            // A thread that has ended has let go of everything, and drops the answer's other end.
            let _ = self.tell(Command::Stop(answer));
            self.stopped = Some(stopped);
            self.is_serving = false;
        }
        let Some(stopped) = &self.stopped else { return true };
        if stopped.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            return false;
        }
        self.stopped = None;
        true
    }

    fn tell(&self, command: Command) -> Result<(), mpsc::SendError<Command>> {
        self.commands.send(command)?;
        // Fails only when the thread is being woken already.
        let _ = self.wake.write(1);
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A thread that has ended needs not be told.
        let _ = self.tell(Command::End);
    }
}

/// The event that wakes a thread, and with it all that the thread waits for.
fn events(slots: &[QueueSlot]) -> io::Result<(EventFd, Vec<EventFd>)> {
    let wake = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?;
    let events = slots.iter().map(|slot| &slot.kick).chain([&wake]);
    let watched = events.map(EventFd::try_clone).collect::<io::Result<_>>()?;
    Ok((wake, watched))
}

/// What the thread has.
struct Thread<S> {
    service: S,
    orders: Receiver<Command>,
    session: Option<Session>,
    failure: SharedFailure,
    /// Nothing of an earlier session is in hand.
    is_settled: bool,
    answers: Vec<Sender<()>>,
    epoll: Epoll,
    _watched: Vec<EventFd>,
}

impl<S: Service> Thread<S> {
    fn new(
        service: S,
        orders: Receiver<Command>,
        watched: Vec<EventFd>,
        failure: SharedFailure,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let services = service.events().into_iter().map(|event| event.as_raw_fd());
        for event in watched.iter().map(AsRawFd::as_raw_fd).chain(services) {
            let edges = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
            epoll.ctl(ControlOperation::Add, event, edges)?;
        }
        Ok(Self {
            service,
            orders,
            session: None,
            failure,
            is_settled: true,
            answers: vec![],
            epoll,
            _watched: watched,
        })
    }

    /// Serves until the device is gone.
    fn run(&mut self) {
        while self.obey() {
            let next = self.serve();
            if self.wait(next).is_err() {
                // Nothing would ever wake it again.
                return tell(&self.failure);
            }
        }
    }

    /// Does what it is told; false: to end.
    fn obey(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Command::Start(session, failure)) => {
                    *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
                    self.session = Some(session);
                }
                Ok(Command::Stop(answer)) => {
                    self.end_session();
                    self.answers.push(answer);
                }
                Ok(Command::End) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn serve(&mut self) -> Next {
        if !self.is_settled {
            self.is_settled = self.service.settle();
        }
        if !self.is_settled {
            return Next::After(SETTLE_INTERVAL);
        }
        // Whoever asked may have gone.
        self.answers.drain(..).for_each(|answer| _ = answer.send(()));
        let Some(session) = &mut self.session else { return Next::Event };
        match self.service.serve(session) {
            Ok(next) => next,
            Err(_) => {
                // Nothing more can be told through the queues.
                tell(&self.failure);
                self.end_session();
                Next::Now
            }
        }
    }

    fn end_session(&mut self) {
        self.is_settled &= self.session.take().is_none();
    }

    fn wait(&self, next: Next) -> io::Result<()> {
        let limit_ms = match next {
            Next::Now => return Ok(()),
            Next::Event => -1,
            Next::After(time) => time.as_millis().saturating_add(1).min(i32::MAX as u128) as i32,
        };
        match self.epoll.wait(limit_ms, &mut [EpollEvent::default(); 8]) {
            // io_uring interrupts the wait when it has something to do on this thread.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            waited => waited.map(|_| ()),
        }
    }
}

fn tell(failure: &SharedFailure) {
    if let Some(failure) = failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
        failure.tell();
    }
}

#[cfg(test)]
mod tests;
