//! The one driver of a partition: it alone changes the row and the machine. What an event asks for is stored with the
//! new state in one step and performed afterwards, so that a restarted agent goes on where this one stopped.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use sublet_guest_protocol::JobSpec;
use sublet_vmm_protocol::{ControlError, Status};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
    time::Instant,
};
use uuid::Uuid;

use super::{
    admission,
    doubt::Doubt,
    error::PartitionError,
    guest::{RunningRelay, Stopping},
    pulse::Pulse,
    table::{PartitionRow, RequestMark},
    warning::Warned,
};
use crate::{
    agent::{
        freeze::watch::Watch,
        guest::{jobs::Jobs, listener::Runner, tunnels::Tunnels},
        registry_link::reconcile::{Step, reconcile},
        services::Services,
    },
    api::{
        agent::{BorrowPartition, IssueKey, KeyIssued},
        registry::{LendingState, RegisteredPartition},
    },
    domain::{
        id::{BorrowerId, JobId, KeyId, LeaseId},
        lease::DURATION_MAX_SECONDS,
        lending_key::{self, KeyClaims},
        partition::{Change, Effect, Event, HostEnd, Kind, NotAllowed, State, Transition, pending},
    },
};

/// First and longest wait before something that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

pub type Reply<T> = oneshot::Sender<Result<T, PartitionError>>;

/// What a partition can be asked or told.
pub enum Command {
    Offer(Reply<PartitionRow>),
    Change(Change, Reply<PartitionRow>),
    Withdraw(Reply<PartitionRow>),
    Release(Reply<()>),
    IssueKey(IssueKey, Reply<KeyIssued>),
    Borrow(KeyClaims, BorrowPartition, Reply<PartitionRow>),
    Submit(KeyClaims, Box<SubmitJob>, Reply<JobId>),
    Stop(KeyClaims, Reply<PartitionRow>),
    Return(KeyClaims, Reply<PartitionRow>),
    /// What the registry has of it; none: nothing.
    Registry(Option<Box<RegisteredPartition>>),
    /// The guest's job runner has called.
    Runner(Runner),
    /// The state of the VMM whose guest has this context id, or that it cannot be reached.
    Machine(u32, Result<Status, ControlError>),
}

/// A job as a borrower asks for it.
pub struct SubmitJob {
    /// None: the image that is running.
    pub image: Option<String>,
    pub spec: JobSpec,
    pub mark: Option<RequestMark>,
}

pub struct Driver {
    pub(super) services: Arc<Services>,
    pub(super) row: PartitionRow,
    pub(super) jobs: Jobs,
    pub(super) tunnels: Arc<Tunnels>,
    pub(super) freeze: Arc<Watch>,
    pub(super) to_self: mpsc::WeakSender<Command>,
    pub(super) relay: Option<RunningRelay>,
    /// Answers at the machine's port.
    pub(super) port: Option<AbortHandle>,
    pub(super) pulse: Option<Pulse>,
    pub(super) stopping: Option<Stopping>,
    pub(super) warned: Option<Warned>,
    pub(super) published: watch::Sender<PartitionRow>,
    /// The lease that the registry lends the partition for, and its end, which may have moved since a key was issued.
    lent_until: Option<(LeaseId, Timestamp)>,
    retry: Option<(Instant, Duration)>,
    pub(super) doubt: Doubt,
    removed: bool,
}

impl Driver {
    pub fn new(
        services: Arc<Services>,
        row: PartitionRow,
        (jobs, tunnels, freeze): (Jobs, Arc<Tunnels>, Arc<Watch>),
        published: watch::Sender<PartitionRow>,
        to_self: mpsc::WeakSender<Command>,
    ) -> Self {
        Self {
            services,
            doubt: Doubt::of_pending(&row.effects),
            row,
            jobs,
            tunnels,
            freeze,
            to_self,
            relay: None,
            port: None,
            pulse: None,
            stopping: None,
            warned: None,
            published,
            lent_until: None,
            retry: None,
            removed: false,
        }
    }

