//! The one driver of a partition, as the agent's own is (`agent::partition::driver`), whose machines are real: state and
//! effects are stored together, then the effects are performed, and what is cut off is performed again.

use std::{future::pending, rc::Rc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};

use super::{
    doom::Place,
    host::{Host, Machine},
    registry::at_once,
};
use crate::{
    agent::{
        partition::{admission, doubt::Doubt, machine::Deadline, table::PartitionRow},
        registry_link::{
            Answer, of_current_version,
            reconcile::{Step, reconcile},
        },
    },
    api::{
        agent::BorrowPartition,
        problem::Code,
        registry::{ChangeOffer, EndReason, OfferPartition, RegisteredPartition},
        secret::Secret,
    },
    domain::{
        lending_key::{self, KeyClaims, Operation},
        partition::{Change, Effect, Event, HostEnd, Partition, State, Transition, pending as still_to_do},
        resources::AllocationDigest,
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
    Change(Wanted),
    Withdraw,
    Open(Secret, AllocationDigest, oneshot::Sender<bool>),
    Return(Secret, oneshot::Sender<bool>),
    Registry(Option<Box<RegisteredPartition>>),
}

/// What the owner wants instead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) per_hour_micros: i64,
    pub(super) memory_mib: u64,
    pub(super) new_key: bool,
}

/// What was not done; true: certainly not.
struct Undone {
    certain: bool,
}

const NOT_WRITTEN: Undone = Undone { certain: true };

pub(super) struct Driver {
    host: Rc<Host>,
    row: PartitionRow,
    retry: Option<(Instant, Duration)>,
    doubt: Doubt,
}

