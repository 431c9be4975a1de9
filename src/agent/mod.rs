//! The lender host's agent.

pub mod config;
pub mod guest;
pub mod host;
pub mod image_cache;
pub mod partition;
