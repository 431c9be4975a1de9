//! Guests: their VMM processes, and the jobs that they run.

pub mod frames;
pub mod jobs;
pub mod listener;
pub mod output;
pub mod process;
pub mod relay;
pub mod signals;
