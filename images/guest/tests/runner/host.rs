//! Plays the host to a real runner with real processes, over a Unix socket in vsock's place.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sublet_guest::cgroup::Cgroups;
use sublet_guest::link::{Backoff, Dial};
use sublet_guest::runner::Runner;
use sublet_guest_protocol::{
    FrameError, FromGuest, FromHost, JobEnd, JobId, JobProgress, JobSpec, PROTOCOL_VERSION, Resume, Stream,
    TunnelId, read_frame, write_frame,
};
use tempfile::TempDir;

pub(crate) const NONCE: &str = "00112233445566778899aabbccddeeff";
/// Longest wait for anything; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(10) };

/// A job under a name of its own.
pub(crate) fn job(argv: &[&str]) -> JobSpec {
    JobSpec {
        id: JobId(rand::random()),
        argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
        env: BTreeMap::new(),
        working_directory: None,
        stdin: Vec::new(),
        time_limit_ms: None,
    }
}

pub(crate) fn shell(script: &str) -> JobSpec {
    job(&["sh", "-c", script])
}

pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// Whether a process has ended, be it that nobody has reaped it yet.
pub(crate) fn has_ended(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['Z', 'X']))
}

/// A runner in a thread of its own.
pub(crate) struct RunningRunner {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RunningRunner {
    pub(crate) fn start(dial: impl Dial + Send + 'static, cgroups: Option<Cgroups>) -> Self {
        let mut runner = Runner::new(dial, NONCE.into(), BACKOFF, cgroups);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            while !stopped.load(Ordering::Relaxed) {
                runner.turn();
            }
        };
        Self { stop, thread: Some(std::thread::spawn(run)) }
    }
}

/// The connection must be gone by then, or the runner would wait on it.
impl Drop for RunningRunner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the runner panicked");
    }
}

/// A runner and where it dials.
pub(crate) struct Host {
    listener: Option<UnixListener>,
    _runner: RunningRunner,
    directory: TempDir,
}

impl Host {
    pub(crate) fn start() -> Self {
        Self::start_with(Cgroups::find())
    }

    /// With no control groups, jobs are ended by their process group.
    pub(crate) fn start_with(cgroups: Option<Cgroups>) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("host");
        let listener = Some(UnixListener::bind(&path).unwrap());
        let dial = move || UnixStream::connect(&path).map(OwnedFd::from);
        Self { listener, _runner: RunningRunner::start(dial, cgroups), directory }
    }

    /// Nobody listens any more.
    pub(crate) fn go_away(&mut self) {
        self.listener = None;
        fs::remove_file(self.directory.path().join("host")).unwrap();
    }

    pub(crate) fn come_back(&mut self) {
        self.listener = Some(UnixListener::bind(self.directory.path().join("host")).unwrap());
    }

    /// The runner's next connection, after its greeting.
    pub(crate) fn pick_up(&self) -> Line {
        let (stream, _) = self.listener.as_ref().unwrap().accept().unwrap();
        Line::greeted(stream)
    }

    /// The runner's next connection, which must be a tunnel's; the number is that of the tunnel.
    pub(crate) fn tunnel(&self) -> (TunnelId, UnixStream) {
        let (mut stream, _) = self.listener.as_ref().unwrap().accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        match read_frame(&mut stream).unwrap() {
            FromGuest::Tunnel { nonce, tunnel } if nonce == NONCE => (tunnel, stream),
            other => panic!("{other:?} instead of a tunnel"),
        }
    }

    /// The runner's next connection, welcomed, with what the host holds.
    pub(crate) fn resume(&self, held: &[&Held]) -> Line {
        let mut line = self.pick_up();
        let resume = held.iter().map(|held| held.resume()).collect();
        line.send(&FromHost::Welcome { resume });
        line
    }

    pub(crate) fn welcome(&self) -> Line {
        self.resume(&[])
    }

    /// Runs one job from start to end on a fresh connection.
    pub(crate) fn run(&self, spec: JobSpec) -> Held {
        self.welcome().run(spec)
    }
}

