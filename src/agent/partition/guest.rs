//! The machine of a partition and the guest in it, as their driver handles them.

use std::{error::Error, sync::Arc, time::Duration};

use sublet_guest_protocol::{FromHost, JobProgress, NONCE_PARAMETER, PORT_PARAMETER};
use sublet_vmm_protocol::{
    BootSource, ConsoleConfig, ControlError, DiskConfig, Ended, MachineConfig, MachineState,
    PROTOCOL_VERSION, Request, Status, Stopped, VsockConfig,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    driver::{Command, Driver, Reply, SubmitJob, answer},
    effects::remove_consoles,
    error::PartitionError,
    machine::{Boot, Built, LastGuest},
    table::{Earlier, PartitionRow},
};
use crate::{
    agent::{
        guest::{
            frames::Frames,
            jobs::{NewJob, SubmitError},
            process::ProcessId,
            relay::{Relay, RelayError},
        },
        identity::random,
        image_cache::BootableImage,
    },
    api::{
        agent::{GuestEnd, JobEnd},
        http::chain,
    },
    domain::{
        id::JobId,
        lending_key::KeyClaims,
        partition::{Effect, Event, HostEnd, State},
        secret::Secret,
    },
};

/// What is kept of a guest's console, in bytes.
const CONSOLE_BYTES: u64 = 1 << 20;
/// How long a guest may take to power itself off before it is ended.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How long what a guest had sent may take to be stored once it is off.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// The connection to the guest's job runner.
pub(super) struct RunningRelay {
    task: JoinHandle<Result<(), RelayError>>,
    off: watch::Sender<bool>,
}

/// Who waits for the guest to be stopped, and until when it may take its time.
pub(super) struct Stopping {
    pub(super) deadline: Instant,
    replies: Vec<Reply<PartitionRow>>,
}

impl Driver {
    /// After the agent was started: the VMM of the agent before is found again, or what became of it is told.
    pub(super) async fn recover(&mut self) -> Result<(), PartitionError> {
        self.shape().await?;
        let Some(built) = self.row.machine.built.clone() else { return self.want_machine().await };
        if built.host_boot != self.services.inventory.boot_id {
            return self.host_lost(built).await;
        }
        match self.services.vmms.status(self.row.id).await {
            Ok(status) => self.found(built, status).await,
            // It was never seen prepared: the effect that was to start it is still to be done.
            Err(_) if built.process.is_none() => self.want_machine().await,
            Err(error) => self.lost(&error).await,
        }
    }

    /// What an interrupted change left of the disk is put right.
    async fn shape(&self) -> Result<(), PartitionError> {
        let wiping = matches!(self.row.partition.state, State::Scrubbing { clean: false, .. });
        if wiping || self.row.partition.state == State::Released { Ok(()) } else { self.shape_disk().await }
    }

    async fn found(&mut self, built: Built, status: Status) -> Result<(), PartitionError> {
        let mut row = self.row.clone();
        row.machine.built = Some(Built {
            process: ProcessId::of(status.process),
            // The agent before died between writing down the boot and asking for it.
            boot: built.boot.clone().filter(|_| status.state != MachineState::Prepared),
            ..built.clone()
        });
        self.store(row).await?;
        tracing::info!(partition = %self.row.id, state = ?status.state, "found the partition's VMM again");
        // A change of state that was missed is told at once.
        self.watch_machine(built.cid, 0);
        self.guard_end().await
    }

    async fn host_lost(&mut self, built: Built) -> Result<(), PartitionError> {
        self.jobs.end_all(JobEnd::HostLost, self.services.clock.now()).await?;
        let end = GuestEnd::Failed { reason: "the host went down".to_owned() };
        self.forget_machine(built, end).await
    }

    /// The VMM is gone, and the guest with it.
    async fn lost(&mut self, error: &(dyn Error + Send + Sync)) -> Result<(), PartitionError> {
        let Some(built) = self.row.machine.built.clone() else { return Ok(()) };
        tracing::error!(partition = %self.row.id, error = chain(error), "the partition's VMM is lost");
        self.drain_relay().await;
        let reason = "its VMM ended".to_owned();
        let end = JobEnd::GuestFailed { reason: reason.clone() };
        self.jobs.end_all(end, self.services.clock.now()).await?;
        self.forget_machine(built, GuestEnd::Failed { reason }).await
    }

