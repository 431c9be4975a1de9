//! The agent as its host's owner meets it: the real program on a state directory of its own, spoken to over HTTP. What
//! needs a guest is in `tests/system`.
#![cfg(feature = "agent")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod bad_input;
mod carving;
mod full_disk;
mod metrics;
mod openapi;
mod registry;
mod request_ids;
mod restarts;
mod server;
mod tls;
