//! A job: one program, run once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most bytes of standard input a job can be given.
pub const STDIN_LIMIT: usize = 1024 * 1024;
/// Most bytes of arguments and environment together; Linux allows about 2 MiB.
pub const ARGUMENTS_LIMIT: usize = 128 * 1024;
/// Most bytes in a path, as Linux has it (`PATH_MAX` without its NUL).
pub const PATH_LIMIT: usize = 4095;

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
    /// Working directory, `/` before it where it does not begin with one; none: `/`.
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
    #[error("working_directory is {0} bytes; {PATH_LIMIT} is the most")]
    PathTooLong(usize),
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
        if self.texts().chain(&self.working_directory).any(|text| text.contains('\0')) {
            return Err(JobSpecError::Nul);
        }
        if let Some(name) = self.env.keys().find(|name| name.is_empty() || name.contains('=')) {
            return Err(JobSpecError::VariableName(name.clone()));
        }
        if self.time_limit_ms == Some(0) {
            return Err(JobSpecError::NoTime);
        }
        self.validate_lengths()
    }

    fn texts(&self) -> impl Iterator<Item = &String> {
        self.argv.iter().chain(self.env.keys()).chain(self.env.values())
    }

    fn validate_lengths(&self) -> Result<(), JobSpecError> {
        let arguments = self.texts().map(|text| text.len() + 1).sum();
        let path = self.working_directory.as_ref().map_or(0, String::len);
        match self.stdin.len() {
            _ if arguments > ARGUMENTS_LIMIT => Err(JobSpecError::ArgumentsTooLong(arguments)),
            _ if path > PATH_LIMIT => Err(JobSpecError::PathTooLong(path)),
            stdin if stdin > STDIN_LIMIT => Err(JobSpecError::StdinTooLong(stdin)),
            _ => Ok(()),
        }
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

#[cfg(test)]
mod tests;
