//! A lease as its borrower has it, and what its jobs leave behind.

use std::{thread, time::Instant};

use sublet::{
    api::{
        agent::{BorrowPartition, JobEnd, JobState, JobView, PartitionView, RunJob},
        registry::{EndLease, Lease, LeaseGranted},
    },
    client::{AgentClient, ClientError, LogEvent},
    domain::id::{JobId, PartitionId},
};
use uuid::Uuid;

use crate::world::{PATIENCE, TIDY_PATIENCE, shell, world};

/// A lease that was opened at its host.
pub(crate) struct Loan {
    pub(crate) granted: LeaseGranted,
    pub(crate) agent: AgentClient,
}

/// A test that failed gives its loan back; one that went well has ended it in its own way.
impl Drop for Loan {
    fn drop(&mut self) {
        if thread::panicking() {
            let give_back = self.agent.give_back(self.partition());
            let _ = world().wait(async { tokio::time::timeout(TIDY_PATIENCE, give_back).await });
        }
    }
}

impl Loan {
    pub(crate) fn partition(&self) -> PartitionId {
        self.granted.lease.partition
    }

    pub(crate) async fn open(&self) -> Result<PartitionView, ClientError> {
        let exchange = BorrowPartition {
            host: self.granted.lease.host,
            allocation_digest: self.granted.allocation_digest,
        };
        self.agent.borrow(self.partition(), &exchange).await
    }

    pub(crate) async fn submit(&self, job: RunJob) -> Result<JobView, ClientError> {
        self.agent.run(self.partition(), Uuid::now_v7(), &job).await
    }

    /// Runs a job to its end.
    pub(crate) fn run(&self, job: RunJob) -> Finished {
        world().wait(async {
            let job = self.submit(job).await.unwrap();
            self.follow(job.id).await
        })
    }

    /// Runs a shell script in `debian-micro` to its end.
    pub(crate) fn shell(&self, script: &str) -> Finished {
        self.run(shell("debian-micro", script))
    }

    /// A job's whole output and its end, over as many connections as it takes.
    pub(crate) async fn follow(&self, job: JobId) -> Finished {
        let deadline = Instant::now() + PATIENCE;
        let mut finished = Finished::default();
        let mut last: Option<String> = None;
        loop {
            assert!(Instant::now() < deadline, "job {job} did not end; so far: {finished:?}");
            let Ok(mut events) = self.agent.logs(self.partition(), job, last.as_deref()).await else {
                continue;
            };
            while let Ok(Some(event)) =
                tokio::time::timeout(PATIENCE, events.next()).await.expect("something is heard of the job")
            {
                if finished.take(event) {
                    return finished;
                }
            }
            last = events.last_id().map(str::to_owned);
        }
    }

    /// Reads a job's output until `wanted` stands in it, and leaves it running; what it has said.
    pub(crate) async fn wait_for_output(&self, job: JobId, wanted: &str) -> String {
        let mut seen = Finished::default();
        let mut events = self.agent.logs(self.partition(), job, None).await.unwrap();
        while !seen.stdout().contains(wanted) {
            let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("the job says something");
            let ended = seen.take(event.unwrap().expect("the stream goes on"));
            assert!(!ended, "the job ended without saying {wanted:?}: {seen:?}");
        }
        seen.stdout()
    }

    /// Ends the lease at the registry.
    pub(crate) fn end(&self) -> Lease {
        let end = EndLease {
            host: self.granted.lease.host,
            partition: self.partition(),
            key: self.granted.key.clone(),
        };
        let world = world();
        world.wait(world.borrower.end_lease(self.granted.lease.id, &end)).unwrap()
    }
}

/// What a job left behind.
#[derive(Debug, Default)]
pub(crate) struct Finished {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) end: Option<JobEnd>,
}

impl Finished {
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    pub(crate) fn end(&self) -> &JobEnd {
        self.end.as_ref().expect("the job ended")
    }

    /// The output of a job that went well.
    pub(crate) fn success(self) -> String {
        assert_eq!(self.end(), &JobEnd::Exited { code: 0 }, "{self:?}");
        self.stdout()
    }

    /// Adds an event, which must go on where the output stood; true: it was the end.
    fn take(&mut self, event: LogEvent) -> bool {
        let (stream, offset, bytes) = match event {
            LogEvent::Stdout { offset, bytes } => (&mut self.stdout, offset, bytes),
            LogEvent::Stderr { offset, bytes } => (&mut self.stderr, offset, bytes),
            LogEvent::Console { .. } | LogEvent::Guest(_) => return false,
            LogEvent::End(job) => {
                let JobState::Ended { end } = job.state else { panic!("an end that is none: {job:?}") };
                self.end = Some(end);
                return true;
            }
        };
        assert_eq!(offset, stream.len() as u64, "output is lost or doubled");
        stream.extend_from_slice(&bytes);
        false
    }
}
