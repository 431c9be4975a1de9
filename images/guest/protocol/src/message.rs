//! The messages.

use serde::{Deserialize, Serialize};

use crate::job::{JobEnd, JobId, JobSpec, Stream};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromGuest {
    /// First on each connection.
    Hello {
        version: u32,
        /// The nonce of this boot, from the kernel command line.
        nonce: String,
        /// Every job that the host has not told the runner to forget.
        jobs: Vec<JobProgress>,
    },
    /// The job runs (also the answer to a repeated [`FromHost::Start`]).
    Started { job: JobId },
    /// `bytes` of `stream`, from byte number `offset` on.
    Output { job: JobId, stream: Stream, offset: u64, bytes: Vec<u8> },
    /// The job has ended, and both streams were sent up to these lengths. Repeated after each reconnection
    /// until the host says [`FromHost::Forget`].
    Ended { job: JobId, end: JobEnd, stdout_bytes: u64, stderr_bytes: u64 },
}

/// What the guest still knows of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    pub job: JobId,
    /// First byte of each stream that the runner can still send.
    pub stdout_from: u64,
    pub stderr_from: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromHost {
    /// Answer to [`FromGuest::Hello`].
    Welcome { resume: Vec<Resume> },
    /// Answer to a [`FromGuest::Hello`] with another version or another boot's nonce; the connection ends.
    Refused { reason: String },
    /// Run this job. The host sends the next one after the one before has ended; a job that the runner knows
    /// is not started again.
    Start(JobSpec),
    /// The host holds this stream, durably, up to `offset`.
    Acknowledge { job: JobId, stream: Stream, offset: u64 },
    /// End the job now.
    Cancel { job: JobId },
    /// The host holds the job's whole output and its end.
    Forget { job: JobId },
}

/// What the host already holds of a job, durably: it counts as an acknowledgement of both streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    pub job: JobId,
    pub stdout: u64,
    pub stderr: u64,
}
