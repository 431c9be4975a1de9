//! Benchmarks: the VMM in a lab host, without an agent, beside other VMMs where they are given; what a lent partition keeps,
//! in a host with an agent; and the registry, on this machine.
//!
//! Cases with one vCPU run on a host of their own whose time is counted in instructions, so that they repeat on any
//! machine. Those with several run on a common host by the wall's clock, as interleaved runs of which the median is
//! told: between them only ratios mean something (`docs/performance.md`).

mod block;
mod boot;
mod cpu;
#[cfg(feature = "registry")]
mod freeze;
mod hosts;
pub mod inside;
mod memory;
mod net;
#[cfg(feature = "registry")]
mod registry;
mod report;
#[cfg(feature = "registry")]
mod server;

use std::path::PathBuf;

use thiserror::Error;

pub use self::hosts::HostError;
pub use self::inside::{Peer, PeerKind, ReadingError};
pub use self::report::{Bar, Figure, Report};
use crate::prepare::Recipe;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bench {
    /// From the VMM's start to the guest's end.
    Boot,
    /// What a VMM takes beside the guest's memory.
    Memory,
    /// A computation in a guest, and on the same core without one.
    Cpu,
    /// What a network card carries.
    Net,
    /// A disk's speed in a guest, and on the host.
    Block,
    /// What a lent partition keeps of its speed, whatever its host's owner does.
    #[cfg(feature = "registry")]
    Freeze,
    /// The registry under load.
    #[cfg(feature = "registry")]
    Registry,
}

impl Bench {
    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Net => "net",
            Self::Block => "block",
            #[cfg(feature = "registry")]
            Self::Freeze => "freeze",
            #[cfg(feature = "registry")]
            Self::Registry => "registry",
        }
    }
}

/// How to measure it.
#[derive(Debug, Clone)]
pub struct Options {
    pub recipe: Recipe,
    /// The labs of benchmarks are made in it.
    pub directory: PathBuf,
    /// Other VMMs: static programs on this machine.
    pub peers: Vec<(PeerKind, PathBuf)>,
    /// Runs of each case that is measured by the wall's clock.
    pub runs: u32,
}

#[derive(Debug, Error)]
pub enum BenchError {
    #[error("cannot have a host for {0}")]
    Host(String, #[source] HostError),
    #[error("cannot measure {0}")]
    Reading(String, #[source] ReadingError),
    #[error("cannot read what was measured of {0}: {1:?}")]
    Answer(String, String),
    #[cfg(feature = "registry")]
    #[error("cannot measure what is lent")]
    Freeze(#[from] freeze::FreezeBenchError),
    #[cfg(feature = "registry")]
    #[error(transparent)]
    Registry(#[from] registry::RegistryBenchError),
}

/// Measures, and says each step.
pub fn run(bench: Bench, options: &Options, say: &dyn Fn(&str)) -> Result<Report, BenchError> {
    let mut report = Report::new(bench.name());
    match bench {
        Bench::Boot => boot::measure(options, &mut report, say)?,
        Bench::Memory => memory::measure(options, &mut report, say)?,
        Bench::Cpu => cpu::measure(options, &mut report, say)?,
        Bench::Net => net::measure(options, &mut report, say)?,
        Bench::Block => block::measure(options, &mut report, say)?,
        #[cfg(feature = "registry")]
        Bench::Freeze => freeze::measure(options, &mut report, say)?,
        #[cfg(feature = "registry")]
        Bench::Registry => registry::measure(options, &mut report, say)?,
    }
    Ok(report)
}
