//! A job: one program, run once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most bytes of standard input a job can be given.
pub const STDIN_LIMIT: usize = 1024 * 1024;
/// Most bytes of arguments and environment together; Linux allows about 2 MiB.
pub const ARGUMENTS_LIMIT: usize = 128 * 1024;

/// A job's id, as its host names it (a UUID's bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobId(pub [u8; 16]);

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    pub id: JobId,
    /// Program and arguments; the program is looked up in `PATH` where it has no slash.
    pub argv: Vec<String>,
    /// The whole environment beside the runner's default `PATH` and `HOME`, which it may override.
    pub env: BTreeMap<String, String>,
    /// Working directory; none: `/`.
    pub working_directory: Option<String>,
    /// All of its standard input.
    pub stdin: Vec<u8>,
    /// Ends the job after so many milliseconds of running; none: no limit but the lease's.
    pub time_limit_ms: Option<u64>,
}

/// Why a job cannot be run anywhere.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum JobSpecError {
    #[error("argv: a job needs a program to run")]
    NoProgram,
    #[error("argv, env and working_directory cannot hold NUL bytes")]
    Nul,
    #[error("env: {0:?} cannot be a variable's name")]
    VariableName(String),
    #[error("argv and env are {0} bytes; {ARGUMENTS_LIMIT} is the most")]
    ArgumentsTooLong(usize),
    #[error("stdin is {0} bytes; {STDIN_LIMIT} is the most")]
    StdinTooLong(usize),
    #[error("time_limit_ms: must be more than 0")]
    NoTime,
}

impl JobSpec {
    pub fn validate(&self) -> Result<(), JobSpecError> {
        if self.argv.first().is_none_or(|program| program.is_empty()) {
            return Err(JobSpecError::NoProgram);
        }
        let texts = || self.argv.iter().chain(self.env.keys()).chain(self.env.values());
        if texts().chain(&self.working_directory).any(|text| text.contains('\0')) {
            return Err(JobSpecError::Nul);
        }
        if let Some(name) = self.env.keys().find(|name| name.is_empty() || name.contains('=')) {
            return Err(JobSpecError::VariableName(name.clone()));
        }
        let length = texts().map(|text| text.len() + 1).sum();
        if length > ARGUMENTS_LIMIT {
            return Err(JobSpecError::ArgumentsTooLong(length));
        }
        if self.stdin.len() > STDIN_LIMIT {
            return Err(JobSpecError::StdinTooLong(self.stdin.len()));
        }
        if self.time_limit_ms == Some(0) { Err(JobSpecError::NoTime) } else { Ok(()) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobEnd {
    Exited {
        code: u8,
    },
    /// Ended by a signal that the runner did not send.
    Signaled {
        signal: u8,
    },
    /// The guest's kernel killed it for want of memory.
    OutOfMemory,
    /// Its time limit was up.
    TimedOut,
    Cancelled,
    /// It could not be started; `reason` is for people ("cannot run \"foo\": No such file or directory").
    NotStarted {
        reason: String,
    },
}
