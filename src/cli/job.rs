//! Jobs: submitted, followed, listed, ended.

use std::{
    io::{Read, Write, stderr, stdin, stdout},
    process::ExitCode,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;
use uuid::Uuid;

use super::{
    CliError,
    args::{ProgramArguments, RunArguments},
    context::Context,
    lease_store::KeptLease,
    progress::Progress,
    report::{Report, line, table},
};
use crate::{
    api::agent::{GuestHung, JobEnd, JobState, JobView, Jobs, PartitionView, RunJob},
    client::{AgentClient, ClientError, LogEvent},
    domain::id::{JobId, LeaseId},
};

/// How long an agent may be out of reach (restarted, upgraded) before following it is given up.
const TOUCH_LOST: Duration = Duration::from_secs(120);
const BETWEEN_TRIES: Duration = Duration::from_millis(250);

pub(super) async fn run(context: &Context, arguments: &RunArguments) -> Result<ExitCode, CliError> {
    let lease = context.lease(arguments.lease.lease)?;
    let job = submit(context, &lease, arguments.image.as_deref(), &arguments.program).await?;
    if arguments.detach {
        context.print(&job)?;
        return Ok(ExitCode::SUCCESS);
    }
    let progress = Progress::new("waiting for the guest");
    let ended = follow_or_cancel(context, &lease, job.id, &progress).await?;
    told(context, &ended)
}

/// Gives the job to the host; a broken connection makes no second job.
pub(super) async fn submit(
    context: &Context,
    lease: &KeptLease,
    image: Option<&str>,
    program: &ProgramArguments,
) -> Result<JobView, CliError> {
    let host = context.borrowed_host(lease)?;
    let job = RunJob {
        image: image.map(str::to_owned),
        argv: program.command.clone(),
        env: program.env.iter().map(|variable| (variable.name.clone(), variable.value.clone())).collect(),
        working_directory: program.workdir.clone(),
        stdin_base64: if program.stdin { Some(BASE64_STANDARD.encode(read_stdin()?)) } else { None },
        time_limit_ms: program.time_limit.map(|limit| limit.seconds.saturating_mul(1000)),
    };
    let request = Uuid::now_v7();
    Ok(match host.run(lease.partition, request, &job).await {
        Err(error) if error.is_unreachable() => host.run(lease.partition, request, &job).await?,
        submitted => submitted?,
    })
}

fn read_stdin() -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    stdin().lock().read_to_end(&mut bytes).map_err(CliError::Stdin)?;
    Ok(bytes)
}

/// Prints a job's output until it ends, `progress` until it begins; an interrupt cancels it, and its end is still waited for.
pub(super) async fn follow_or_cancel(
    context: &Context,
    lease: &KeptLease,
    job: JobId,
    progress: &Progress,
) -> Result<JobView, CliError> {
    let host = context.borrowed_host(lease)?;
    let following =
        Follower { context, host: &host, lease, job, progress, last: None, lost_since: None }.follow();
    tokio::pin!(following);
    tokio::select! {
        ended = &mut following => return ended,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(CliError::Signal)?,
    }
    host.cancel(lease.partition, job).await?;
    following.await
}

/// Follows one job's output over as many connections as it takes.
struct Follower<'a> {
    context: &'a Context,
    host: &'a AgentClient,
    lease: &'a KeptLease,
    job: JobId,
    progress: &'a Progress,
    /// Where the output goes on after a broken connection.
    last: Option<String>,
    /// Since when the host has been out of reach.
    lost_since: Option<Instant>,
}

impl Follower<'_> {
    async fn follow(mut self) -> Result<JobView, CliError> {
        loop {
            match self.follow_once().await {
                Ok(Some(ended)) => return Ok(ended),
                Ok(None) => self.pause().await,
                Err(CliError::Client(error)) if is_passing(&error) => self.pause_unless_lost(error).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// None: the host closed the stream before the job's end, as it does when it is restarted.
    async fn follow_once(&mut self) -> Result<Option<JobView>, CliError> {
        let mut events = self.host.logs(self.lease.partition, self.job, self.last.as_deref()).await?;
        while let Some(event) = events.next().await? {
            self.lost_since = None;
            self.progress.done();
            if let LogEvent::End(job) = event {
                return Ok(Some(*job));
            }
            show(self.context, &event)?;
            self.last = events.last_id().map(str::to_owned);
        }
        Ok(None)
    }

    async fn pause_unless_lost(&mut self, error: ClientError) -> Result<(), CliError> {
        let since = *self.lost_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= TOUCH_LOST {
            return Err(CliError::LostTouch(TOUCH_LOST.as_secs(), error));
        }
        self.pause().await;
        Ok(())
    }

    async fn pause(&self) {
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

/// Whether the stream may be taken up again where it broke.
fn is_passing(error: &ClientError) -> bool {
    error.is_unreachable() || matches!(error, ClientError::Stream { .. })
}

/// Passes output on: to our own streams, or as one JSON object a line.
fn show(context: &Context, event: &LogEvent) -> Result<(), CliError> {
    if context.json() {
        return line(&as_json(event).to_string());
    }
    match event {
        LogEvent::Stdout { bytes, .. } | LogEvent::Console { bytes, .. } => {
            let mut out = stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush()).map_err(CliError::Output)
        }
        LogEvent::Stderr { bytes, .. } => stderr().lock().write_all(bytes).map_err(CliError::Output),
        LogEvent::Guest(hung) => {
            writeln!(stderr().lock(), "sublet: {}", silence(hung.as_ref())).map_err(CliError::Output)
        }
        LogEvent::End(_) => Ok(()),
    }
}

fn silence(hung: Option<&GuestHung>) -> String {
    match hung {
        Some(hung) => {
            format!("the guest is not heard since {}: it may hang; `sublet stop` ends it", hung.since)
        }
        None => "the guest is heard again".to_owned(),
    }
}

fn as_json(event: &LogEvent) -> serde_json::Value {
    let chunk = |name: &str, offset: u64, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "event": name, "offset": offset, "text": text }),
        Err(_) => json!({ "event": name, "offset": offset, "base64": BASE64_STANDARD.encode(bytes) }),
    };
    match event {
        LogEvent::Stdout { offset, bytes } => chunk("stdout", *offset, bytes),
        LogEvent::Stderr { offset, bytes } => chunk("stderr", *offset, bytes),
        LogEvent::Console { offset, bytes } => chunk("console", *offset, bytes),
        LogEvent::Guest(hung) => json!({ "event": "guest", "guest_hung": hung }),
        LogEvent::End(job) => json!({ "event": "end", "job": job }),
    }
}

