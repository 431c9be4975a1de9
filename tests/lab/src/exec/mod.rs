//! Running commands as a lab host's root.
//!
//! `sublet-lab-host` listens inside the host; its port is forwarded to loopback, where every local user can
//! dial it, so both sides first prove that they know the lab's secret ([`handshake`]). Then the client says
//! what to run, and both stream ([`message`]). One connection is one command; when it breaks, the command is
//! killed.

pub mod client;
pub mod handshake;
pub mod message;
pub mod server;

pub use client::{ExecError, Output};
pub use handshake::Secret;
pub use message::{Command, Outcome};
