//! Makes a thread of another process make a system call, as whoever had taken that process over could.
//!
//! The kernel takes such a call for the thread's own: what the thread may not call it may not call here. So a real
//! program can be tried without a back door in it. Takes root.

use std::{fmt, io, time::Duration};

use nix::{
    errno::Errno,
    libc::{self, user_regs_struct},
    sys::{
        ptrace,
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use thiserror::Error;

use crate::wait::until;

/// How long a thread may take to come to a place where it can be made to call.
const PATIENCE: Duration = Duration::from_secs(60);
/// The instruction `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Below the stack pointer, and below what a function may use there without moving it.
const BELOW_STACK: u64 = 4096;

/// Calls that something would be lost by, and one that does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignCall {
    /// `execve("/bin/sh", NULL, NULL)`
    Execve,
    /// `open("/etc/shadow", O_RDONLY)`
    Open,
    /// `socket(AF_INET, SOCK_STREAM, 0)`
    Socket,
    /// `mmap` of a page that can be executed.
    ExecutableMemory,
    /// `io_uring_setup(1, …)`: what goes through a ring no list of system calls sees.
    Ring,
    /// `write(-1, …)`, which fails with `EBADF`.
    Harmless,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What the call returned, an error as a negative number.
    Returned(i64),
    /// The thread was ended by this signal.
    Killed(Signal),
}

#[derive(Debug, Error)]
pub enum ForeignCallError {
    #[error("cannot {step} thread {thread}")]
    Trace { step: &'static str, thread: i32, source: Errno },
    #[error("thread {thread} came to no system call at which it could be stopped")]
    Elsewhere { thread: i32 },
    #[error("thread {thread} did not stop after its call but went to {status:?}")]
    Unexpected { thread: i32, status: WaitStatus },
}

impl ForeignCall {
    pub const ALL: [(&'static str, Self); 6] = [
        ("execve", Self::Execve),
        ("open", Self::Open),
        ("socket", Self::Socket),
        ("executable-memory", Self::ExecutableMemory),
        ("ring", Self::Ring),
        ("harmless", Self::Harmless),
    ];

    /// Its number, its arguments and the path that `path_at` in them points to.
    fn registers(self, path_at: u64) -> (i64, [u64; 6]) {
        let stream = libc::SOCK_STREAM as u64;
        let executable = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        match self {
            Self::Execve => (libc::SYS_execve, [path_at, 0, 0, 0, 0, 0]),
            Self::Open => (libc::SYS_open, [path_at, 0, 0, 0, 0, 0]),
            Self::Socket => (libc::SYS_socket, [libc::AF_INET as u64, stream, 0, 0, 0, 0]),
            Self::ExecutableMemory => (libc::SYS_mmap, [0, 4096, executable, private, u64::MAX, 0]),
            Self::Ring => (libc::SYS_io_uring_setup, [1, path_at, 0, 0, 0, 0]),
            Self::Harmless => (libc::SYS_write, [u64::MAX, path_at, 1, 0, 0, 0]),
        }
    }

    fn path(self) -> &'static [u8; 16] {
        match self {
            Self::Execve => b"/bin/sh\0\0\0\0\0\0\0\0\0",
            _ => b"/etc/shadow\0\0\0\0\0",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned(value) => write!(f, "returned {value}"),
            Self::Killed(signal) => write!(f, "killed by {signal}"),
        }
    }
}

/// Has the thread make the call. One that survives goes on with what it was at.
pub fn make_call(thread: u32, call: ForeignCall) -> Result<Outcome, ForeignCallError> {
    let traced = Traced::stop(thread.cast_signed())?;
    let before = traced.registers()?;
    let path_at = (before.rsp - BELOW_STACK) & !7;
    for (word, at) in call.path().chunks_exact(8).zip((path_at..).step_by(8)) {
        let word = i64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| word[byte]));
        ptrace::write(traced.0, at as *mut _, word).map_err(traced.failed("write the memory of"))?;
    }
    let (number, [rdi, rsi, rdx, r10, r8, r9]) = call.registers(path_at);
    // At the instruction that it has just made a call with; nothing of the call before is to be made again.
    let (rax, orig_rax, rip) = (number as u64, u64::MAX, before.rip - SYSCALL.len() as u64);
    let calling = user_regs_struct { rax, orig_rax, rip, rdi, rsi, rdx, r10, r8, r9, ..before };
    ptrace::setregs(traced.0, calling).map_err(traced.failed("set the registers of"))?;
    ptrace::step(traced.0, None).map_err(traced.failed("step"))?;
    match traced.wait()? {
        WaitStatus::Stopped(_, Signal::SIGTRAP) => {
            let returned = traced.registers()?.rax.cast_signed();
            ptrace::setregs(traced.0, before).map_err(traced.failed("set the registers of"))?;
            traced.release()?;
            Ok(Outcome::Returned(returned))
        }
        WaitStatus::Signaled(_, signal, _) => Ok(Outcome::Killed(signal)),
        status => Err(ForeignCallError::Unexpected { thread: traced.0.as_raw(), status }),
    }
}