    /// A guest has ended in this way; whatever is left of its VMM is ended, and the next machine prepared.
    async fn forget_machine(&mut self, built: Built, end: GuestEnd) -> Result<(), PartitionError> {
        let mut row = self.row.clone();
        if built.boot.is_some() {
            row.machine.last = Some(LastGuest { end, cid: built.cid });
        }
        row.machine.built = Some(Built { boot: None, ..built });
        if self.needs_machine().is_ok() && !row.effects.contains(&Effect::DiscardMachine) {
            row.effects.splice(0..0, [Effect::DiscardMachine, Effect::PrepareMachine]);
        }
        self.store(row).await
    }

    /// The machine is to be there; it will be prepared with what else is to be done.
    async fn want_machine(&mut self) -> Result<(), PartitionError> {
        let mut row = self.row.clone();
        if self.needs_machine().is_ok() && !row.effects.contains(&Effect::PrepareMachine) {
            row.effects.insert(0, Effect::PrepareMachine);
            self.store(row).await?;
        }
        Ok(())
    }

    /// Has a VMM stand for the partition, its memory built and locked.
    pub(super) async fn prepare_machine(&mut self) -> Result<(), PartitionError> {
        let running = self.row.machine.built.as_ref().is_some_and(|built| built.process.is_some());
        if running && self.services.vmms.status(self.row.id).await.is_ok() {
            return Ok(());
        }
        self.discard_machine().await?;
        let cid = self.services.table.next_cid().await?;
        let host_boot = self.services.inventory.boot_id.clone();
        self.build(Some(Built { cid, host_boot, process: None, boot: None })).await?;
        let status = self.services.vmms.start(self.row.id, &self.machine_config(cid)).await?;
        let built = self.row.machine.built.clone();
        let process = ProcessId::of(status.process);
        self.build(built.map(|built| Built { process, ..built })).await?;
        self.watch_machine(cid, status.generation);
        self.guard_end().await
    }

    fn machine_config(&self, cid: u32) -> MachineConfig {
        let (id, allocation) = (self.row.id, self.row.partition.terms.allocation);
        let disk = DiskConfig { path: self.services.disk(id), read_only: false };
        MachineConfig {
            version: PROTOCOL_VERSION,
            name: id.to_string(),
            vcpu_host_cpus: self.row.partition.host_cpus.clone(),
            service_host_cpus: Vec::new(),
            memory_mib: allocation.memory_mib,
            disks: (allocation.disk_mib > 0).then_some(disk).into_iter().collect(),
            vsock: Some(VsockConfig { guest_cid: cid }),
            console: ConsoleConfig { path: self.services.console(id, cid), capacity_bytes: CONSOLE_BYTES },
            control_socket: self.services.vmms.socket(id),
        }
    }

    async fn build(&mut self, built: Option<Built>) -> Result<(), PartitionError> {
        let mut row = self.row.clone();
        row.machine.built = built;
        self.store(row).await
    }

    fn watch_machine(&self, cid: u32, generation: u64) {
        let Some(commands) = self.to_self.upgrade() else { return };
        let commands = commands.downgrade();
        self.services.vmms.watch(self.row.id, generation, move |status| {
            let goes_on = matches!(&status, Ok(status) if !matches!(status.state, MachineState::Off { .. }));
            let told = commands
                .upgrade()
                .is_some_and(|commands| commands.blocking_send(Command::Machine(cid, status)).is_ok());
            goes_on && told
        });
    }

    /// Ends the guest and its VMM; when this returns their memory is free.
    pub(super) async fn discard_machine(&mut self) -> Result<(), PartitionError> {
        self.hang_up();
        let process = self.row.machine.built.as_ref().and_then(|built| built.process);
        self.services.vmms.end(self.row.id, process).await?;
        if self.row.machine.built.is_some() {
            self.build(None).await?;
        }
        self.stopped();
        Ok(())
    }

    /// Law 5: the VMM itself ends the guest at the end of the lease.
    pub(super) async fn guard_end(&mut self) -> Result<(), PartitionError> {
        let Some(lease) = self.row.partition.lease().filter(|_| self.row.machine.built.is_some()) else {
            return Ok(());
        };
        let boottime_ns = Some(self.services.clock.boottime_ns_at(lease.expires_at));
        let stop_at = Request::StopAt { version: PROTOCOL_VERSION, boottime_ns };
        self.services.vmms.ask(self.row.id, stop_at).await?;
        Ok(())
    }

