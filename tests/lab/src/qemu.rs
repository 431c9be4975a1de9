//! One QEMU process: its arguments, and its life.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;

use crate::inside;

pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// An AMD CPU with SVM, and what stock kernels and static Rust programs look for.
const CPU: &str = "qemu64,+svm,+npt,+xsave,+xsaveopt,+avx,+aes,+pclmulqdq,+rdrand,+ssse3,+sse4.1,+sse4.2,\
                   +popcnt,+fsgsbase,+smep";
/// An emulated CPU may rest longer than the kernel's watchdogs think right. A kernel that has made a mistake ends, rather
/// than go on with half of itself.
const KERNEL_COMMAND_LINE: &str =
    "console=ttyS0 oops=panic panic=-1 quiet loglevel=4 tsc=reliable nowatchdog";
/// Where time is counted in instructions, an emulated CPU that rests may never wake: it does not rest.
const NEVER_RESTING: &str = " idle=poll";
/// A killed QEMU is gone within moments; past this the machine itself is in trouble.
const KILL_LIMIT: Duration = Duration::from_secs(20);

/// What QEMU says of its version; nothing where there is none.
pub(crate) fn version() -> Option<String> {
    let output = Command::new(PROGRAM).arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
}

/// A machine to run.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) name: &'a str,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u64,
    /// Time counted in instructions (repeatable); needs exactly one CPU.
    pub(crate) icount: bool,
    pub(crate) kernel: &'a Path,
    pub(crate) initrd: &'a Path,
    pub(crate) disks: Vec<Disk<'a>>,
    /// Ports on this machine's loopback, each with the port inside to which it leads.
    pub(crate) forwards: Vec<(u16, u16)>,
    /// Files handed over by fw_cfg: name below [`inside::FW_CFG_PREFIX`], and path.
    pub(crate) settings: &'a [(&'static str, PathBuf)],
    pub(crate) console_log: &'a Path,
    pub(crate) agent_log: &'a Path,
    pub(crate) pid_file: &'a Path,
    pub(crate) own_log: &'a Path,
}

#[derive(Debug)]
pub(crate) struct Disk<'a> {
    /// By which the host knows it.
    pub(crate) serial: &'static str,
    pub(crate) file: &'a Path,
    pub(crate) writable: bool,
    /// What is written is forgotten with the machine.
    pub(crate) forgets: bool,
}