/// A thread that is stopped. It goes on by itself when whoever traces it ends.
struct Traced(Pid);

impl Traced {
    /// Stops a thread within, or just after, a system call: it spends its time in them.
    fn stop(thread: i32) -> Result<Self, ForeignCallError> {
        let traced = Self(Pid::from_raw(thread));
        ptrace::seize(traced.0, ptrace::Options::empty()).map_err(traced.failed("trace"))?;
        let stopped = until(PATIENCE, || traced.try_to_stop().transpose());
        stopped.ok_or(ForeignCallError::Elsewhere { thread })??;
        Ok(traced)
    }

    /// None: it was somewhere else, and goes on.
    fn try_to_stop(&self) -> Result<Option<()>, ForeignCallError> {
        ptrace::interrupt(self.0).map_err(self.failed("stop"))?;
        self.wait()?;
        let before = self.registers()?.rip - SYSCALL.len() as u64;
        let word = ptrace::read(self.0, before as *mut _).map_err(self.failed("read the memory of"))?;
        if word.to_le_bytes().starts_with(&SYSCALL) {
            return Ok(Some(()));
        }
        ptrace::cont(self.0, None).map_err(self.failed("continue"))?;
        Ok(None)
    }

    fn registers(&self) -> Result<user_regs_struct, ForeignCallError> {
        ptrace::getregs(self.0).map_err(self.failed("read the registers of"))
    }

    fn wait(&self) -> Result<WaitStatus, ForeignCallError> {
        waitpid(self.0, Some(WaitPidFlag::__WALL)).map_err(self.failed("wait for"))
    }

    fn release(&self) -> Result<(), ForeignCallError> {
        ptrace::detach(self.0, None).map_err(self.failed("let go of"))
    }

    fn failed(&self, step: &'static str) -> impl Fn(Errno) -> ForeignCallError + use<> {
        let thread = self.0.as_raw();
        move |source| ForeignCallError::Trace { step, thread, source }
    }
}

/// The call of this name.
impl std::str::FromStr for ForeignCall {
    type Err = io::Error;

    fn from_str(name: &str) -> Result<Self, io::Error> {
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, call)| call).ok_or_else(|| io::Error::other(format!("no call is named {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, process::Command, process::Stdio};

    use super::*;

    #[test]
    fn a_process_makes_the_call_and_goes_on_with_what_it_was_at() {
        let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let harmless = make_call(cat.id(), ForeignCall::Harmless).unwrap();
        assert_eq!(harmless, Outcome::Returned(-i64::from(libc::EBADF)));
        let socket = make_call(cat.id(), ForeignCall::Socket).unwrap();
        assert!(matches!(socket, Outcome::Returned(3..)), "{socket}");
        cat.stdin.take().unwrap().write_all(b"hello").unwrap();
        assert_eq!(cat.wait_with_output().unwrap().stdout, b"hello");
    }
}