    /// Drives the partition until it is released; `recovered` is told once it is known what became of it.
    pub async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        recovered: Option<oneshot::Sender<()>>,
    ) {
        if let Err(error) = self.freeze.resume().await {
            self.complain("what was counted of its lease could not be found again", &error.into());
        }
        if let Err(error) = self.recover().await {
            self.complain("the partition's machine could not be found again", &error);
        }
        // Whoever asked may have gone.
        let _ = recovered.map(|recovered| recovered.send(()));
        self.settle().await;
        while !self.removed {
            self.follow_pulse();
            let due = self.due();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                () = self.jobs.signals().first_heard() => self.revived().await,
                () = tokio::time::sleep_until(due) => self.on_time().await,
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Offer(reply) => answer(reply, self.offer().await),
            Command::Change(change, reply) => answer(reply, self.change(change).await),
            Command::Withdraw(reply) => answer(reply, self.apply_for(Event::Withdraw).await),
            Command::Release(reply) => answer(reply, self.apply(Event::Release).await),
            Command::IssueKey(wanted, reply) => answer(reply, self.issue_key(&wanted).await),
            Command::Borrow(claims, stated, reply) => answer(reply, self.borrow(&claims, &stated).await),
            Command::Submit(claims, job, reply) => answer(reply, self.submit(&claims, *job).await),
            Command::Stop(claims, reply) => self.stop(&claims, reply).await,
            Command::Return(claims, reply) => self.give_back(&claims, reply).await,
            Command::Registry(view) => self.compare_with(view.as_deref()).await,
            Command::Runner(runner) => self.greet(runner).await,
            Command::Machine(cid, status) => self.machine_changed(cid, status).await,
        }
    }

    async fn offer(&mut self) -> Result<PartitionRow, PartitionError> {
        let host_cpus = self.row.partition.host_cpus.clone();
        let terms = self.services.with_host_facts(self.row.partition.terms.clone(), &host_cpus);
        if terms != self.row.partition.terms
            && matches!(self.row.partition.state, State::Carved | State::Withdrawn)
        {
            self.apply(Event::Change(Change { terms, host_cpus, new_key: false })).await?;
        }
        self.apply_for(Event::Offer).await
    }

    async fn change(&mut self, change: Change) -> Result<PartitionRow, PartitionError> {
        if self.row.partition.has_disk() {
            self.reserve_disk(change.terms.allocation.disk_mib).await?;
        }
        self.apply_for(Event::Change(change)).await
    }

    async fn issue_key(&mut self, wanted: &IssueKey) -> Result<KeyIssued, PartitionError> {
        if !(1..=DURATION_MAX_SECONDS).contains(&wanted.duration_seconds) {
            return Err(PartitionError::Duration { max: DURATION_MAX_SECONDS, got: wanted.duration_seconds });
        }
        if self.services.registry.is_some() && self.row.partition.kind != Kind::Owners {
            return Err(PartitionError::KeysFromRegistry);
        }
        let claims = self.claims_of_next_lease(wanted.duration_seconds);
        let identity = &self.services.identity;
        let key = lending_key::issue(identity.issuer(), &claims, rand::random())?;
        // Stored before the key is given away: an epoch is never given twice.
        self.apply(Event::KeyIssued(claims.epoch)).await?;
        Ok(KeyIssued {
            lease: claims.lease,
            key,
            host: claims.host,
            partition: claims.partition,
            allocation_digest: claims.allocation,
            expires_at: claims.expires_at,
        })
    }

    fn claims_of_next_lease(&self, seconds: u64) -> KeyClaims {
        let identity = &self.services.identity;
        let duration = SignedDuration::from_secs(seconds.try_into().unwrap_or(i64::MAX));
        KeyClaims {
            issuer: identity.issuer_id(),
            host: identity.host(),
            partition: self.row.id,
            lease: LeaseId(Uuid::new_v4()),
            key: KeyId(Uuid::new_v4()),
            epoch: self.row.partition.next_epoch(),
            allocation: self.row.partition.terms.allocation.digest(),
            borrower: BorrowerId(Uuid::new_v4()),
            expires_at: self.services.clock.now().saturating_add(duration).unwrap_or(Timestamp::MAX),
        }
    }

    /// F5. The same lease again is let in again.
    async fn borrow(
        &mut self,
        claims: &KeyClaims,
        stated: &BorrowPartition,
    ) -> Result<PartitionRow, PartitionError> {
        admission::compare_stated(claims, stated)?;
        admission::compare(claims, &self.row.partition)?;
        // What stands in the way of the partition's being ready is its host's business.
        if self.perform().await.is_err() || !self.row.effects.is_empty() {
            return Err(NotAllowed::NotReady.into());
        }
        let mut lease = admission::lease_of(claims);
        if let Some((_, until)) = self.lent_until.filter(|(lent, _)| *lent == lease.lease) {
            lease.expires_at = until;
        }
        let row = self.apply_for(Event::Open(lease)).await?;
        // Whoever asks again finds the same lease.
        let is_missing = row.partition.is_built_when_opened() && row.machine.built.is_none();
        if is_missing { Err(PartitionError::NoMachine) } else { Ok(row) }
    }

    /// The lease ends; the answer does not wait for the cleaning.
    async fn give_back(&mut self, claims: &KeyClaims, reply: Reply<PartitionRow>) {
        let ended = match admission::admit(claims, &self.row.partition) {
            Ok(()) => self.commit(Event::End(HostEnd::Returned)).await.map(|()| self.row.clone()),
            Err(error) => Err(error),
        };
        answer(reply, ended);
        self.settle().await;
    }

    async fn compare_with(&mut self, view: Option<&RegisteredPartition>) {
        if let Err(error) = self.follow_clock().await {
            self.complain("the lease's end could not be put right", &error);
        }
        self.lent_until = view.and_then(|view| match view.state {
            LendingState::Lent { lease, expires_at, .. } => Some((lease, expires_at)),
            LendingState::Free | LendingState::AwaitingClean { .. } => None,
        });
        for step in reconcile(&self.row.partition, view) {
            let taken = match step {
                Step::Event(event) => self.apply(event).await,
                Step::AskAgain => self.perform().await,
                Step::Register => self.also(Effect::Register).await,
                Step::Unregister => self.unregister().await.map(drop).map_err(|failure| failure.error),
            };
            if let Err(error) = taken {
                self.complain("the registry's view of the partition could not be followed", &error);
            }
        }
    }

    pub(super) async fn apply_for(&mut self, event: Event) -> Result<PartitionRow, PartitionError> {
        self.apply(event).await.map(|()| self.row.clone())
    }

    /// Applies the event, and does what follows from it.
    pub(super) async fn apply(&mut self, event: Event) -> Result<(), PartitionError> {
        self.commit(event).await?;
        self.perform().await
    }

    /// Stores the state after the event, and what there is to do about it.
    pub(super) async fn commit(&mut self, event: Event) -> Result<(), PartitionError> {
        let transition = self.row.partition.clone().apply(event)?;
        let mut row = self.row.clone();
        pending::add(&mut row.effects, &transition);
        self.store(PartitionRow { partition: transition.partition, ..row }).await
    }

    /// There is this to do as well.
    pub(super) async fn also(&mut self, effect: Effect) -> Result<(), PartitionError> {
        if !self.row.effects.contains(&effect) {
            let mut row = self.row.clone();
            row.effects.push(effect);
            self.store(row).await?;
        }
        self.perform().await
    }

    pub(super) async fn store(&mut self, row: PartitionRow) -> Result<(), PartitionError> {
        self.services.table.update(row.clone()).await?;
        self.doubt.pending(&row.effects);
        let (before, after) = (self.row.partition.state_name(), row.partition.state_name());
        self.row = row;
        if before != after {
            tracing::info!(partition = %self.row.id, lease = ?self.row.partition.lease(), "from {before} to {after}");
        }
        self.published.send_replace(self.row.clone());
        Ok(())
    }

    /// Does what is to be done. What fails is undone, or stays to be done later, and so does what is done and cannot be
    /// written down.
    pub(super) async fn perform(&mut self) -> Result<(), PartitionError> {
        let performed = self.perform_pending().await;
        if self.row.effects.is_empty() {
            self.retry = None;
        } else {
            self.later();
        }
        performed
    }

    /// A machine that cannot be prepared does not hold up the rest.
    async fn perform_pending(&mut self) -> Result<(), PartitionError> {
        let (mut at, mut undone) = (0, None);
        while let Some(effect) = self.row.effects.get(at).cloned() {
            let failure = match self.act(&effect).await {
                // The row is gone with everything else.
                Ok(_) if effect == Effect::Remove => {
                    self.removed = true;
                    return Ok(());
                }
                Ok(event) => {
                    self.done(at, event).await?;
                    continue;
                }
                Err(failure) => failure,
            };
            self.doubt.failed(&effect, failure.certain);
            let undone_by = failure.certain.then(|| pending::undo(&self.row.partition, &effect)).flatten();
            if let Some(event) = undone_by {
                self.replace(event).await?;
                (at, undone) = (0, Some(failure.error));
            } else if effect == Effect::PrepareMachine {
                self.complain("the partition's machine could not be prepared yet", &failure.error);
                at += 1;
            } else {
                return Err(failure.error);
            }
        }
        undone.map_or(Ok(()), Err)
    }

    /// The effect is done, and this has happened by it.
    async fn done(&mut self, at: usize, event: Option<Event>) -> Result<(), PartitionError> {
        let mut row = self.row.clone();
        let done = row.effects.remove(at);
        // As long as it is not written down that it was granted, it is asked for again.
        self.doubt.failed(&done, false);
        // What has happened to a partition that is further along is of no account.
        if let Some(Ok(transition)) = event.map(|event| row.partition.clone().apply(event)) {
            pending::add(&mut row.effects, &transition);
            row.partition = transition.partition;
        }
        self.store(row).await?;
        self.doubt.done(&done);
        Ok(())
    }

    /// Nothing of what was to be done is to be done any more.
    async fn replace(&mut self, event: Event) -> Result<(), PartitionError> {
        let Transition { partition, effects } = self.row.partition.clone().apply(event)?;
        self.store(PartitionRow { partition, effects, ..self.row.clone() }).await
    }

    fn later(&mut self) {
        let wait = self.retry.map_or(RETRY.0, |(_, wait)| (wait * 2).min(RETRY.1));
        self.retry = Some((Instant::now() + wait, wait));
    }

    /// Does what is to be done, where nobody waits for the outcome.
    pub(super) async fn settle(&mut self) {
        if let Err(error) = self.perform().await {
            self.complain("something is still to be done about the partition", &error);
        }
    }

    pub(super) fn complain(&self, what: &str, error: &PartitionError) {
        let error = crate::api::http::chain(error);
        tracing::warn!(partition = %self.row.id, state = self.row.partition.state_name(), error, "{what}");
    }

    /// When something is to be done without being told.
    fn due(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        let expiry = self.lease_left().map(|left| Instant::now() + left.min(Duration::from_secs(3600)));
        let stop = self.stopping.as_ref().map(|stopping| stopping.deadline);
        let pulse = self.pulse.as_ref().map(|pulse| pulse.due);
        let warning = self.warning_left().map(|left| Instant::now() + left);
        [expiry, stop, pulse, warning, self.retry.map(|(at, _)| at)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(far)
    }

    async fn on_time(&mut self) {
        let expired = self.lease_left().is_some_and(|left| left.is_zero());
        if expired && let Err(error) = self.commit(Event::End(HostEnd::Expired)).await {
            self.complain("the lease is over and could not be ended yet", &error);
            self.later();
            return;
        }
        if self.warning_left().is_some_and(|left| left.is_zero()) {
            self.warn().await;
        }
        if self.stopping.as_ref().is_some_and(|stopping| stopping.deadline <= Instant::now()) {
            self.kill_guest().await;
        }
        if self.pulse.as_ref().is_some_and(|pulse| pulse.due <= Instant::now()) {
            self.feel_pulse().await;
        }
        if expired || self.retry.is_some_and(|(at, _)| at <= Instant::now()) {
            self.settle().await;
        }
    }

    /// S53, for whoever has opened the partition.
    pub(super) fn admit(&self, claims: &KeyClaims) -> Result<(), PartitionError> {
        admission::admit(claims, &self.row.partition)
    }
}

pub(super) fn answer<T>(reply: Reply<T>, result: Result<T, PartitionError>) {
    // Whoever asked may have gone; what was done stays done.
    let _ = reply.send(result);
}
