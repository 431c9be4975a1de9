//! Runs jobs inside a partition.
//!
//! One thread, one loop ([`runner`]): it waits for the host's connection ([`link`]), for the running job
//! ([`process`]) and for the next deadline, and looks after whatever moved. Everything the host has not
//! acknowledged is kept ([`output`]), so the connection may break at any moment. Tunnels to the guest's ports are carried by
//! the same loop, over connections of their own.

pub mod boot;
pub mod cgroup;
mod connection;
mod job;
mod jobs;
pub mod link;
pub mod log;
mod measure;
pub mod output;
mod pipe;
pub mod port;
mod process;
pub mod runner;
mod splice;
mod start;
pub mod supervisor;
mod tunnels;