    /// F9, S51–S54: the key once more, then the OS, then the job.
    pub(super) async fn submit(
        &mut self,
        claims: &KeyClaims,
        job: SubmitJob,
    ) -> Result<JobId, PartitionError> {
        self.admit(claims)?;
        job.spec.validate()?;
        if let Some(mark) = &job.mark {
            match self.jobs.made_by(claims.lease, mark.clone()).await? {
                Earlier::Same(id) => return Ok(id),
                Earlier::Other => return Err(SubmitError::KeyReused.into()),
                Earlier::None => {}
            }
        }
        let image = self.image_for(job.image).await?;
        let job = NewJob { lease: claims.lease, image, spec: job.spec, mark: job.mark };
        Ok(self.jobs.submit(job, self.services.clock.now()).await?)
    }

    /// The image in which a job runs; it is started where nothing runs yet.
    async fn image_for(&mut self, wanted: Option<String>) -> Result<String, PartitionError> {
        let running = self.row.machine.boot().map(|boot| boot.image.clone());
        let found = wanted.as_deref().map(|name| self.find_image(name)).transpose()?;
        match (found, running) {
            (None, Some(running)) => Ok(running),
            (Some(image), Some(running)) if image.about.name == running => Ok(running),
            (Some(_), Some(running)) => Err(PartitionError::OtherImage { running }),
            (None, None) => Err(PartitionError::NoGuest),
            (Some(image), None) => self.boot(image).await,
        }
    }

    fn find_image(&self, name: &str) -> Result<BootableImage, PartitionError> {
        let image = self.services.images.find(name)?;
        image.ok_or_else(|| PartitionError::UnknownImage(name.to_owned()))
    }

    async fn boot(&mut self, image: BootableImage) -> Result<String, PartitionError> {
        let prepared = self.row.machine.built.clone().filter(|built| built.process.is_some());
        let built = prepared.ok_or(PartitionError::NoMachine)?;
        let nonce = hex::encode(random::<16>());
        let parameters =
            format!("{NONCE_PARAMETER}={nonce} {PORT_PARAMETER}={}", self.services.config.vsock_port);
        let source = BootSource {
            kernel: image.kernel,
            initrd: image.initrd,
            command_line: format!("{} {parameters}", image.command_line),
        };
        let name = image.about.name;
        let boot = Boot { image: name.clone(), nonce: Secret::new(nonce), greeted: false };
        // Stored first: a guest that runs is one that the next agent knows.
        let mut row = self.row.clone();
        row.machine.built = Some(Built { boot: Some(boot), ..built.clone() });
        row.machine.last = None;
        self.store(row).await?;
        let request = Request::Boot { version: PROTOCOL_VERSION, source };
        if let Err(error) = self.services.vmms.ask(self.row.id, request).await {
            self.build(Some(built)).await?;
            return Err(PartitionError::Boot(error));
        }
        let kept = self.services.console(self.row.id, built.cid);
        remove_consoles(&self.services.directory(self.row.id), Some(&kept)).map_err(PartitionError::Files)?;
        Ok(name)
    }

    pub(super) async fn greet(&mut self, mut frames: Frames, known: Vec<JobProgress>) {
        let Some(boot) = self.row.machine.boot().cloned() else {
            let reason = "the guest of this partition has ended".to_owned();
            // It is gone, or will be.
            let _ = frames.send(&FromHost::Refused { reason }).await;
            return;
        };
        self.hang_up();
        let relay = Relay::new(frames, self.jobs.clone(), Arc::clone(&self.services.clock));
        let (off, is_off) = watch::channel(false);
        let partition = self.row.id;
        let task = tokio::spawn(async move {
            let ended = relay.run(known, is_off).await;
            if let Err(error) = &ended {
                tracing::info!(%partition, error = chain(error), "a guest's connection ended");
            }
            ended
        });
        self.relay = Some(RunningRelay { task, off });
        if !boot.greeted
            && let Some(built) = self.row.machine.built.clone()
            && let Err(error) =
                self.build(Some(Built { boot: Some(Boot { greeted: true, ..boot }), ..built })).await
        {
            self.complain("it could not be stored that the guest runs", &error);
        }
    }

    /// Nothing more comes from the guest.
    fn hang_up(&mut self) {
        if let Some(relay) = self.relay.take() {
            relay.task.abort();
        }
    }

    /// The guest is off: what it had sent is taken.
    async fn drain_relay(&mut self) {
        let Some(mut relay) = self.relay.take() else { return };
        relay.off.send_replace(true);
        if timeout(DRAIN_PATIENCE, &mut relay.task).await.is_err() {
            relay.task.abort();
        }
    }