impl Driver {
    pub(super) fn new(host: &Rc<Host>, row: PartitionRow) -> Self {
        let doubt = Doubt::of_pending(&row.effects);
        Self { host: Rc::clone(host), row, retry: None, doubt }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        // What could not be written down is found again.
        let _ = self.recover().await;
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
    async fn recover(&mut self) -> Option<()> {
        let wanted = match self.row.partition.state {
            State::Carved | State::Withdrawn | State::Released => false,
            State::Scrubbing { clean, .. } => clean,
            _ => true,
        };
        if self.host.machines.borrow().contains_key(&self.row.id) {
            self.guard_end().await
        } else if wanted && !self.row.effects.contains(&Effect::PrepareMachine) {
            let mut row = self.row.clone();
            row.effects.insert(0, Effect::PrepareMachine);
            self.store(row).await
        } else {
            Some(())
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Offer => self.follow(Event::Offer).await,
            Command::Withdraw => self.follow(Event::Withdraw).await,
            Command::Change(wanted) => {
                let mut terms = self.row.partition.terms.clone();
                terms.price.per_hour_micros = wanted.per_hour_micros;
                terms.allocation.memory_mib = wanted.memory_mib;
                let host_cpus = self.row.partition.host_cpus.clone();
                let change = Change { terms, host_cpus, new_key: wanted.new_key };
                self.follow(Event::Change(change)).await;
            }
            Command::Open(key, digest, reply) => {
                let opened = self.open(&key, digest).await;
                let _ = reply.send(opened.is_some());
            }
            Command::Return(key, reply) => {
                let returned = self.give_back(&key).await;
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

    async fn give_back(&mut self, key: &Secret) -> Option<()> {
        let claims = self.read(key)?;
        admission::admit(&claims, &self.row.partition).ok()?;
        self.commit(Event::End(HostEnd::Returned)).await
    }

    async fn compare_with(&mut self, view: Option<&RegisteredPartition>) {
        let _ = self.follow_clock().await;
        for step in reconcile(&self.row.partition, view) {
            match step {
                Step::Event(event) => self.follow(event).await,
                Step::AskAgain => self.perform().await,
                Step::Register => {
                    let mut row = self.row.clone();
                    if !row.effects.contains(&Effect::Register) {
                        row.effects.push(Effect::Register);
                    }
                    if self.store(row).await.is_some() {
                        self.perform().await;
                    }
                }
                Step::Unregister => drop(self.unregister().await),
            }
        }
    }

    /// What is not allowed now, or cannot be written down, is not done.
    async fn follow(&mut self, event: Event) {
        let _ = self.apply(event).await;
    }

    async fn apply(&mut self, event: Event) -> Option<()> {
        self.commit(event).await?;
        self.step().await;
        self.perform().await;
        Some(())
    }

    /// None: the event is not allowed now, or the table does not take it.
    async fn commit(&mut self, event: Event) -> Option<()> {
        let transition = self.row.partition.clone().apply(event).ok()?;
        let mut row = self.row.clone();
        still_to_do::add(&mut row.effects, &transition);
        self.store(PartitionRow { partition: transition.partition, ..row }).await
    }

    /// None: the table does not take it.
    async fn store(&mut self, row: PartitionRow) -> Option<()> {
        self.may_die(Place::BeforeTable).await;
        if self.host.doom.strikes(Place::TableRefuses) {
            return None;
        }
        self.doubt.pending(&row.effects);
        at_once(self.host.table.update(row.clone())).unwrap();
        self.host.laws.stored(&self.host, &self.row, &row);
        self.host.stored.update(|stored| stored + 1);
        self.row = row;
        self.may_die(Place::AfterTable).await;
        Some(())
    }

    /// The agent dies here, where that is its doom.
    async fn may_die(&self, place: Place) {
        if self.host.doom.strikes(place) {
            self.host.kill_agent();
            pending::<()>().await;
        }
    }

    /// The agent may die here.
    async fn step(&self) {
        sleep(self.host.dice().up_to_ms(STEP_MS)).await;
    }

    async fn perform(&mut self) {
        self.perform_pending().await;
        if self.row.effects.is_empty() {
            self.retry = None;
        } else {
            self.later();
        }
    }

    async fn perform_pending(&mut self) {
        while let Some(effect) = self.row.effects.first().cloned() {
            let done = self.act(&effect).await;
            self.may_die(Place::AfterEffect).await;
            self.step().await;
            let stored = match done {
                Ok(event) => self.done(event).await,
                Err(Undone { certain }) => {
                    self.doubt.failed(&effect, certain);
                    match certain.then(|| still_to_do::undo(&self.row.partition, &effect)).flatten() {
                        Some(event) => self.replace(event).await,
                        None => return,
                    }
                }
            };
            if stored.is_none() {
                return;
            }
        }
    }

    async fn done(&mut self, event: Option<Event>) -> Option<()> {
        let mut row = self.row.clone();
        let done = row.effects.remove(0);
        self.doubt.failed(&done, false);
        let after = event.map(|event| row.partition.clone().apply(event));
        if let Some(Ok(transition)) = after {
            still_to_do::add(&mut row.effects, &transition);
            row.partition = transition.partition;
        }
        self.store(row).await?;
        self.doubt.done(&done);
        Some(())
    }

    async fn replace(&mut self, event: Event) -> Option<()> {
        let Transition { partition, effects } = self.row.partition.clone().apply(event).unwrap();
        self.store(PartitionRow { partition, effects, ..self.row.clone() }).await
    }

    fn later(&mut self) {
        let wait = self.retry.map_or(RETRY.0, |(_, wait)| (wait * 2).min(RETRY.1));
        self.retry = Some((Instant::now() + wait, wait));
    }

    async fn act(&mut self, effect: &Effect) -> Result<Option<Event>, Undone> {
        match effect {
            Effect::PrepareMachine => return self.prepare().await,
            Effect::GuardEnd => self.guard_end().await.ok_or(NOT_WRITTEN)?,
            Effect::MoveEnd => self.move_end().await.ok_or(NOT_WRITTEN)?,
            Effect::DiscardMachine => drop(self.host.machines.borrow_mut().remove(&self.row.id)),
            Effect::Wipe => {
                sleep(self.host.dice().up_to_ms(PREPARED_IN_MS)).await;
                let mut row = self.row.clone();
                row.machine.deadline = None;
                self.store(row).await.ok_or(NOT_WRITTEN)?;
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
            Effect::BootAgain { .. }
            | Effect::OpenReceipt { .. }
            | Effect::CloseReceipt { .. }
            | Effect::EndJobs
            | Effect::ShapeDisk
            | Effect::Remove => {}
        }
        Ok(None)
    }

    async fn prepare(&mut self) -> Result<Option<Event>, Undone> {
        if !self.host.machines.borrow().contains_key(&self.row.id) {
            sleep(self.host.dice().up_to_ms(PREPARED_IN_MS)).await;
            self.host.machines.borrow_mut().insert(self.row.id, Machine { guest: None });
            self.guard_end().await.ok_or(NOT_WRITTEN)?;
        }
        let is_clean = matches!(self.row.partition.state, State::Scrubbing { clean: true, .. });
        Ok(is_clean.then_some(Event::Ready))
    }

    async fn guard_end(&mut self) -> Option<()> {
        let Some(lease) = self.row.partition.lease().cloned() else { return Some(()) };
        let reckoned = self.host.clock().boottime_ns_at(lease.expires_at);
        let known = self.row.machine.deadline.clone();
        self.guard(known.map_or(reckoned, |known| known.boottime_ns)).await
    }

    /// The lease was renewed or recalled.
    async fn move_end(&mut self) -> Option<()> {
        let Some(lease) = self.row.partition.lease() else { return Some(()) };
        let reckoned = self.host.clock().boottime_ns_at(lease.expires_at);
        self.guard(reckoned).await
    }

    /// The registry's clock was heard: an end that was reckoned by another one is put right.
    async fn follow_clock(&mut self) -> Option<()> {
        let (Some(lease), Some(known)) = (self.row.partition.lease(), &self.row.machine.deadline) else {
            return Some(());
        };
        let reckoned = self.host.clock().boottime_ns_at(lease.expires_at);
        if reckoned.abs_diff(known.boottime_ns) < CLOCK_TOLERANCE_NS {
            return Some(());
        }
        self.guard(reckoned).await
    }

    async fn guard(&mut self, boottime_ns: u64) -> Option<()> {
        let Some(lease) = self.row.partition.lease().map(|open| open.lease) else { return Some(()) };
        let deadline = Some(Deadline { host_boot: "one".to_owned(), boottime_ns });
        if self.row.machine.deadline != deadline {
            let mut row = self.row.clone();
            row.machine.deadline = deadline;
            self.store(row).await?;
        }
        self.host.guard(self.row.id, lease, Duration::from_nanos(boottime_ns));
        Some(())
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
            let _ = self.commit(Event::End(HostEnd::Expired)).await;
        }
        self.perform().await;
    }

    async fn register(&self) -> Result<Option<Event>, Undone> {
        let Partition { terms, version, .. } = &self.row.partition;
        let registered = of_current_version(*version, |known_version| {
            let offer = OfferPartition { terms: terms.clone(), known_version };
            self.host.line.ask::<RegisteredPartition>(self.question("PUT", &offer))
        });
        let version = self.granted(registered.await.map(|registered| registered.version).into())?;
        Ok(Some(Event::Registered(Some(version))))
    }

    async fn ask_change(&self) -> Result<Option<Event>, Undone> {
        let State::Offered { change: Some(change) } = &self.row.partition.state else { return Ok(None) };
        let Some(of) = self.row.partition.version else { return Ok(Some(Event::ChangeTaken(None))) };
        let offer = ChangeOffer { terms: change.terms.clone(), new_key: change.new_key };
        let question = self.question("PATCH", &offer).of_version(Some(of));
        let changed = self.host.line.ask::<RegisteredPartition>(question).await;
        let version = self.granted(Answer::to_change(changed.map(|changed| changed.version)))?;
        Ok(Some(Event::ChangeTaken(Some(version))))
    }

    async fn unregister(&self) -> Result<Option<Event>, Undone> {
        let withdrawn = match self.host.beat().await {
            Ok(_) => {
                of_current_version(self.row.partition.version, |version| {
                    let question = self.question("DELETE", &()).of_version(version);
                    let answered = self.host.line.ask::<serde_json::Value>(question);
                    async { answered.await.map(drop) }
                })
                .await
            }
            Err(error) => Err(error),
        };
        match withdrawn {
            Err(error) if error.code() == Some(Code::NotFound) => {}
            withdrawn => self.granted(withdrawn.into())?,
        }
        Ok((self.row.partition.state == State::Withdrawing).then_some(Event::Unregistered))
    }

    fn granted<T>(&self, answer: Answer<T>) -> Result<T, Undone> {
        let certain = self.doubt.is_refused(&answer);
        match answer {
            Answer::Yes(granted) => Ok(granted),
            Answer::No(_) | Answer::NotAsked(_) | Answer::Unknown(_) => Err(Undone { certain }),
        }
    }

    fn question(&self, method: &'static str, body: &impl serde::Serialize) -> super::registry::Ask {
        self.host.question(method, &format!("partitions/{}", self.row.id), body)
    }
}
