//! The messages.

use serde::{Deserialize, Serialize};

use crate::job::{JobEnd, JobId, JobSpec, Stream};

/// A tunnel's name, as its host gives it: random, so that none of an earlier agent's is taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TunnelId(pub u64);

/// Messages are told apart by their place here: new ones come last, and are said only to who speaks their version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromGuest {
    /// First on each connection but a tunnel's.
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
    /// First and last message on a connection of its own: what follows, both ways, are the bytes of the tunnel, which is
    /// connected to its port. (Version 2.)
    Tunnel {
        /// The nonce of this boot.
        nonce: String,
        tunnel: TunnelId,
    },
    /// Nothing comes of a tunnel that was asked for. (Version 2.)
    TunnelRefused { tunnel: TunnelId, why: TunnelRefusal },
    /// The runner lives; said where nothing else was for as long as [`FromHost::Beat`] has it. (Version 2.)
    Beat,
    /// What the guest's kernel has counted since its start, as [`FromHost::Measure`] has it. (Version 3.)
    Measured {
        /// JSON: `{"boot":"…","up_ms":1,"cpus":[{"busy_ms":1,"idle_ms":1,"steal_ms":1}]}`, where `boot` is the SHA-256 of this
        /// boot's nonce; at most [`crate::MEASURED_LIMIT`] bytes.
        text: String,
        /// Ed25519 (RFC 8032), the runner's own since it was started.
        key: [u8; 32],
        /// Over [`crate::SIGNED_CONTEXT`] and the text; 64 bytes.
        signature: Vec<u8>,
    },
}

/// Why a tunnel does not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelRefusal {
    /// Nobody listens at the port.
    PortClosed,
    /// Whoever listens at the port did not take the connection in time.
    PortSilent,
    /// The runner carries as many as it can.
    TooMany,
    /// The guest could not make a connection.
    Failed,
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
    /// Connect to this port of the guest's loopback, then dial the host and say [`FromGuest::Tunnel`]; or say
    /// [`FromGuest::TunnelRefused`] here. (Version 2.)
    OpenTunnel { tunnel: TunnelId, port: u16 },
    /// From now on, let no longer pass than this without saying anything. (Version 2.)
    Beat { every_ms: u32 },
    /// Say [`FromGuest::Measured`] now, and from now on this often. (Version 3.)
    Measure { every_ms: u32 },
}

/// What the host already holds of a job, durably: it counts as an acknowledgement of both streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    pub job: JobId,
    pub stdout: u64,
    pub stderr: u64,
}