/// Says how a job ended where its exit code does not, and turns the end into our own exit code.
pub(super) fn told(context: &Context, job: &JobView) -> Result<ExitCode, CliError> {
    if context.json() {
        line(&as_json(&LogEvent::End(Box::new(job.clone()))).to_string())?;
    }
    let JobState::Ended { end } = &job.state else { return Ok(ExitCode::SUCCESS) };
    if !context.json() && !matches!(end, JobEnd::Exited { .. }) {
        writeln!(stderr().lock(), "sublet: {}", ending(end)).map_err(CliError::Output)?;
    }
    Ok(exit_code(end))
}

/// As a shell would have it: 128 + signal, 124 for a time limit, 127 for a program that did not start; 125
/// where the guest or the lease ended under the job.
fn exit_code(end: &JobEnd) -> ExitCode {
    ExitCode::from(match end {
        JobEnd::Exited { code } => *code,
        JobEnd::Signaled { signal } => signal.saturating_add(128),
        JobEnd::OutOfMemory => 137,
        JobEnd::TimedOut => 124,
        JobEnd::Cancelled => 130,
        JobEnd::NotStarted { .. } => 127,
        _ => 125,
    })
}

fn ending(end: &JobEnd) -> String {
    match end {
        JobEnd::Exited { code } => format!("exited with {code}"),
        JobEnd::Signaled { signal } => format!("ended by signal {signal}"),
        JobEnd::OutOfMemory => "killed: the partition's memory was used up".to_owned(),
        JobEnd::TimedOut => "ended: its time limit was up".to_owned(),
        JobEnd::Cancelled => "cancelled".to_owned(),
        JobEnd::NotStarted { reason } => format!("not started: {reason}"),
        JobEnd::GuestPanicked => "lost: the guest's kernel panicked".to_owned(),
        JobEnd::GuestPoweredOff => "lost: the guest powered itself off".to_owned(),
        JobEnd::GuestRebooted => "lost: the guest rebooted".to_owned(),
        JobEnd::GuestFailed { reason } => format!("lost: the guest failed: {reason}"),
        JobEnd::GuestStopped => "lost: the guest was stopped".to_owned(),
        JobEnd::LeaseEnded => "ended with its lease".to_owned(),
        JobEnd::HostLost => "lost: the host went down".to_owned(),
    }
}

pub(super) async fn jobs(context: &Context, choice: Option<LeaseId>) -> Result<ExitCode, CliError> {
    let lease = context.lease(choice)?;
    context.print(&context.borrowed_host(&lease)?.jobs(lease.partition).await?)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn logs(
    context: &Context,
    choice: Option<LeaseId>,
    job: JobId,
) -> Result<ExitCode, CliError> {
    let lease = context.lease(choice)?;
    let host = context.borrowed_host(&lease)?;
    let progress = Progress::new("waiting for output");
    let follower = Follower {
        context,
        host: &host,
        lease: &lease,
        job,
        progress: &progress,
        last: None,
        lost_since: None,
    };
    told(context, &follower.follow().await?)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn cancel(
    context: &Context,
    choice: Option<LeaseId>,
    job: JobId,
) -> Result<ExitCode, CliError> {
    let lease = context.lease(choice)?;
    context.print(&context.borrowed_host(&lease)?.cancel(lease.partition, job).await?)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn console(context: &Context, choice: Option<LeaseId>) -> Result<ExitCode, CliError> {
    let lease = context.lease(choice)?;
    let mut events = context.borrowed_host(&lease)?.console(lease.partition, None).await?;
    while let Some(event) = events.next().await? {
        show(context, &event)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn stop(context: &Context, choice: Option<LeaseId>) -> Result<ExitCode, CliError> {
    let lease = context.lease(choice)?;
    let view: PartitionView = context.borrowed_host(&lease)?.stop(lease.partition).await?;
    context.print(&view)?;
    Ok(ExitCode::SUCCESS)
}

impl Report for JobView {
    fn text(&self) -> String {
        format!(
            "job        {}\nimage      {}\nprogram    {}\nstate      {}",
            self.id,
            self.image,
            self.argv.join(" "),
            state(&self.state),
        )
    }
}

impl Report for Jobs {
    fn text(&self) -> String {
        let rows = self.jobs.iter().map(|job| {
            [
                job.id.to_string(),
                job.submitted_at.to_string(),
                job.image.clone(),
                state(&job.state),
                job.argv.join(" "),
            ]
        });
        table(["JOB", "SUBMITTED", "IMAGE", "STATE", "PROGRAM"], rows)
    }
}

fn state(state: &JobState) -> String {
    match state {
        JobState::Queued => "queued".to_owned(),
        JobState::Running => "running".to_owned(),
        JobState::Ended { end } => ending(end),
    }
}