impl Machine<'_> {
    /// QEMU's arguments.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut all = Arguments::default();
        all.words("-nodefaults -no-user-config -display none -daemonize -no-reboot -M q35");
        all.option("-name", &[self.name]);
        self.processor(&mut all);
        all.path("-pidfile", self.pid_file);
        all.path("-D", self.own_log);
        all.path("-kernel", self.kernel);
        all.path("-initrd", self.initrd);
        all.option("-append", &[KERNEL_COMMAND_LINE, if self.icount { NEVER_RESTING } else { "" }]);
        self.logs(&mut all);
        self.network(&mut all);
        for disk in &self.disks {
            disk.arguments(&mut all);
        }
        for (name, path) in self.settings {
            all.with_file("-fw_cfg", &format!("name={}/{name},file=", inside::FW_CFG_PREFIX), path, "");
        }
        all.0
    }

    fn processor(&self, all: &mut Arguments) {
        all.option("-cpu", &[CPU]);
        all.option("-m", &[&self.memory_mib.to_string()]);
        all.option("-smp", &[&self.cpus.to_string()]);
        if self.icount {
            all.words("-accel tcg,thread=single -icount shift=1,sleep=off");
        } else {
            all.words("-accel tcg,thread=multi");
        }
    }

    fn logs(&self, all: &mut Arguments) {
        all.with_file("-chardev", "file,id=console,append=on,path=", self.console_log, "");
        all.words("-serial chardev:console -device virtio-serial-pci");
        all.with_file("-chardev", "file,id=agent-log,append=on,path=", self.agent_log, "");
        all.option("-device", &["virtserialport,chardev=agent-log,name=", inside::AGENT_LOG_PORT]);
    }

    fn network(&self, all: &mut Arguments) {
        let mut user = String::from("user,id=net");
        for (outside, inside) in &self.forwards {
            user.push_str(&format!(",hostfwd=tcp:127.0.0.1:{outside}-:{inside}"));
        }
        all.option("-netdev", &[&user]);
        all.words("-device virtio-net-pci,netdev=net,romfile=");
    }

    /// Starts it in a session of its own; returns once its devices are there and its ports are listened on.
    pub(crate) fn start(&self) -> Result<(), StartError> {
        let output = Command::new(PROGRAM).args(self.arguments()).output().map_err(StartError::Run)?;
        if output.status.success() {
            return Ok(());
        }
        Err(StartError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

impl Disk<'_> {
    fn arguments(&self, all: &mut Arguments) {
        let Self { serial, writable, forgets, .. } = self;
        // What the host flushes need not reach this machine's disk: a lab outlives the death of its QEMU, not
        // of the machine.
        let rest = match (writable, forgets) {
            (_, true) => ",snapshot=on",
            (true, false) => ",cache=unsafe,discard=unmap",
            (false, false) => ",readonly=on",
        };
        let before = format!("if=none,id={serial},format=raw,file=");
        all.with_file("-drive", &before, self.file, rest);
        all.option("-device", &[&format!("virtio-blk-pci,drive={serial},serial={serial}")]);
    }
}

#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot run {PROGRAM}")]
    Run(#[source] io::Error),
    #[error("{PROGRAM} does not start: {0}")]
    Refused(String),
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn words(&mut self, words: &str) {
        self.0.extend(words.split(' ').map(OsString::from));
    }

    fn option(&mut self, name: &str, value: &[&str]) {
        self.0.push(name.into());
        self.0.push(value.concat().into());
    }

    fn path(&mut self, name: &str, path: &Path) {
        self.0.push(name.into());
        self.0.push(path.into());
    }

    /// An option that has a file's path among its comma-separated parts; a comma in a path is doubled.
    fn with_file(&mut self, name: &str, before: &str, path: &Path, after: &str) {
        let path = path.to_string_lossy().replace(',', ",,");
        self.option(name, &[before, &path, after]);
    }
}

/// A QEMU process that runs now.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: u32,
    fd: OwnedFd,
}

#[derive(Debug, Error)]
pub enum KillError {
    #[error("cannot kill QEMU process {0}")]
    Signal(u32, #[source] io::Error),
    #[error("QEMU process {0} was killed but does not end")]
    Lingers(u32),
}

impl Process {
    /// The one that wrote `pid_file` and still runs. A process that only happens to have the number of one that
    /// is gone is not taken for it.
    pub(crate) fn find(pid_file: &Path) -> Option<Self> {
        let id: u32 = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
        let fd = pidfd_open(Pid::from_raw(i32::try_from(id).ok()?)?, PidfdFlags::empty()).ok()?;
        // Read while the descriptor holds the number: it is this process's, or that of none.
        let command_line = fs::read(format!("/proc/{id}/cmdline")).ok()?;
        let pid_file = pid_file.as_os_str().as_encoded_bytes();
        command_line.split(|byte| *byte == 0).any(|word| word == pid_file).then_some(Self { id, fd })
    }

    /// Ends it at once; returns when it is gone.
    pub(crate) fn kill(self) -> Result<(), KillError> {
        match pidfd_send_signal(&self.fd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(KillError::Signal(self.id, error.into())),
        }
        let limit = Timespec { tv_sec: KILL_LIMIT.as_secs() as i64, tv_nsec: 0 };
        let mut gone = [PollFd::new(&self.fd, PollFlags::IN)];
        match poll(&mut gone, Some(&limit)) {
            Ok(0) => Err(KillError::Lingers(self.id)),
            Ok(_) => Ok(()),
            Err(error) => Err(KillError::Signal(self.id, error.into())),
        }
    }
}

#[cfg(test)]
mod tests;
