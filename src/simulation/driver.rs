//! The one driver of a partition, as the agent's own is (`agent::partition::driver`), whose machines are real: state and
//! effects are stored together, then the effects are performed, and what is cut off is performed again.

use std::{rc::Rc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};

use super::{
    host::{Host, Machine},
    registry::at_once,
};
use crate::{
    agent::{
        partition::{admission, machine::Deadline, table::PartitionRow},
        registry_link::{
            Answer,
            reconcile::{Step, reconcile},
        },
    },
    api::{
        agent::BorrowPartition,
        problem::Code,
        registry::{EndReason, OfferPartition, RegisteredPartition},
        secret::Secret,
    },
    client::ClientError,
    domain::{
        lending_key::{self, KeyClaims, Operation},
        partition::{Change, Effect, Event, HostEnd, State, Transition, pending},
        resources::AllocationDigest,
        terms::TermsVersion,
    },
};

/// First and longest wait before something that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Clocks that differ by less are the same, in nanoseconds.
pub(super) const CLOCK_TOLERANCE_NS: u64 = 2_000_000_000;
/// Longest times that preparing and wiping take, and that pass between two steps, in milliseconds.
const PREPARED_IN_MS: u64 = 100;
const STEP_MS: u64 = 2;

pub(super) enum Command {
    Offer,
    /// To this price and this memory.
    Change(i64, u64),
    Withdraw,
    Open(Secret, AllocationDigest, oneshot::Sender<bool>),
    Return(Secret, oneshot::Sender<bool>),
    Registry(Option<Box<RegisteredPartition>>),
}

/// What was not done; true: certainly not.
struct Undone {
    certain: bool,
}

pub(super) struct Driver {
    host: Rc<Host>,
    row: PartitionRow,
    retry: Option<(Instant, Duration)>,
}

impl Driver {
    pub(super) fn new(host: &Rc<Host>, row: PartitionRow) -> Self {
        Self { host: Rc::clone(host), row, retry: None }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        self.recover();
        self.perform().await;
        loop {
            let due = self.due();
            tokio::select! {
                biased;
                command = inbox.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                () = sleep_until(due) => self.on_time().await,
            }
        }
    }

    /// The machine of the agent before is found again, or is to be there.
    fn recover(&mut self) {
        let wanted = match self.row.partition.state {
            State::Carved | State::Withdrawn | State::Released => false,
            State::Scrubbing { clean, .. } => clean,
            _ => true,
        };
        if self.host.machines.borrow().contains_key(&self.row.id) {
            self.guard_end();
        } else if wanted && !self.row.effects.contains(&Effect::PrepareMachine) {
            let mut row = self.row.clone();
            row.effects.insert(0, Effect::PrepareMachine);
            self.store(row);
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Offer => self.follow(Event::Offer).await,
            Command::Withdraw => self.follow(Event::Withdraw).await,
            Command::Change(per_hour_micros, memory_mib) => {
                let mut terms = self.row.partition.terms.clone();
                terms.price.per_hour_micros = per_hour_micros;
                terms.allocation.memory_mib = memory_mib;
                let change =
                    Change { terms, host_cpus: self.row.partition.host_cpus.clone(), new_key: false };
                self.follow(Event::Change(change)).await;
            }
            Command::Open(key, digest, reply) => {
                let opened = self.open(&key, digest).await;
                let _ = reply.send(opened.is_some());
            }
            Command::Return(key, reply) => {
                let returned = self.give_back(&key);
                let _ = reply.send(returned.is_some());
                self.perform().await;
            }
            Command::Registry(view) => self.compare_with(view.as_deref()).await,
        }
    }

    fn read(&self, key: &Secret) -> Option<KeyClaims> {
        let now = self.host.clock().now();
        let claims = lending_key::read(key.reveal(), &[self.host.issuer], Operation::Open, now).ok()?;
        admission::for_partition(claims, self.host.id, self.row.id).ok()
    }

    async fn open(&mut self, key: &Secret, digest: AllocationDigest) -> Option<()> {
        let claims = self.read(key)?;
        let stated = BorrowPartition { host: self.host.id, allocation_digest: digest };
        admission::compare_stated(&claims, &stated).ok()?;
        admission::compare(&claims, &self.row.partition).ok()?;
        self.perform().await;
        if !self.row.effects.is_empty() {
            return None;
        }
        self.apply(Event::Open(admission::lease_of(&claims))).await
    }

    fn give_back(&mut self, key: &Secret) -> Option<()> {
        let claims = self.read(key)?;
        admission::admit(&claims, &self.row.partition).ok()?;
        self.commit(Event::End(HostEnd::Returned))
    }

