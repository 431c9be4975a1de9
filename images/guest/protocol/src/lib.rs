//! What the agent and the job runner in a guest say to each other, over vsock.
//!
//! The guest dials the host and says [`FromGuest::Hello`] with the nonce of this boot; the host answers with
//! [`FromHost::Welcome`], which says how much of each job's output it already holds, and the guest goes on
//! from there. Either side may break the connection at any moment: the guest dials again, keeps what has not
//! been acknowledged, and nothing is lost or doubled.
//!
//! For each tunnel that the host asks for, the guest dials once more and says [`FromGuest::Tunnel`] in place of a
//! greeting; from there on the connection is the tunnel's bytes, ended in each direction by itself.
//!
//! Each message is one frame: its length as four bytes, little-endian, then the message in postcard.

mod frame;
pub mod job;
pub mod message;

pub use frame::{
    FRAME_LIMIT, FrameError, PREFIX_BYTES, announced_length, decode, encode, read_frame, write_frame,
};
pub use job::{JobEnd, JobId, JobSpec, JobSpecError, Stream};
pub use message::{FromGuest, FromHost, JobProgress, Resume, TunnelId, TunnelRefusal};

/// Version of this protocol. The guest says in its greeting which one is spoken; where the host answers
/// [`FromHost::Refused`], it dials again with the one before, and after the oldest with this one again.
pub const PROTOCOL_VERSION: u32 = 3;
/// Oldest version that both sides still speak: without tunnels and beats.
pub const OLDEST_VERSION: u32 = 1;
/// First version in which the runner tells what it has measured.
pub const MEASURING_VERSION: u32 = 3;
/// What the runner signs ([`FromGuest::Measured`]) begins with this.
pub const SIGNED_CONTEXT: &[u8] = b"sublet receipt 1\n";
/// Longest text of [`FromGuest::Measured`], in bytes.
pub const MEASURED_LIMIT: usize = 4096;
/// Kernel command line parameter that carries this boot's nonce, 32 hexadecimal digits.
pub const NONCE_PARAMETER: &str = "sublet.nonce";
/// Kernel command line parameter that carries the host's vsock port, decimal.
pub const PORT_PARAMETER: &str = "sublet.port";
/// Name of the virtio-console port through which a guest that lacks vsock reaches its host (`/dev/virtio-ports/NAME`).
pub const PORT_NAME: &str = "sublet.runner";
/// The host's vsock context id (virtio 1.2, 5.10.4).
pub const HOST_CID: u32 = 2;
/// Most output of one stream the guest holds without an acknowledgement, in bytes; a job that writes more
/// waits.
pub const UNACKNOWLEDGED_LIMIT: usize = 1024 * 1024;
/// Most bytes in one [`FromGuest::Output`].
pub const OUTPUT_CHUNK_LIMIT: usize = 64 * 1024;
/// Most tunnels of a guest at a time.
pub const TUNNELS_LIMIT: usize = 64;
/// Longest first message of a connection, in bytes: who has proved nothing is not listened to for longer.
pub const GREETING_LIMIT: usize = 16 * 1024;
