//! The registry as its users meet it: the real program on a database of its own, spoken to over HTTP.
#![cfg(feature = "registry")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod backup;
mod books;
mod contention;
mod crashes;
mod database;
mod durability;
mod events;
mod hosts;
mod lending;
mod lists;
mod malformed;
mod market;
mod metrics;
mod money;
mod openapi;
#[cfg(feature = "postgres-tests")]
mod postgres;
mod privacy;
mod program;
#[cfg(feature = "postgres-tests")]
mod registries;
mod server;
mod tls;
mod trust;