/// One connection, seen from the host.
pub(crate) struct Line {
    pub(crate) stream: UnixStream,
    /// What the runner said it knows.
    pub(crate) jobs: Vec<JobProgress>,
    /// The version that the runner greeted with.
    pub(crate) version: u32,
}

impl Line {
    /// A fresh connection, after the runner's greeting.
    pub(crate) fn greeted(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = Self { stream, jobs: Vec::new(), version: PROTOCOL_VERSION };
        match line.next() {
            FromGuest::Hello { version, nonce, jobs } => {
                assert_eq!(nonce, NONCE);
                (line.version, line.jobs) = (version, jobs);
            }
            other => panic!("{other:?} instead of a greeting"),
        }
        line
    }

    pub(crate) fn send(&mut self, message: &FromHost) {
        write_frame(&mut self.stream, message).unwrap();
    }

    pub(crate) fn next(&mut self) -> FromGuest {
        self.try_next().unwrap()
    }

    pub(crate) fn try_next(&mut self) -> Result<FromGuest, FrameError> {
        read_frame(&mut self.stream)
    }

    /// Waits until the runner has closed the connection.
    pub(crate) fn expect_hang_up(mut self) {
        loop {
            match self.try_next() {
                Err(FrameError::Closed) => return,
                Err(FrameError::Io(error)) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("{error:?} instead of a closed connection"),
                Ok(_) => {}
            }
        }
    }

    pub(crate) fn acknowledge(&mut self, held: &Held) {
        for (stream, bytes) in [(Stream::Stdout, &held.stdout), (Stream::Stderr, &held.stderr)] {
            self.send(&FromHost::Acknowledge { job: held.job, stream, offset: bytes.len() as u64 });
        }
    }

    /// Collects everything up to the job's end, acknowledging as it comes.
    pub(crate) fn collect(&mut self, held: &mut Held) {
        while held.end.is_none() {
            let message = self.next();
            if job_of(&message) == Some(held.job) {
                held.take(message);
                self.acknowledge(held);
            }
        }
    }

    pub(crate) fn run(&mut self, spec: JobSpec) -> Held {
        let mut held = Held::new(spec.id);
        self.send(&FromHost::Start(spec));
        self.collect(&mut held);
        held
    }
}

fn job_of(message: &FromGuest) -> Option<JobId> {
    match message {
        FromGuest::Hello { .. }
        | FromGuest::Tunnel { .. }
        | FromGuest::TunnelRefused { .. }
        | FromGuest::Measured { .. }
        | FromGuest::Beat => None,
        FromGuest::Started { job } | FromGuest::Output { job, .. } | FromGuest::Ended { job, .. } => {
            Some(*job)
        }
    }
}

/// What the host holds of a job. It takes nothing twice and nothing out of order.
pub(crate) struct Held {
    pub(crate) job: JobId,
    pub(crate) started: bool,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) end: Option<JobEnd>,
}

impl Held {
    pub(crate) fn new(job: JobId) -> Self {
        Self { job, started: false, stdout: Vec::new(), stderr: Vec::new(), end: None }
    }

    pub(crate) fn resume(&self) -> Resume {
        Resume { job: self.job, stdout: self.stdout.len() as u64, stderr: self.stderr.len() as u64 }
    }

    pub(crate) fn take(&mut self, message: FromGuest) {
        match message {
            FromGuest::Started { job } => {
                assert_eq!(job, self.job);
                self.started = true;
            }
            FromGuest::Output { job, stream, offset, bytes } => {
                assert!(self.started, "output before its start");
                assert_eq!(job, self.job);
                let held = if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr };
                assert_eq!(offset, held.len() as u64, "a gap or an overlap");
                held.extend(bytes);
            }
            FromGuest::Ended { job, end, stdout_bytes, stderr_bytes } => {
                assert_eq!(job, self.job);
                assert_eq!(
                    (stdout_bytes, stderr_bytes),
                    (self.stdout.len() as u64, self.stderr.len() as u64)
                );
                self.end = Some(end);
            }
            other => panic!("{other:?} while a job runs"),
        }
    }

    pub(crate) fn stdout(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self.end {
            Some(JobEnd::Exited { code }) => code,
            ref other => panic!("{other:?} instead of an exit code; stderr: {:?}", self.stderr),
        }
    }
}
