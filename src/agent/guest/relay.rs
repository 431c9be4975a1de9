//! One connection to a guest's job runner: jobs go in, output and ends come out, each stored before the guest is told
//! that it may forget.

use std::{sync::Arc, time::Duration};

use sublet_guest_protocol::{
    self as protocol, FrameError, FromGuest, FromHost, JobProgress, MEASURING_VERSION, OLDEST_VERSION,
    Resume, Stream,
};
use thiserror::Error;
use tokio::{sync::watch, task::JoinError, time::timeout};
use uuid::Uuid;

use super::{
    frames::Frames,
    jobs::{Ending, Job, Jobs, Stage},
    listener::Runner,
    output::{JobOutput, OutputError},
    tunnels::Tunnels,
};
use crate::{
    agent::{host::clock::LeaseClock, partition::table::TableError},
    api::agent::JobEnd,
    domain::{
        id::JobId,
        receipt::{
            guest::{GuestWord, boot_name},
            key::{ReceiptKey, Signature},
        },
    },
};

/// After a guest has ended, what it had sent may still be on its way; once so long nothing came, nothing will.
const QUIET: Duration = Duration::from_millis(250);
/// How often a runner is to say what it has measured.
const MEASURE_EVERY_MS: u32 = 10_000;

/// Why a connection ended.
#[derive(Debug, Error)]
pub enum RelayError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the guest does not keep to the protocol: {0}")]
    Misbehaved(&'static str),
    #[error("a job's output cannot be stored")]
    Output(#[from] OutputError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("the thread that stores output ended")]
    Gone(#[from] JoinError),
}

/// The host's end of one connection.
pub struct Relay {
    frames: Frames,
    version: u32,
    known: Vec<JobProgress>,
    jobs: Jobs,
    tunnels: Arc<Tunnels>,
    clock: Arc<LeaseClock>,
    listener: Option<WordListener>,
    current: Option<Current>,
}

/// Who hears what the runner of a boot has measured.
struct WordListener {
    boot: String,
    tell: Box<dyn Fn(GuestWord) + Send + Sync>,
}

/// The job that the guest runs, or was told to.
struct Current {
    id: JobId,
    output: JobOutput,
    cancel_sent: bool,
}

impl Relay {
    pub fn new(runner: Runner, jobs: Jobs, tunnels: Arc<Tunnels>, clock: Arc<LeaseClock>) -> Self {
        let Runner { frames, version, known } = runner;
        Self { frames, version, known, jobs, tunnels, clock, listener: None, current: None }
    }

    /// What the runner measures is told, where it signs it as of the boot that has this nonce.
    pub fn telling(self, nonce: &str, tell: impl Fn(GuestWord) + Send + Sync + 'static) -> Self {
        let listener = WordListener { boot: boot_name(nonce), tell: Box::new(tell) };
        Self { listener: Some(listener), ..self }
    }

    /// Serves the runner until the connection breaks, or until the guest is `off` and everything it had sent was taken.
    /// The runner is to let no longer pass than `beat_every` without saying anything.
    pub async fn run(
        mut self,
        beat_every: Duration,
        mut off: watch::Receiver<bool>,
    ) -> Result<(), RelayError> {
        self.welcome().await?;
        self.have_it_beat(beat_every).await?;
        self.have_it_measure().await?;
        self.give_work().await?;
        self.ask_for_tunnels().await?;
        loop {
            tokio::select! {
                message = self.frames.receive() => self.hear(message?).await?,
                () = self.jobs.signals().work() => self.give_work().await?,
                () = self.tunnels.wanted() => self.ask_for_tunnels().await?,
                () = ended(&mut off) => return self.drain().await,
            }
        }
    }

    async fn drain(&mut self) -> Result<(), RelayError> {
        while let Ok(message) = timeout(QUIET, self.frames.receive()).await {
            self.hear(message?).await?;
        }
        Ok(())
    }

    /// Goes on where the connection before broke off.
    async fn welcome(&mut self) -> Result<(), RelayError> {
        let known = std::mem::take(&mut self.known);
        let current = self.jobs.in_flight().await?;
        let progress = |job: &Job| known.iter().find(|known| known.job == wire_id(job.id));
        match current.as_ref().map(|job| (job, progress(job))) {
            Some((job, Some(progress))) => self.resume(job.id, progress).await?,
            Some((job, None)) if job.stage == Stage::Running => self.lose(job.id).await?,
            // A job that was sent and not heard of is sent again; a runner that knows it does not run it twice.
            _ => {}
        }
        self.frames.send(&FromHost::Welcome { resume: self.resume_points() }).await?;
        let current = self.current_id();
        for stale in known.iter().filter(|known| current != Some(known.job)) {
            self.frames.send(&FromHost::Cancel { job: stale.job }).await?;
            self.frames.send(&FromHost::Forget { job: stale.job }).await?;
        }
        Ok(())
    }

    /// Whether the runner knows of tunnels and beats.
    fn is_current(&self) -> bool {
        self.version > OLDEST_VERSION
    }

    async fn have_it_beat(&mut self, every: Duration) -> Result<(), RelayError> {
        if self.is_current() {
            let every_ms = u32::try_from(every.as_millis()).unwrap_or(u32::MAX);
            self.frames.send(&FromHost::Beat { every_ms }).await?;
        }
        Ok(())
    }

    async fn have_it_measure(&mut self) -> Result<(), RelayError> {
        if self.version >= MEASURING_VERSION && self.listener.is_some() {
            self.frames.send(&FromHost::Measure { every_ms: MEASURE_EVERY_MS }).await?;
        }
        Ok(())
    }

    /// A word that is not signed, or not of this boot, is none.
    fn take_word(&self, text: String, key: [u8; 32], signature: &[u8]) {
        let Some(listener) = &self.listener else { return };
        let Ok(signature) = Signature::try_from(signature) else { return };
        let word = GuestWord { text, key: ReceiptKey::from(key), signature };
        if word.measured().is_some_and(|measured| measured.boot == listener.boot) {
            (listener.tell)(word);
        }
    }

    async fn ask_for_tunnels(&mut self) -> Result<(), RelayError> {
        while let Some((tunnel, port)) = self.tunnels.next() {
            if self.is_current() {
                self.frames.send(&FromHost::OpenTunnel { tunnel, port }).await?;
            } else {
                self.tunnels.unsupported(tunnel);
            }
        }
        Ok(())
    }

    async fn resume(&mut self, id: JobId, progress: &JobProgress) -> Result<(), RelayError> {
        let mut current = self.open(id).await?;
        current.output.stream(Stream::Stdout).resume(progress.stdout_from);
        current.output.stream(Stream::Stderr).resume(progress.stderr_from);
        self.current = Some(current);
        Ok(())
    }

    /// The runner was started anew and knows nothing of a job that it had begun: it is not begun twice (law 6).
    async fn lose(&self, id: JobId) -> Result<(), RelayError> {
        let reason = "the job runner in the guest was restarted and has lost the job".to_owned();
        let ending = Ending { end: JobEnd::GuestFailed { reason }, dropped: (0, 0) };
        Ok(self.jobs.end(id, ending, self.clock.now()).await?)
    }

    fn resume_points(&self) -> Vec<Resume> {
        let point = |current: &Current| {
            let (stdout, stderr) = current.output.taken();
            Resume { job: wire_id(current.id), stdout, stderr }
        };
        self.current.iter().map(point).collect()
    }

    fn current_id(&self) -> Option<protocol::JobId> {
        self.current.as_ref().map(|current| wire_id(current.id))
    }

    async fn open(&self, id: JobId) -> Result<Current, RelayError> {
        let directory = self.jobs.output_directory().to_owned();
        let output = tokio::task::spawn_blocking(move || JobOutput::open(&directory, id)).await??;
        Ok(Current { id, output, cancel_sent: false })
    }

    /// Tells the guest what it does not know yet: the next job, or that the one it runs is cancelled.
    async fn give_work(&mut self) -> Result<(), RelayError> {
        let Some(job) = self.jobs.next().await? else { return Ok(()) };
        if self.current_id() != Some(wire_id(job.id)) {
            let Some(spec) = self.jobs.spec(job.id).await? else { return Ok(()) };
            self.current = Some(self.open(job.id).await?);
            self.frames.send(&FromHost::Start(spec)).await?;
        }
        if let Some(current) =
            self.current.as_mut().filter(|current| job.cancel_requested && !current.cancel_sent)
        {
            current.cancel_sent = true;
            self.frames.send(&FromHost::Cancel { job: wire_id(job.id) }).await?;
        }
        Ok(())
    }

    async fn hear(&mut self, message: FromGuest) -> Result<(), RelayError> {
        self.jobs.signals().heard();
        match message {
            FromGuest::Hello { .. } | FromGuest::Tunnel { .. } => {
                Err(RelayError::Misbehaved("it greeted twice"))
            }
            FromGuest::Started { job } if self.current_id() == Some(job) => {
                Ok(self.jobs.started(host_id(job)).await?)
            }
            FromGuest::Output { job, stream, offset, bytes } => self.keep(job, stream, offset, bytes).await,
            FromGuest::Ended { job, end, stdout_bytes, stderr_bytes } => {
                self.ended(job, end, (stdout_bytes, stderr_bytes)).await
            }
            FromGuest::TunnelRefused { tunnel, why } => {
                self.tunnels.refused(tunnel, why);
                Ok(())
            }
            FromGuest::Measured { text, key, signature } => {
                self.take_word(text, key, &signature);
                Ok(())
            }
            FromGuest::Started { .. } | FromGuest::Beat => Ok(()),
        }
    }

    async fn keep(
        &mut self,
        job: protocol::JobId,
        stream: Stream,
        offset: u64,
        bytes: Vec<u8>,
    ) -> Result<(), RelayError> {
        let Some(mut current) = self.current.take_if(|current| wire_id(current.id) == job) else {
            return Err(RelayError::Misbehaved("it sent output of a job that does not run"));
        };
        let (current, taken) = tokio::task::spawn_blocking(move || {
            let log = current.output.stream(stream);
            let taken = log.append(offset, &bytes).map(|()| log.taken());
            (current, taken)
        })
        .await?;
        self.current = Some(current);
        self.jobs.signals().output_changed();
        let acknowledge = FromHost::Acknowledge { job, stream, offset: taken? };
        Ok(self.frames.send(&acknowledge).await?)
    }

    async fn ended(
        &mut self,
        job: protocol::JobId,
        end: protocol::JobEnd,
        sent: (u64, u64),
    ) -> Result<(), RelayError> {
        if let Some(current) = self.current.take_if(|current| wire_id(current.id) == job) {
            if current.output.taken() != sent {
                return Err(RelayError::Misbehaved("it ended a job without sending all of its output"));
            }
            let ending = Ending { end: end.into(), dropped: current.output.dropped() };
            self.jobs.end(current.id, ending, self.clock.now()).await?;
        }
        Ok(self.frames.send(&FromHost::Forget { job }).await?)
    }
}

/// Waits until the guest is off; whoever would say so may be gone, which is the same.
async fn ended(off: &mut watch::Receiver<bool>) {
    let _ = off.wait_for(|off| *off).await;
}

fn wire_id(id: JobId) -> protocol::JobId {
    protocol::JobId(id.0.into_bytes())
}

fn host_id(id: protocol::JobId) -> JobId {
    JobId(Uuid::from_bytes(id.0))
}

impl From<protocol::JobEnd> for JobEnd {
    fn from(end: protocol::JobEnd) -> Self {
        match end {
            protocol::JobEnd::Exited { code } => Self::Exited { code },
            protocol::JobEnd::Signaled { signal } => Self::Signaled { signal },
            protocol::JobEnd::OutOfMemory => Self::OutOfMemory,
            protocol::JobEnd::TimedOut => Self::TimedOut,
            protocol::JobEnd::Cancelled => Self::Cancelled,
            protocol::JobEnd::NotStarted { reason } => Self::NotStarted { reason },
        }
    }
}

#[cfg(test)]
mod tests;
