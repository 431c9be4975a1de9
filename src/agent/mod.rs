//! The lender host's agent.

pub mod config;
pub mod host;
pub mod image_cache;
