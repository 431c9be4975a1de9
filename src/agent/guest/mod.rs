//! Guests: their VMM processes, and the jobs that they run.

pub mod frames;
pub mod jobs;
pub mod output;
pub mod relay;
pub mod signals;
