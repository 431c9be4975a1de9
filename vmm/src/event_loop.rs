//! The one thread that decides: it serves the control socket, watches the guest and the clock, and moves the
//! machine through its lifecycle.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
};

use sublet_vmm_protocol::{
    BootSource, Ended, MachineState, PROTOCOL_VERSION, RefusalCode, Reply, Request, Status, Stopped,
};
use thiserror::Error;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::{
    boot::{BootError, Files},
    clock::{Timer, boottime_ns},
    control::{Asked, Connection, Listener, WaitsFor, refusal},
    daemon::with_causes,
    lifecycle::{Action, Lifecycle},
    machine::Machine,
};

/// What a descriptor that became ready belongs to; connections are numbered from [`FIRST_CONNECTION`] on.
const LISTENER: u64 = 0;
const GUEST_END: u64 = 1;
const STOP_AT: u64 = 2;
const CONSOLE: u64 = 3;
const WANTED: u64 = 4;
const FIRST_CONNECTION: u64 = 16;
/// Most connections at once; more are closed as they come.
const CONNECTIONS_LIMIT: usize = 64;
const EVENTS_AT_ONCE: usize = 16;

#[derive(Debug, Error)]
pub enum EventLoopError {
    #[error("cannot wait for events")]
    Epoll(#[source] io::Error),
    #[error("cannot set the timer that ends the guest")]
    Timer(#[source] rustix::io::Errno),
}

/// What a request comes to.
enum Answer {
    Now(Reply),
    /// Once this has come.
    Later(WaitsFor),
    /// The process is to end.
    Release,
}

pub struct EventLoop {
    name: String,
    machine: Machine,
    lifecycle: Lifecycle,
    stop_at_boottime_ns: Option<u64>,
    stop_timer: Timer,
    listener: Listener,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    epoll: Epoll,
    is_released: bool,
}

impl EventLoop {
    pub fn new(name: String, machine: Machine, listener: Listener) -> Result<Self, EventLoopError> {
        let event_loop = Self {
            name,
            machine,
            lifecycle: Lifecycle::prepared(),
            stop_at_boottime_ns: None,
            stop_timer: Timer::new().map_err(EventLoopError::Timer)?,
            listener,
            connections: BTreeMap::new(),
            next_connection: FIRST_CONNECTION,
            epoll: Epoll::new().map_err(EventLoopError::Epoll)?,
            is_released: false,
        };
        event_loop.watch(event_loop.listener.as_raw_fd(), LISTENER)?;
        event_loop.watch(event_loop.machine.guest_end().event().as_raw_fd(), GUEST_END)?;
        event_loop.watch(event_loop.stop_timer.as_fd().as_raw_fd(), STOP_AT)?;
        event_loop.watch(event_loop.machine.console().as_fd().as_raw_fd(), CONSOLE)?;
        for event in event_loop.machine.wanted_events() {
            event_loop.watch(event.as_raw_fd(), WANTED)?;
        }
        Ok(event_loop)
    }

    /// Runs until the machine is released.
    pub fn run(&mut self) -> Result<(), EventLoopError> {
        let mut events = [EpollEvent::default(); EVENTS_AT_ONCE];
        while !self.is_released {
            let count = match self.epoll.wait(-1, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(EventLoopError::Epoll(error)),
            };
            for event in events.iter().take(count) {
                self.handle(event.data())?;
            }
            self.answer_waiting()?;
        }
        self.machine.halt();
        Ok(())
    }

    fn handle(&mut self, source: u64) -> Result<(), EventLoopError> {
        match source {
            LISTENER => {
                self.accept();
                Ok(())
            }
            GUEST_END => {
                // Read, so that it is not ready for ever; only ever ready with something to read.
                let _ = self.machine.guest_end().event().read();
                self.finish_if_ended();
                Ok(())
            }
            STOP_AT => {
                self.stop_timer.acknowledge().map_err(EventLoopError::Timer)?;
                self.stop_if_due();
                Ok(())
            }
            CONSOLE => {
                self.machine.console().flush();
                Ok(())
            }
            WANTED => {
                self.machine.acknowledge_wanted();
                Ok(())
            }
            connection => self.converse(connection),
        }
    }

    fn finish_if_ended(&mut self) {
        if let Some(how) = self.machine.guest_end().how() {
            self.finish(how);
        }
    }

    /// `Running → Off`, or from `Prepared`. What the guest did first counts.
    fn finish(&mut self, how: Ended) {
        if matches!(self.lifecycle.state(), MachineState::Off { .. }) {
            return;
        }
        self.machine.halt();
        self.lifecycle.ended(self.machine.guest_end().how().unwrap_or(how));
    }

    fn is_past_stop(&self) -> bool {
        self.stop_at_boottime_ns.is_some_and(|moment| boottime_ns() >= moment)
    }

    fn stop_if_due(&mut self) {
        if self.is_past_stop() && matches!(self.lifecycle.state(), MachineState::Running { .. }) {
            self.finish(Ended::Killed { by: Stopped::StopAt });
        }
    }

    fn answer(&mut self, asked: Asked) -> Result<Answer, EventLoopError> {
        let request = match asked.request {
            Ok(request) => request,
            Err(refusal) => return Ok(Answer::Now(Reply::Refused(refusal))),
        };
        Ok(Answer::Now(match request {
            Request::Status { .. } => self.status(),
            Request::Wait { after, .. } => return Ok(Answer::Later(WaitsFor::State(after))),
            Request::Wanted { after, .. } => return Ok(Answer::Later(WaitsFor::Wanted(after))),
            Request::Arrived { failed, .. } => {
                self.machine.base_arrived(&failed);
                self.status()
            }
            Request::Boot { source, .. } => self.boot(&source, asked.descriptors),
            Request::Stop { .. } => self.act(Action::Stop, |this| this.machine.press_power_button()),
            Request::Kill { .. } => {
                self.act(Action::Kill, |this| this.finish(Ended::Killed { by: Stopped::Request }))
            }
            Request::StopAt { boottime_ns, .. } => self.set_stop_at(boottime_ns)?,
            Request::Release { .. } => return Ok(Answer::Release),
        }))
    }

    fn act(&mut self, action: Action, carry_out: impl FnOnce(&mut Self)) -> Reply {
        match self.lifecycle.admit(action) {
            Ok(()) => {
                carry_out(self);
                self.status()
            }
            Err(why) => not_allowed(why),
        }
    }

    fn boot(&mut self, source: &BootSource, descriptors: Vec<OwnedFd>) -> Reply {
        if let Err(why) = self.lifecycle.admit(Action::Boot) {
            return not_allowed(why);
        }
        let files = Files::of(source, descriptors).map_err(BootError::Files);
        let entry = match files.and_then(|files| self.machine.load(source, files)) {
            Ok(entry) => entry,
            Err(error) => return Reply::Refused(refusal(RefusalCode::BadBootSource, with_causes(&error))),
        };
        if self.is_past_stop() {
            self.machine.unload();
            return not_allowed("the moment after which no guest may run has passed");
        }
        self.lifecycle.started(boottime_ns());
        self.machine.start(entry);
        self.status()
    }

    fn set_stop_at(&mut self, moment: Option<u64>) -> Result<Reply, EventLoopError> {
        self.stop_at_boottime_ns = moment;
        self.stop_timer.fire_at(moment).map_err(EventLoopError::Timer)?;
        self.stop_if_due();
        Ok(self.status())
    }

    fn status(&self) -> Reply {
        Reply::Status(Status {
            version: PROTOCOL_VERSION,
            name: self.name.clone(),
            generation: self.lifecycle.generation(),
            state: self.lifecycle.state().clone(),
            disks: self.machine.disks(),
            stop_at_boottime_ns: self.stop_at_boottime_ns,
        })
    }

    fn accept(&mut self) {
        // What goes wrong here (out of descriptors) is the connecting side's to see: it is closed unanswered.
        while let Ok(Some(connection)) = self.listener.accept() {
            let number = self.next_connection;
            let is_welcome = self.connections.len() < CONNECTIONS_LIMIT;
            if is_welcome && self.watch(connection.as_raw_fd(), number).is_ok() {
                self.connections.insert(number, connection);
                self.next_connection += 1;
            }
        }
    }

    /// Goes on with a connection that has something to read or room to write.
    fn converse(&mut self, number: u64) -> Result<(), EventLoopError> {
        let Some(connection) = self.connections.get_mut(&number) else { return Ok(()) };
        if connection.send().and_then(|()| connection.receive()).is_err() {
            self.connections.remove(&number);
            return Ok(());
        }
        self.serve(number)
    }

    /// Answers what the connection has asked, as far as it takes the answers.
    fn serve(&mut self, number: u64) -> Result<(), EventLoopError> {
        while let Some(asked) = self.connections.get_mut(&number).and_then(Connection::next_request) {
            match self.answer(asked)? {
                Answer::Now(reply) => self.reply(number, &reply),
                Answer::Later(what) => self.wait(number, what),
                Answer::Release => {
                    self.is_released = true;
                    self.machine.halt();
                    self.reply(number, &self.status());
                    return Ok(());
                }
            }
        }
        self.watch_for_room(number)
    }

    fn wait(&mut self, number: u64, what: WaitsFor) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.wait_for(what);
        }
    }

