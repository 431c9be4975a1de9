//! Guests: their VMM processes, the jobs that they run, and the tunnels into them.

pub mod frames;
pub mod jobs;
pub mod listener;
pub mod output;
pub mod ports;
pub mod process;
pub mod relay;
pub mod signals;
pub mod tunnels;
