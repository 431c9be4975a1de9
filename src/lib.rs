//! Sublet lends out isolated partitions of real computers. In reading order:
#![forbid(unsafe_code)]

pub mod domain;

pub mod api;

pub mod clock;

pub mod inventory;

pub mod image;

pub mod client;

#[cfg(feature = "cli")]
pub mod cli;

#[cfg(feature = "agent")]
pub mod agent;

#[cfg(feature = "registry")]
pub mod registry;

#[cfg(feature = "images")]
pub mod image_server;

#[cfg(test)]
#[cfg(all(feature = "agent", feature = "registry"))]
mod simulation;