    async fn compare_with(&mut self, view: Option<&RegisteredPartition>) {
        self.follow_clock();
        for step in reconcile(&self.row.partition, view) {
            match step {
                Step::Event(event) => self.follow(event).await,
                Step::AskAgain => self.perform().await,
                Step::Register => {
                    if !self.row.effects.contains(&Effect::Register) {
                        let mut row = self.row.clone();
                        row.effects.push(Effect::Register);
                        self.store(row);
                    }
                    self.perform().await;
                }
                Step::Unregister => drop(self.unregister().await),
            }
        }
    }

    /// What is not allowed now is not done.
    async fn follow(&mut self, event: Event) {
        let _ = self.apply(event).await;
    }

    async fn apply(&mut self, event: Event) -> Option<()> {
        self.commit(event)?;
        self.step().await;
        self.perform().await;
        Some(())
    }

    /// None: the event is not allowed now.
    fn commit(&mut self, event: Event) -> Option<()> {
        let transition = self.row.partition.clone().apply(event).ok()?;
        let mut row = self.row.clone();
        pending::add(&mut row.effects, &transition);
        self.store(PartitionRow { partition: transition.partition, ..row });
        Some(())
    }

    fn store(&mut self, row: PartitionRow) {
        at_once(self.host.table.update(row.clone())).unwrap();
        self.host.laws.stored(&self.host, &self.row, &row);
        self.row = row;
    }

    /// The agent may die here.
    async fn step(&self) {
        sleep(self.host.dice().up_to_ms(STEP_MS)).await;
    }

    async fn perform(&mut self) {
        while let Some(effect) = self.row.effects.first().cloned() {
            let done = self.act(&effect).await;
            self.step().await;
            match done {
                Ok(event) => self.done(event),
                Err(undone) => match self.undo(&effect, &undone) {
                    Some(event) => self.replace(event),
                    None => return self.later(),
                },
            }
        }
        self.retry = None;
    }

    fn done(&mut self, event: Option<Event>) {
        let mut row = self.row.clone();
        row.effects.remove(0);
        let after = event.map(|event| row.partition.clone().apply(event));
        if let Some(Ok(transition)) = after {
            pending::add(&mut row.effects, &transition);
            row.partition = transition.partition;
        }
        self.store(row);
    }

    fn replace(&mut self, event: Event) {
        let Transition { partition, effects } = self.row.partition.clone().apply(event).unwrap();
        self.store(PartitionRow { partition, effects, ..self.row.clone() });
    }

    fn later(&mut self) {
        let wait = self.retry.map_or(RETRY.0, |(_, wait)| (wait * 2).min(RETRY.1));
        self.retry = Some((Instant::now() + wait, wait));
    }

    fn undo(&self, effect: &Effect, undone: &Undone) -> Option<Event> {
        match (effect, &self.row.partition.state) {
            _ if !undone.certain => None,
            (Effect::Register, State::Offering { .. }) => Some(Event::NotRegistered),
            (Effect::AskChange, State::Offered { change: Some(_) }) => Some(Event::ChangeRefused),
            (Effect::Unregister, State::Withdrawing) if self.row.partition.version.is_some() => {
                Some(Event::StillRegistered)
            }
            _ => None,
        }
    }

    async fn act(&mut self, effect: &Effect) -> Result<Option<Event>, Undone> {
        match effect {
            Effect::PrepareMachine => return Ok(self.prepare().await),
            Effect::GuardEnd => self.guard_end(),
            Effect::MoveEnd => self.move_end(),
            Effect::DiscardMachine => drop(self.host.machines.borrow_mut().remove(&self.row.id)),
            Effect::Wipe => {
                sleep(self.host.dice().up_to_ms(PREPARED_IN_MS)).await;
                let mut row = self.row.clone();
                row.machine.deadline = None;
                self.store(row);
                return Ok(Some(Event::Wiped));
            }
            Effect::Register => return self.register().await,
            Effect::AskChange => return self.ask_change().await,
            Effect::Unregister => return self.unregister().await,
            Effect::ReportEnded { lease, how } => {
                let reason = match how {
                    HostEnd::Returned => EndReason::Returned,
                    HostEnd::Expired => EndReason::Expired,
                    HostEnd::Lost => EndReason::HostLost,
                };
                at_once(self.host.table.report_ended(*lease, reason)).unwrap();
                self.host.tell();
            }
            Effect::ReportCleaned { lease } => {
                at_once(self.host.table.report_cleaned(*lease)).unwrap();
                if self.host.beat().await.is_err() {
                    self.host.tell();
                }
            }
            Effect::BootAgain { .. } | Effect::EndJobs | Effect::ShapeDisk | Effect::Remove => {}
        }
        Ok(None)
    }

    async fn prepare(&mut self) -> Option<Event> {
        if !self.host.machines.borrow().contains_key(&self.row.id) {
            sleep(self.host.dice().up_to_ms(PREPARED_IN_MS)).await;
            self.host.machines.borrow_mut().insert(self.row.id, Machine { guest: None });
            self.guard_end();
        }
        matches!(self.row.partition.state, State::Scrubbing { clean: true, .. }).then_some(Event::Ready)
    }

