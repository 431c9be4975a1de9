//! Leaves the process tree of whoever started the VMM.
//!
//! The launcher forks before any thread exists, into a new process namespace; the daemon leads a session of its own, prepares the machine and
//! says over a pipe how that went. The launcher waits for it and ends with 0 when the machine is prepared, so
//! whoever started it needs nothing but its exit code and standard error.

use std::{
    error::Error,
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    panic::set_hook,
    process::ExitCode,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, WaitOptions, setsid, umask, waitpid},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};
use thiserror::Error;

use crate::sandbox::{NamespaceError, enter_process_namespace};

/// What the daemon writes first when the machine is prepared; any other text says why it is not.
const READY: &[u8] = b"ready";
/// Longest report the launcher passes on, in bytes.
const REPORT_LIMIT: u64 = 16 * 1024;

#[derive(Debug, Error)]
pub enum DetachError {
    #[error("cannot close what the caller left open")]
    Inherited(#[source] std::io::Error),
    #[error(transparent)]
    Namespace(NamespaceError),
    #[error("cannot make a pipe to the new process")]
    Pipe(#[source] Errno),
    #[error("cannot start a new process")]
    Fork(#[source] std::io::Error),
    #[error("cannot leave the process tree of the caller")]
    Session(#[source] Errno),
    #[error("cannot close the standard streams")]
    Streams(#[source] Errno),
}

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Side {
    Launcher(Launcher),
    Daemon(Readiness),
}

/// Divides this process in two. The caller must have started no thread and opened no file yet.
pub fn detach() -> Result<Side, DetachError> {
    close_inherited().map_err(DetachError::Inherited)?;
    enter_process_namespace().map_err(DetachError::Namespace)?;
    let (from_daemon, to_launcher) = pipe_with(PipeFlags::CLOEXEC).map_err(DetachError::Pipe)?;
    // SAFETY: this process has a single thread (above), so the child finds no lock held by a thread that it does
    // not have and may go on like any process.
    match unsafe { libc::fork() } {
        -1 => Err(DetachError::Fork(std::io::Error::last_os_error())),
        0 => Ok(Side::Daemon(Readiness { to_launcher: File::from(to_launcher) })),
        child => {
            Ok(Side::Launcher(Launcher { from_daemon: File::from(from_daemon), child: Pid::from_raw(child) }))
        }
    }
}

/// The daemon's end of the pipe.
#[derive(Debug)]
pub struct Readiness {
    to_launcher: File,
}

impl Readiness {
    /// Leaves the caller's session and streams; nothing of this process is seen or ended with the caller's.
    pub fn leave(&self) -> Result<(), DetachError> {
        setsid().map_err(DetachError::Session)?;
        // Sockets and logs are for the user that runs the VMM, nobody else.
        umask(Mode::from_raw_mode(0o077));
        // There is nowhere to print a panic's message, and for a backtrace files would be opened.
        set_hook(Box::new(|_| {}));
        close_streams().map_err(DetachError::Streams)
    }

    /// Tells the launcher that the machine is prepared.
    pub fn ready(mut self) {
        // A launcher that was killed meanwhile takes nothing from the machine: it is found by its socket.
        let _ = self.to_launcher.write_all(READY);
    }

    /// Tells the launcher why there is no machine.
    pub fn failed(mut self, error: &dyn Error) {
        // Without a launcher nobody is left to be told.
        let _ = self.to_launcher.write_all(with_causes(error).as_bytes());
    }
}

/// Closes every descriptor but the standard streams.
fn close_inherited() -> Result<(), std::io::Error> {
    // SAFETY: nothing of this process has opened a file yet (above), so nobody's descriptor is closed under them.
    match unsafe { libc::close_range(3, u32::MAX, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn close_streams() -> Result<(), Errno> {
    let null: OwnedFd = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)
}

/// The launcher's end of the pipe.
#[derive(Debug)]
pub struct Launcher {
    from_daemon: File,
    child: Option<Pid>,
}

impl Launcher {
    /// Waits until the daemon is ready or has failed, and passes that on.
    pub fn wait(self) -> ExitCode {
        let mut report = Vec::new();
        let read = self.from_daemon.take(REPORT_LIMIT).read_to_end(&mut report);
        if report == READY {
            return ExitCode::SUCCESS;
        }
        match read {
            Err(error) => eprintln!("sublet-vmm: {}", with_causes(&error)),
            Ok(0) => eprintln!("sublet-vmm: {}", fate(self.child)),
            Ok(_) => eprintln!("sublet-vmm: {}", String::from_utf8_lossy(&report)),
        }
        ExitCode::FAILURE
    }
}

/// What became of a daemon that ended without a word.
fn fate(child: Option<Pid>) -> String {
    let signal = match waitpid(child, WaitOptions::empty()) {
        Ok(Some((_, status))) => status.terminating_signal(),
        _ => None,
    };
    match signal {
        Some(libc::SIGKILL) => {
            "killed while it prepared the machine; the host has probably run out of memory".into()
        }
        Some(signal) => format!("ended by signal {signal} while it prepared the machine"),
        None => "ended while it prepared the machine".into(),
    }
}

/// An error and its causes on one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}
