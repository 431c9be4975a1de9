//! One job that the host has not told the runner to forget.

use std::time::Instant;

use rustix::event::PollFd;
use sublet_guest_protocol::{FromGuest, JobEnd, JobId, JobProgress, JobSpec, Resume, Stream};

use crate::cgroup::Cgroups;
use crate::log::in_full;
use crate::output::{BeyondEnd, Output};
use crate::process::Process;

pub(crate) struct Job {
    pub(crate) id: JobId,
    stdout: Output,
    stderr: Output,
    stage: Stage,
    said: Said,
}

enum Stage {
    Waiting(Box<JobSpec>),
    Running(Box<Process>),
    /// `ran`: its program was started.
    Ended {
        end: JobEnd,
        ran: bool,
    },
}

/// What the host was told on this connection.
struct Said {
    started: bool,
    ended: bool,
    /// The stream that last had its turn.
    stream: Stream,
}

const NOTHING_SAID: Said = Said { started: false, ended: false, stream: Stream::Stderr };

impl Job {
    pub(crate) fn new(spec: JobSpec) -> Self {
        Self {
            id: spec.id,
            stdout: Output::default(),
            stderr: Output::default(),
            stage: Stage::Waiting(Box::new(spec)),
            said: NOTHING_SAID,
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended { .. })
    }

    /// Takes it on; where it waits, its turn has come.
    pub(crate) fn advance(&mut self, now: Instant, cgroups: Option<&Cgroups>) {
        if let Stage::Waiting(spec) = &self.stage {
            self.stage = match Process::start(spec, cgroups) {
                Ok(process) => Stage::Running(Box::new(process)),
                Err(error) => {
                    Stage::Ended { end: JobEnd::NotStarted { reason: in_full(&error) }, ran: false }
                }
            };
        }
        if let Stage::Running(process) = &mut self.stage
            && let Some(end) = process.advance(now, &mut self.stdout, &mut self.stderr)
        {
            process.clear_away();
            self.stage = Stage::Ended { end, ran: true };
        }
    }

    pub(crate) fn cancel(&mut self) {
        match &mut self.stage {
            Stage::Waiting(_) => self.stage = Stage::Ended { end: JobEnd::Cancelled, ran: false },
            Stage::Running(process) => process.cancel(),
            Stage::Ended { .. } => {}
        }
    }

    pub(crate) fn acknowledge(&mut self, stream: Stream, offset: u64) -> Result<(), BeyondEnd> {
        self.output(stream).acknowledge(offset)
    }

    /// A new connection: everything is said again, and output is sent from where the host's ends.
    pub(crate) fn resume(&mut self, from: Option<&Resume>) -> Result<(), BeyondEnd> {
        self.said = NOTHING_SAID;
        if let Some(from) = from {
            self.stdout.acknowledge(from.stdout)?;
            self.stderr.acknowledge(from.stderr)?;
        }
        self.stdout.rewind();
        self.stderr.rewind();
        Ok(())
    }

    /// The host asked for it once more: it is told again how far it is.
    pub(crate) fn repeat(&mut self) {
        self.said.started = false;
        self.said.ended = false;
    }

    pub(crate) fn progress(&self) -> JobProgress {
        JobProgress { job: self.id, stdout_from: self.stdout.first(), stderr_from: self.stderr.first() }
    }

    /// The next thing the host has to hear of it: that it started, then its output, then how it ended.
    pub(crate) fn next_message(&mut self) -> Option<FromGuest> {
        self.started_message().or_else(|| self.output_message()).or_else(|| self.ended_message())
    }

    fn started_message(&mut self) -> Option<FromGuest> {
        let ran = matches!(self.stage, Stage::Running(_) | Stage::Ended { ran: true, .. });
        if !ran || self.said.started {
            return None;
        }
        self.said.started = true;
        Some(FromGuest::Started { job: self.id })
    }

    /// The streams take turns, so that a flood of one does not hold up the other.
    fn output_message(&mut self) -> Option<FromGuest> {
        let last = self.said.stream;
        [other(last), last].into_iter().find_map(|stream| {
            let (offset, bytes) = self.output(stream).next_chunk()?;
            self.said.stream = stream;
            Some(FromGuest::Output { job: self.id, stream, offset, bytes })
        })
    }

    fn ended_message(&mut self) -> Option<FromGuest> {
        let Stage::Ended { end, .. } = &self.stage else { return None };
        if self.said.ended {
            return None;
        }
        self.said.ended = true;
        let (stdout_bytes, stderr_bytes) = (self.stdout.end(), self.stderr.end());
        Some(FromGuest::Ended { job: self.id, end: end.clone(), stdout_bytes, stderr_bytes })
    }

    fn output(&mut self, stream: Stream) -> &mut Output {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    pub(crate) fn watch<'a>(&'a self, watched: &mut Vec<PollFd<'a>>) {
        if let Stage::Running(process) = &self.stage {
            process.watch(&self.stdout, &self.stderr, watched);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Running(process) => process.deadline(),
            _ => None,
        }
    }
}

fn other(stream: Stream) -> Stream {
    match stream {
        Stream::Stdout => Stream::Stderr,
        Stream::Stderr => Stream::Stdout,
    }
}