    fn reply(&mut self, number: u64, reply: &Reply) {
        let sent = self.connections.get_mut(&number).map(|connection| connection.reply(reply));
        if matches!(sent, Some(Err(_))) {
            self.connections.remove(&number);
        }
    }

    /// Answers every wait that is due.
    fn answer_waiting(&mut self) -> Result<(), EventLoopError> {
        loop {
            let mut waiting = self.connections.iter();
            let due =
                waiting.find_map(|(number, connection)| Some((*number, self.due(connection.waits_for()?)?)));
            let Some((number, reply)) = due else { return Ok(()) };
            self.reply(number, &reply);
            self.serve(number)?;
        }
    }

    /// The answer, where what it waited for has come.
    fn due(&self, what: WaitsFor) -> Option<Reply> {
        match what {
            WaitsFor::State(after) => (self.lifecycle.generation() > after).then(|| self.status()),
            WaitsFor::Wanted(after) => {
                let wanted = self.machine.wanted_of_base();
                (wanted.generation > after).then_some(Reply::Wanted(wanted))
            }
        }
    }

    fn watch(&self, descriptor: RawFd, data: u64) -> Result<(), EventLoopError> {
        self.control(ControlOperation::Add, descriptor, EventSet::IN, data)
    }

    /// While a connection has something unsent it is also watched for room.
    fn watch_for_room(&self, number: u64) -> Result<(), EventLoopError> {
        let Some(connection) = self.connections.get(&number) else { return Ok(()) };
        let events = if connection.has_unsent() { EventSet::IN | EventSet::OUT } else { EventSet::IN };
        self.control(ControlOperation::Modify, connection.as_raw_fd(), events, number)
    }

    fn control(
        &self,
        operation: ControlOperation,
        descriptor: RawFd,
        events: EventSet,
        data: u64,
    ) -> Result<(), EventLoopError> {
        self.epoll.ctl(operation, descriptor, EpollEvent::new(events, data)).map_err(EventLoopError::Epoll)
    }
}

fn not_allowed(why: &str) -> Reply {
    Reply::Refused(refusal(RefusalCode::NotAllowedNow, why.into()))
}