    fn guard_end(&mut self) {
        let Some(lease) = self.row.partition.lease().cloned() else { return };
        let reckoned = self.host.clock().boottime_ns_at(lease.expires_at);
        let known = self.row.machine.deadline.clone();
        self.guard(known.map_or(reckoned, |known| known.boottime_ns));
    }

    /// The lease was renewed or recalled.
    fn move_end(&mut self) {
        let Some(lease) = self.row.partition.lease() else { return };
        let reckoned = self.host.clock().boottime_ns_at(lease.expires_at);
        self.guard(reckoned);
    }

    /// The registry's clock was heard: an end that was reckoned by another one is put right.
    fn follow_clock(&mut self) {
        let (Some(lease), Some(known)) = (self.row.partition.lease(), &self.row.machine.deadline) else {
            return;
        };
        let reckoned = self.host.clock().boottime_ns_at(lease.expires_at);
        if reckoned.abs_diff(known.boottime_ns) >= CLOCK_TOLERANCE_NS {
            self.guard(reckoned);
        }
    }

    fn guard(&mut self, boottime_ns: u64) {
        let Some(lease) = self.row.partition.lease().map(|open| open.lease) else { return };
        let deadline = Some(Deadline { host_boot: "one".to_owned(), boottime_ns });
        if self.row.machine.deadline != deadline {
            let mut row = self.row.clone();
            row.machine.deadline = deadline;
            self.store(row);
        }
        self.host.guard(self.row.id, lease, Duration::from_nanos(boottime_ns));
    }

    fn lease_left(&self) -> Option<Duration> {
        let lease = self.row.partition.lease()?;
        let left = self.row.machine.deadline.as_ref().map(|deadline| {
            Duration::from_nanos(deadline.boottime_ns).saturating_sub(self.host.boottime.now())
        });
        Some(left.unwrap_or_else(|| self.host.clock().until(lease.expires_at)))
    }

    fn due(&self) -> Instant {
        let expiry = self.lease_left().map(|left| Instant::now() + left);
        let far = Instant::now() + Duration::from_secs(3600);
        [expiry, self.retry.map(|(at, _)| at)].into_iter().flatten().min().unwrap_or(far)
    }

    async fn on_time(&mut self) {
        if self.lease_left().is_some_and(|left| left.is_zero()) {
            let _ = self.commit(Event::End(HostEnd::Expired));
        }
        self.perform().await;
    }

    async fn register(&self) -> Result<Option<Event>, Undone> {
        let offer = OfferPartition { terms: self.row.partition.terms.clone() };
        let registered = self.host.line.ask(self.question("PUT", &offer)).await;
        version(registered.into()).map(|version| Some(Event::Registered(version)))
    }

    async fn ask_change(&self) -> Result<Option<Event>, Undone> {
        let State::Offered { change: Some(change) } = &self.row.partition.state else { return Ok(None) };
        let Some(of) = self.row.partition.version else { return Ok(Some(Event::ChangeTaken(None))) };
        let offer = OfferPartition { terms: change.terms.clone() };
        let mut question = self.question("PATCH", &offer);
        question.header = Some(("if-match", format!("\"{}\"", of.0)));
        let changed = self.host.line.ask(question).await;
        version(changed.into()).map(|version| Some(Event::ChangeTaken(version)))
    }

    async fn unregister(&self) -> Result<Option<Event>, Undone> {
        let told = self.host.beat().await.map(drop);
        let withdrawn = match told {
            Ok(()) => self.host.line.ask::<serde_json::Value>(self.question("DELETE", &())).await.map(drop),
            Err(error) => Err(error),
        };
        match Answer::from(withdrawn) {
            Answer::Yes(()) => {}
            Answer::No(error) if error.code() == Some(Code::NotFound) => {}
            other => return yes(other).map(|()| None),
        }
        Ok((self.row.partition.state == State::Withdrawing).then_some(Event::Unregistered))
    }

    fn question(&self, method: &'static str, body: &impl serde::Serialize) -> super::registry::Ask {
        self.host.question(method, &format!("partitions/{}", self.row.id), body)
    }
}

fn version(answer: Answer<RegisteredPartition>) -> Result<Option<TermsVersion>, Undone> {
    yes(answer).map(|registered| Some(registered.version))
}

fn yes<T>(answer: Answer<T>) -> Result<T, Undone> {
    match answer {
        Answer::Yes(answer) => Ok(answer),
        Answer::No(_) => Err(Undone { certain: true }),
        Answer::Unknown(ClientError::Refused(problem)) => panic!("{problem:?}"),
        Answer::Unknown(_) => Err(Undone { certain: false }),
    }
}
