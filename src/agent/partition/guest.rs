//! The guest in a partition, as the partition's driver handles it: booted, given jobs, stopped, over.

use std::{sync::Arc, time::Duration};

use sublet_guest_protocol::{FromHost, NONCE_PARAMETER, OLDEST_VERSION, PORT_PARAMETER};
use sublet_vmm_protocol::{ControlError, Ended, MachineState, PROTOCOL_VERSION, Request, Status, Stopped};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    driver::{Driver, Reply, SubmitJob, answer},
    effects::remove_consoles,
    error::PartitionError,
    machine::{Boot, Built},
    table::{Earlier, PartitionRow},
};
use crate::{
    agent::{
        guest::{
            jobs::{NewJob, SubmitError},
            listener::Runner,
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
        partition::{Effect, Event, HostEnd},
        secret::Secret,
    },
};

/// How long a guest may take to power itself off before it is ended.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Most boots of an image until its job runner calls.
const BOOTS_MAX: u32 = 3;
/// How long what a guest had sent may take to be stored once it is off.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// The connection to the guest's job runner.
pub(super) struct RunningRelay {
    task: JoinHandle<Result<(), RelayError>>,
    off: watch::Sender<bool>,
    beats: bool,
}

/// Who waits for the guest to be stopped, and until when it may take its time.
pub(super) struct Stopping {
    pub(super) deadline: Instant,
    replies: Vec<Reply<PartitionRow>>,
}

impl Driver {
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
            (Some(image), None) => self.boot(image, 1).await,
        }
    }

    fn find_image(&self, name: &str) -> Result<BootableImage, PartitionError> {
        let image = self.services.images.find(name)?;
        image.ok_or_else(|| PartitionError::UnknownImage(name.to_owned()))
    }

    async fn boot(&mut self, image: BootableImage, boots: u32) -> Result<String, PartitionError> {
        let prepared = self.row.machine.built.clone().filter(|built| built.process.is_some());
        let built = prepared.ok_or(PartitionError::NoMachine)?;
        let nonce = hex::encode(random::<16>());
        let parameters =
            format!("{NONCE_PARAMETER}={nonce} {PORT_PARAMETER}={}", self.services.config.vsock_port);
        let command_line = format!("{} {parameters}", image.command_line);
        let name = image.about.name.clone();
        let boot = Boot { image: name.clone(), nonce: Secret::new(nonce), greeted: false, boots, hung: None };
        // Stored first: a guest that runs is one that the next agent knows.
        let mut row = self.row.clone();
        row.machine.built = Some(Built { boot: Some(boot), ..built.clone() });
        row.machine.last = None;
        self.store(row).await?;
        if let Err(error) = self.services.vmms.boot(self.row.id, &image, command_line).await {
            self.build(Some(built)).await?;
            return Err(PartitionError::Boot(error));
        }
        let kept = self.services.console(self.row.id, built.cid);
        remove_consoles(&self.services.directory(self.row.id), Some(&kept)).map_err(PartitionError::Files)?;
        Ok(name)
    }

    /// The guest before ended before anything of the borrower's had run in it; its jobs still wait.
    pub(super) async fn boot_again(&mut self, image: &str, boots: u32) -> Result<(), PartitionError> {
        if self.row.machine.boot().is_some() {
            return Ok(());
        }
        let booted = match self.find_image(image) {
            Ok(image) => self.boot(image, boots + 1).await.map(drop),
            Err(error) => Err(error),
        };
        match booted {
            Err(error @ (PartitionError::UnknownImage(_) | PartitionError::Boot(_))) => {
                let end = JobEnd::GuestFailed { reason: chain(&error) };
                Ok(self.jobs.end_all(end, self.services.clock.now()).await?)
            }
            booted => booted,
        }
    }

    pub(super) async fn greet(&mut self, mut runner: Runner) {
        let Some(boot) = self.row.machine.boot().cloned() else {
            let reason = "the guest of this partition has ended".to_owned();
            // It is gone, or will be.
            let _ = runner.frames.send(&FromHost::Refused { reason }).await;
            return;
        };
        self.hang_up();
        self.listen_to(runner, &boot);
        if !boot.greeted
            && let Some(built) = self.row.machine.built.clone()
            && let Err(error) =
                self.build(Some(Built { boot: Some(Boot { greeted: true, ..boot }), ..built })).await
        {
            self.complain("it could not be stored that the guest runs", &error);
        }
        self.revived().await;
    }

    fn listen_to(&mut self, runner: Runner, boot: &Boot) {
        let beats = runner.version > OLDEST_VERSION;
        let (jobs, tunnels) = (self.jobs.clone(), Arc::clone(&self.tunnels));
        let freeze = Arc::clone(&self.freeze);
        let relay = Relay::new(runner, jobs, tunnels, Arc::clone(&self.services.clock))
            .telling(boot.nonce.reveal(), move |word| freeze.heard(word));
        let (off, is_off) = watch::channel(false);
        let (partition, beat_every) = (self.row.id, self.services.config.guests.beat_every());
        let task = tokio::spawn(async move {
            let ended = relay.run(beat_every, is_off).await;
            if let Err(error) = &ended {
                tracing::info!(%partition, error = chain(error), "a guest's connection ended");
            }
            ended
        });
        self.relay = Some(RunningRelay { task, off, beats });
    }

    /// Whether a runner is connected that can only be heard when it has something to say.
    pub(super) fn has_runner_without_beats(&self) -> bool {
        self.relay.as_ref().is_some_and(|relay| !relay.beats && !relay.task.is_finished())
    }

    /// Nothing more comes from the guest.
    pub(super) fn hang_up(&mut self) {
        if let Some(relay) = self.relay.take() {
            relay.task.abort();
        }
    }

    /// The guest is off: what it had sent is taken.
    pub(super) async fn drain_relay(&mut self) {
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

    async fn guest_off(&mut self, built: Built, how: Ended) -> Result<(), PartitionError> {
        tracing::info!(partition = %self.row.id, ?how, "the guest has ended");
        self.drain_relay().await;
        if (how == Ended::Killed { by: Stopped::StopAt }) && self.row.partition.lease().is_some() {
            return self.commit(Event::End(HostEnd::Expired)).await;
        }
        let asked = match (self.stopping.is_some(), self.was_warned()) {
            (true, _) => Asked::ByBorrower,
            (false, true) => Asked::ByDeadline,
            (false, false) => Asked::Not,
        };
        let again = (asked == Asked::Not).then(|| boot_again(&built, &how)).flatten();
        if let Some(Effect::BootAgain { image, boots }) = &again {
            tracing::warn!(partition = %self.row.id, image, boots, "the guest ended before its job runner called");
        } else {
            self.jobs.end_all(job_end(&how, asked), self.services.clock.now()).await?;
        }
        self.forget_machine(built, guest_end(how, asked), again).await?;
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
            // A VMM that does not answer is ended with its guest.
            if let Err(error) = self.lost(&error).await {
                self.complain("the guest could not be stopped yet", &error);
            }
            self.settle().await;
        }
    }

    /// Whoever waited for the guest to be stopped is told.
    pub(super) fn stopped(&mut self) {
        for reply in self.stopping.take().into_iter().flat_map(|stopping| stopping.replies) {
            answer(reply, Ok(self.row.clone()));
        }
    }
}