    pub(super) async fn machine_changed(&mut self, cid: u32, status: Result<Status, ControlError>) {
        let Some(built) = self.row.machine.built.clone().filter(|built| built.cid == cid) else { return };
        let taken = match status {
            Ok(Status { state: MachineState::Off { how }, .. }) => self.guest_off(built, how).await,
            Ok(_) => Ok(()),
            Err(error) => self.unreachable(built, &error).await,
        };
        if let Err(error) = taken {
            self.complain("the end of a guest could not be dealt with", &error);
        }
        self.settle().await;
    }

    async fn unreachable(&mut self, built: Built, error: &ControlError) -> Result<(), PartitionError> {
        if self.services.vmms.status(self.row.id).await.is_ok() {
            self.watch_machine(built.cid, 0);
            return Ok(());
        }
        self.lost(error).await
    }

    async fn guest_off(&mut self, built: Built, how: Ended) -> Result<(), PartitionError> {
        tracing::info!(partition = %self.row.id, ?how, "the guest has ended");
        self.drain_relay().await;
        if (how == Ended::Killed { by: Stopped::StopAt }) && self.row.partition.lease().is_some() {
            return self.commit(Event::End(HostEnd::Expired)).await;
        }
        let asked = self.stopping.is_some();
        self.jobs.end_all(job_end(&how, asked), self.services.clock.now()).await?;
        self.forget_machine(built, guest_end(how, asked)).await?;
        self.stopped();
        Ok(())
    }

    /// The borrower wants its guest stopped: by its power button, and at last by the plug.
    pub(super) async fn stop(&mut self, claims: &KeyClaims, reply: Reply<PartitionRow>) {
        if let Err(error) = self.admit(claims) {
            return answer(reply, Err(error));
        }
        if self.row.machine.boot().is_none() {
            return answer(reply, Err(PartitionError::NoGuest));
        }
        let stop = Request::Stop { version: PROTOCOL_VERSION };
        let asked = self.services.vmms.ask(self.row.id, stop).await;
        let patience = if asked.is_ok() { STOP_PATIENCE } else { Duration::ZERO };
        let deadline = Instant::now() + patience;
        let stopping = self.stopping.get_or_insert(Stopping { deadline, replies: Vec::new() });
        stopping.replies.push(reply);
    }

    pub(super) async fn kill_guest(&mut self) {
        if let Some(stopping) = &mut self.stopping {
            stopping.deadline = Instant::now() + STOP_PATIENCE;
        }
        let kill = Request::Kill { version: PROTOCOL_VERSION };
        if let Err(error) = self.services.vmms.ask(self.row.id, kill).await {
            self.complain("the guest could not be stopped yet", &error.into());
        }
    }

    /// Whoever waited for the guest to be stopped is told.
    fn stopped(&mut self) {
        for reply in self.stopping.take().into_iter().flat_map(|stopping| stopping.replies) {
            answer(reply, Ok(self.row.clone()));
        }
    }
}

fn guest_end(how: Ended, asked: bool) -> GuestEnd {
    match how {
        Ended::PoweredOff if asked => GuestEnd::Stopped,
        Ended::PoweredOff => GuestEnd::PoweredOff,
        Ended::Rebooted => GuestEnd::Rebooted,
        Ended::Panicked => GuestEnd::Panicked,
        Ended::TripleFault => GuestEnd::TripleFault,
        Ended::Killed { by: Stopped::Request } => GuestEnd::Stopped,
        Ended::Killed { by: Stopped::StopAt } => GuestEnd::LeaseEnded,
        Ended::Failed { reason } => GuestEnd::Failed { reason },
    }
}

fn job_end(how: &Ended, asked: bool) -> JobEnd {
    match how {
        Ended::PoweredOff if asked => JobEnd::GuestStopped,
        Ended::PoweredOff => JobEnd::GuestPoweredOff,
        Ended::Rebooted => JobEnd::GuestRebooted,
        Ended::Panicked => JobEnd::GuestPanicked,
        Ended::TripleFault => JobEnd::GuestFailed { reason: "its CPU met a triple fault".to_owned() },
        Ended::Killed { by: Stopped::Request } => JobEnd::GuestStopped,
        Ended::Killed { by: Stopped::StopAt } => JobEnd::LeaseEnded,
        Ended::Failed { reason } => JobEnd::GuestFailed { reason: reason.clone() },
    }
}
