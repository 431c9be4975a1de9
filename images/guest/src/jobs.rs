//! The jobs the runner knows, in the order they came; they run one after another.

use std::time::Instant;

use rustix::event::PollFd;
use sublet_guest_protocol::{FromGuest, JobEnd, JobId, JobProgress, JobSpec, Resume, Stream};

use crate::cgroup::Cgroups;
use crate::job::Job;
use crate::output::BeyondEnd;

/// Most jobs known at a time; each may hold as much output as the protocol allows.
const JOBS_LIMIT: usize = 16;

pub(crate) struct Jobs {
    known: Vec<Job>,
    cgroups: Option<Cgroups>,
}

impl Jobs {
    pub(crate) fn new(cgroups: Option<Cgroups>) -> Self {
        Self { known: Vec::new(), cgroups }
    }

    /// Takes the job on, unless it is known. One too many is answered, and not kept.
    pub(crate) fn start(&mut self, spec: JobSpec) -> Option<FromGuest> {
        if let Some(job) = self.find(spec.id) {
            job.repeat();
        } else if self.known.len() < JOBS_LIMIT {
            self.known.push(Job::new(spec));
        } else {
            let reason = format!("{JOBS_LIMIT} jobs are waiting for the host to collect them");
            let end = JobEnd::NotStarted { reason };
            return Some(FromGuest::Ended { job: spec.id, end, stdout_bytes: 0, stderr_bytes: 0 });
        }
        None
    }

    pub(crate) fn cancel(&mut self, id: JobId) {
        if let Some(job) = self.find(id) {
            job.cancel();
        }
    }

    /// A job that still runs is not forgotten.
    pub(crate) fn forget(&mut self, id: JobId) {
        self.known.retain(|job| job.id != id || !job.has_ended());
    }

    /// Of a forgotten job there is nothing to acknowledge.
    pub(crate) fn acknowledge(&mut self, id: JobId, stream: Stream, offset: u64) -> Result<(), BeyondEnd> {
        self.find(id).map_or(Ok(()), |job| job.acknowledge(stream, offset))
    }

    pub(crate) fn resume(&mut self, resume: &[Resume]) -> Result<(), BeyondEnd> {
        self.known.iter_mut().try_for_each(|job| {
            let from = resume.iter().find(|from| from.job == job.id);
            job.resume(from)
        })
    }

    pub(crate) fn progress(&self) -> Vec<JobProgress> {
        self.known.iter().map(Job::progress).collect()
    }

    /// Looks after the job whose turn it is, and after the next ones where it has ended.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some(job) = self.known.iter_mut().find(|job| !job.has_ended()) {
            job.advance(now, self.cgroups.as_ref());
            if !job.has_ended() {
                return;
            }
        }
    }

    pub(crate) fn next_message(&mut self) -> Option<FromGuest> {
        self.known.iter_mut().find_map(Job::next_message)
    }

    pub(crate) fn watch<'a>(&'a self, watched: &mut Vec<PollFd<'a>>) {
        self.known.iter().for_each(|job| job.watch(watched));
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.known.iter().filter_map(Job::deadline).min()
    }

    fn find(&mut self, id: JobId) -> Option<&mut Job> {
        self.known.iter_mut().find(|job| job.id == id)
    }
}