/// What there is to do where a guest gave up by itself while it came up: what waits for it was not begun anywhere.
fn boot_again(built: &Built, how: &Ended) -> Option<Effect> {
    let boot = built.boot.as_ref().filter(|boot| !boot.greeted && boot.boots < BOOTS_MAX)?;
    let gave_up = matches!(how, Ended::Rebooted | Ended::Panicked | Ended::TripleFault);
    gave_up.then(|| Effect::BootAgain { image: boot.image.clone(), boots: boot.boots })
}

/// Whether a guest's power button was pressed, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Not,
    ByBorrower,
    /// Its lease is about to end.
    ByDeadline,
}

fn guest_end(how: Ended, asked: Asked) -> GuestEnd {
    match how {
        Ended::PoweredOff if asked == Asked::ByBorrower => GuestEnd::Stopped,
        Ended::PoweredOff if asked == Asked::ByDeadline => GuestEnd::LeaseEnded,
        Ended::PoweredOff => GuestEnd::PoweredOff,
        Ended::Rebooted => GuestEnd::Rebooted,
        Ended::Panicked => GuestEnd::Panicked,
        Ended::TripleFault => GuestEnd::TripleFault,
        Ended::Killed { by: Stopped::Request } => GuestEnd::Stopped,
        Ended::Killed { by: Stopped::StopAt } => GuestEnd::LeaseEnded,
        Ended::Failed { reason } => GuestEnd::Failed { reason },
    }
}

fn job_end(how: &Ended, asked: Asked) -> JobEnd {
    match how {
        Ended::PoweredOff if asked == Asked::ByBorrower => JobEnd::GuestStopped,
        Ended::PoweredOff if asked == Asked::ByDeadline => JobEnd::LeaseEnded,
        Ended::PoweredOff => JobEnd::GuestPoweredOff,
        Ended::Rebooted => JobEnd::GuestRebooted,
        Ended::Panicked => JobEnd::GuestPanicked,
        Ended::TripleFault => JobEnd::GuestFailed { reason: "its CPU met a triple fault".to_owned() },
        Ended::Killed { by: Stopped::Request } => JobEnd::GuestStopped,
        Ended::Killed { by: Stopped::StopAt } => JobEnd::LeaseEnded,
        Ended::Failed { reason } => JobEnd::GuestFailed { reason: reason.clone() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(greeted: bool, boots: u32) -> Built {
        let boot =
            Boot { image: "debian-micro".to_owned(), nonce: Secret::new("x"), greeted, boots, hung: None };
        Built { cid: 3, host_boot: String::new(), process: None, baseline: None, boot: Some(boot) }
    }

    #[test]
    fn a_guest_that_gave_up_before_its_runner_called_is_booted_three_times_at_most() {
        let again = boot_again(&built(false, 1), &Ended::Rebooted);
        assert_eq!(again, Some(Effect::BootAgain { image: "debian-micro".to_owned(), boots: 1 }));
        assert!(boot_again(&built(false, 2), &Ended::Panicked).is_some());
        assert_eq!(boot_again(&built(false, 3), &Ended::TripleFault), None);
    }

    #[test]
    fn a_guest_in_which_something_may_have_run_or_that_was_ended_is_not_booted_again() {
        assert_eq!(boot_again(&built(true, 1), &Ended::Rebooted), None);
        assert_eq!(boot_again(&built(false, 1), &Ended::PoweredOff), None);
        assert_eq!(boot_again(&built(false, 1), &Ended::Killed { by: Stopped::Request }), None);
    }
}
