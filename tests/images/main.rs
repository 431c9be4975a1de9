//! Images as their users meet them: the real programs, a stock client, a stock registry, QEMU's own disks, and servers that lie.
#![cfg(all(feature = "images", feature = "cli"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod conformance;
mod crashes;
mod crowds;
mod importing;
mod liar;
mod lies;
mod metrics;
mod paths;
mod resuming;
mod server;
mod store;
mod strangers;
mod trust;
