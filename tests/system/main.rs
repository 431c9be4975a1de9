//! What users do, whole: a registry process, lender hosts with real KVM in them, our programs on both sides.
//!
//! `bash tests/run.sh` runs these; they share one lab host, which is left to it to end.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod auto_offer;
mod bad_input;
mod boots;
mod change;
mod cli;
mod ends;
mod freeze;
mod hand_over;
mod hangs;
mod images;
mod jail;
mod jobs;
mod kernels;
mod loan;
mod network;
mod owners;
mod ports;
mod power;
mod restarts;
mod setting_aside;
mod ssh;
mod systemd;
mod three_hosts;
mod tls;
mod tour;
mod tunnel;
mod world;
