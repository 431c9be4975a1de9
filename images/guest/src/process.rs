//! A running job: its main process, what that left behind, and its output.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use sublet_guest_protocol::{JobEnd, JobSpec};

use crate::cgroup::{Cgroup, Cgroups};
use crate::log::say;
use crate::output::Output;
use crate::pipe::Pipe;
use crate::start::{StartError, start};

/// How long killed descendants of an ended job are waited for. One stuck in the kernel may never go.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Process {
    child: Child,
    /// Readable once the main process has ended.
    pidfd: OwnedFd,
    cgroup: Option<Cgroup>,
    stdout: Pipe,
    stderr: Pipe,
    /// When its time is up.
    time_limit: Option<Instant>,
    /// Why the runner killed it, if it did.
    killed: Option<JobEnd>,
    stage: Stage,
}

enum Stage {
    /// The main process runs.
    Running,
    /// It has ended; its descendants were killed and are waited for, at most until `patience`.
    Leaving { status: ExitStatus, patience: Instant },
    /// Nothing of it runs; what it wrote is still being read.
    Draining(JobEnd),
}

impl Process {
    pub(crate) fn start(spec: &JobSpec, cgroups: Option<&Cgroups>) -> Result<Self, StartError> {
        let cgroup = cgroups.and_then(|all| all.create(spec.id).map_err(without_cgroup).ok());
        match start(spec, cgroup.as_ref()) {
            Ok(child) => Self::watch_over(child, cgroup, spec.time_limit_ms),
            Err(error) => {
                cgroup.into_iter().for_each(Cgroup::remove);
                Err(error)
            }
        }
    }

    fn watch_over(
        mut child: Child,
        cgroup: Option<Cgroup>,
        time_limit_ms: Option<u64>,
    ) -> Result<Self, StartError> {
        match descriptors(&mut child) {
            Ok((pidfd, stdout, stderr)) => {
                let time_limit =
                    time_limit_ms.and_then(|limit| Instant::now().checked_add(Duration::from_millis(limit)));
                let (killed, stage) = (None, Stage::Running);
                Ok(Self { child, pidfd, cgroup, stdout, stderr, time_limit, killed, stage })
            }
            Err(error) => {
                let _ = child.kill().and_then(|()| child.wait());
                cgroup.into_iter().for_each(Cgroup::remove);
                Err(StartError::Watch(error))
            }
        }
    }

    pub(crate) fn cancel(&mut self) {
        self.kill(JobEnd::Cancelled);
    }

    /// Looks after what has happened; the job's end, once nothing of it is left.
    pub(crate) fn advance(
        &mut self,
        now: Instant,
        stdout: &mut Output,
        stderr: &mut Output,
    ) -> Option<JobEnd> {
        if self.time_limit.is_some_and(|limit| now >= limit) {
            self.kill(JobEnd::TimedOut);
        }
        self.clear_up(now);
        self.finish(now);
        self.stdout.drain_into(stdout);
        self.stderr.drain_into(stderr);
        match &self.stage {
            Stage::Draining(end) if self.stdout.is_closed() && self.stderr.is_closed() => Some(end.clone()),
            _ => None,
        }
    }

    fn kill(&mut self, why: JobEnd) {
        if self.killed.is_none() && matches!(self.stage, Stage::Running) {
            self.killed = Some(why);
            self.kill_all();
        }
    }

    fn kill_all(&self) {
        let killed = self.cgroup.as_ref().map(Cgroup::kill);
        if let Some(Err(error)) = &killed {
            say(format_args!("cannot kill a job by its cgroup: {error}"));
        }
        if !matches!(killed, Some(Ok(()))) {
            // Gone already is as good.
            let _ = i32::try_from(self.child.id())
                .ok()
                .and_then(Pid::from_raw)
                .map(|leader| kill_process_group(leader, Signal::KILL));
        }
    }

    /// When the main process has ended, so do its descendants: killed before it is reaped, while its id still
    /// names its process group and no other.
    fn clear_up(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Running) && is_ready(&self.pidfd) {
            self.kill_all();
            let status = self.child.wait().unwrap_or_else(without_status);
            self.stage = Stage::Leaving { status, patience: now + PATIENCE };
        }
    }

    /// When its descendants are gone too, no more output can come.
    fn finish(&mut self, now: Instant) {
        let Stage::Leaving { status, patience } = &self.stage else { return };
        if self.cgroup.as_ref().is_none_or(Cgroup::is_empty) || now >= *patience {
            self.stage = Stage::Draining(self.end_by(*status));
            self.stdout.finish();
            self.stderr.finish();
        }
    }

    fn end_by(&self, status: ExitStatus) -> JobEnd {
        match (status.code(), status.signal()) {
            (Some(code), _) => JobEnd::Exited { code: low_byte(code) },
            (None, Some(signal)) if signal == Signal::KILL.as_raw() => self.end_by_kill(),
            (None, signal) => JobEnd::Signaled { signal: low_byte(signal.unwrap_or(0)) },
        }
    }

    fn end_by_kill(&self) -> JobEnd {
        match &self.killed {
            Some(why) => why.clone(),
            None if self.cgroup.as_ref().is_some_and(Cgroup::ran_out_of_memory) => JobEnd::OutOfMemory,
            None => JobEnd::Signaled { signal: low_byte(Signal::KILL.as_raw()) },
        }
    }

    /// What to wait for, beside [`Self::deadline`].
    pub(crate) fn watch<'a>(&'a self, stdout: &Output, stderr: &Output, watched: &mut Vec<PollFd<'a>>) {
        match (&self.stage, &self.cgroup) {
            (Stage::Running, _) => watched.push(PollFd::new(&self.pidfd, PollFlags::IN)),
            (Stage::Leaving { .. }, Some(cgroup)) => {
                watched.push(PollFd::from_borrowed_fd(cgroup.events(), PollFlags::PRI));
            }
            _ => {}
        }
        self.stdout.watch(stdout, watched);
        self.stderr.watch(stderr, watched);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Running => self.time_limit.filter(|_| self.killed.is_none()),
            Stage::Leaving { patience, .. } => Some(*patience),
            Stage::Draining(_) => None,
        }
    }

    /// Clears away what is left of it.
    pub(crate) fn clear_away(&mut self) {
        self.cgroup.take().into_iter().for_each(Cgroup::remove);
    }
}

fn without_cgroup(error: io::Error) {
    say(format_args!("a job runs without a cgroup: {error}"));
}

fn without_status(error: io::Error) -> ExitStatus {
    say(format_args!("cannot learn how a job ended, so it counts as killed: {error}"));
    ExitStatus::from_raw(Signal::KILL.as_raw())
}

fn descriptors(child: &mut Child) -> io::Result<(OwnedFd, Pipe, Pipe)> {
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let stdout = child.stdout.take().ok_or(Errno::BADF)?;
    let stderr = child.stderr.take().ok_or(Errno::BADF)?;
    Ok((pidfd_open(id, PidfdFlags::empty())?, Pipe::new(stdout.into())?, Pipe::new(stderr.into())?))
}

fn is_ready(fd: &impl AsFd) -> bool {
    let mut watched = [PollFd::new(fd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut watched, Some(&at_once)), Ok(1))
}

/// Exit codes and signals are bytes (wait(2)).
fn low_byte(number: i32) -> u8 {
    number.to_le_bytes()[0]
}
