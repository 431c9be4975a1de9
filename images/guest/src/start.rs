//! Starting a job's program.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{MemfdFlags, Mode, OFlags, SeekFrom, memfd_create, open, seek};
use rustix::io::{Errno, write};
use rustix::process::setsid;
use sublet_guest_protocol::{JobSpec, JobSpecError};
use thiserror::Error;

use crate::cgroup::Cgroup;

/// Environment of a job that does not say otherwise.
const DEFAULT_ENVIRONMENT: [(&str, &str); 2] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root")];
const OOM_SCORE_ADJUSTMENT: &CStr = c"/proc/self/oom_score_adj";

/// Why a job could not be started, for people.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    #[error("the job is not valid")]
    Spec(#[source] JobSpecError),
    #[error("cannot work in {0:?}")]
    WorkingDirectory(PathBuf, #[source] io::Error),
    #[error("cannot hold its standard input")]
    Stdin(#[source] io::Error),
    #[error("cannot run {0:?}")]
    Program(String, #[source] io::Error),
    #[error("cannot watch it run")]
    Watch(#[source] io::Error),
}

/// Starts the program in a session of its own and, where there is one, in `cgroup`.
pub(crate) fn start(spec: &JobSpec, cgroup: Option<&Cgroup>) -> Result<Child, StartError> {
    spec.validate().map_err(StartError::Spec)?;
    let (program, arguments) = spec.argv.split_first().ok_or(StartError::Spec(JobSpecError::NoProgram))?;
    let failed = |error| StartError::Program(program.clone(), error);
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(DEFAULT_ENVIRONMENT)
        .envs(&spec.env)
        .current_dir(working_directory(spec)?)
        .stdin(stdin(&spec.stdin).map_err(StartError::Stdin)?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    set_apart(&mut command, cgroup.map(Cgroup::procs).transpose().map_err(failed)?);
    command.spawn().map_err(failed)
}

/// Looked at beforehand, because afterwards nobody can tell which of the two was not there.
fn working_directory(spec: &JobSpec) -> Result<PathBuf, StartError> {
    let path = Path::new("/").join(spec.working_directory.as_deref().unwrap_or("/"));
    match fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => Err(StartError::WorkingDirectory(path, Errno::NOTDIR.into())),
        Err(error) => Err(StartError::WorkingDirectory(path, error)),
    }
}

/// All of it in a file in memory: nothing has to be pumped, and its end is its end.
fn stdin(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("stdin", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    seek(&file, SeekFrom::Start(0))?;
    Ok(file)
}

fn set_apart(command: &mut Command, group: Option<File>) {
    let set_apart = move || Ok(set_this_process_apart(group.as_ref().map(AsFd::as_fd))?);
    // SAFETY: between fork and exec the closure only makes system calls through rustix, which neither
    // allocate nor take a lock; the descriptor it holds is open as long as the command is.
    unsafe { command.pre_exec(set_apart) };
}

/// By the new process itself, so that everything it will ever start is set apart with it.
fn set_this_process_apart(group: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    setsid()?;
    if let Some(group) = group {
        write(group, b"0")?;
    }
    // The runner's own protection from the kernel's out-of-memory killer is not the job's. Who may not change
    // it has none.
    if let Ok(file) = open(OOM_SCORE_ADJUSTMENT, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        let _ = write(file, b"0");
    }
    Ok(())
}
