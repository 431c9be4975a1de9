//! An agent of a test's own.

use std::{
    fmt::Debug,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::mount::{UnmountFlags, unmount};
use sublet::{
    api::{agent::CarvePartition, problem::Code, secret::Secret},
    client::{AgentClient, ClientError},
    domain::resources::Allocation,
    inventory::Inventory,
};
use tempfile::TempDir;

/// How long anything may take on a slow and busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A host's state directory and configuration; it goes with the last who has it.
#[derive(Clone)]
pub(crate) struct Host(Arc<Place>);

struct Place(TempDir);

impl Drop for Place {
    fn drop(&mut self) {
        // Keys of disks are on a file system of their own, once there are any.
        let _ = unmount(self.keys(), UnmountFlags::DETACH);
    }
}

impl Place {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn keys(&self) -> PathBuf {
        self.path().join("keys")
    }
}

impl Host {
    pub(crate) fn new() -> Self {
        static HOSTS: AtomicU32 = AtomicU32::new(0);
        let host = Self(Arc::new(Place(tempfile::tempdir().unwrap())));
        // vsock ports are the whole machine's: each host of each test process has its own.
        let port = 100_000 + std::process::id() * 100 + HOSTS.fetch_add(1, Ordering::SeqCst);
        let config = format!(
            "listen = '127.0.0.1:0'\n\
             advertise = 'http://127.0.0.1:7180'\n\
             state_directory = '{root}/state'\n\
             image_directory = '{root}/images'\n\
             key_directory = '{keys}'\n\
             vmm = '{root}/no-vmm'\n\
             vsock_port = {port}\n\
             [reserve]\ncpus = {cpus}\nmemory_mib = 128\ndisk_mib = 64\n\
             [prices]\ncurrency = 'EUR'\nper_cpu_hour_micros = 20000\nper_gib_hour_micros = 5000\n\
             per_disk_gib_hour_micros = 100\n",
            root = host.0.path().display(),
            keys = host.0.keys().display(),
            cpus = first_core(),
        );
        fs::write(host.config(), config).unwrap();
        host
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.0.path().join("agent.toml")
    }

    /// A file of the owner's.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn state(&self, path: &str) -> PathBuf {
        self.0.path().join("state").join(path)
    }

    /// Runs the program until it ends.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        program(&self.config()).args(arguments).output().unwrap()
    }
}

/// Each request, beside what is logged by default.
pub(crate) const LOGGED: &str = "info,tower_http=debug";

fn program(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sublet-agent"));
    command.arg("--config").arg(config).env("RUST_LOG", LOGGED);
    command
}

/// Hardware threads of this machine's first core: the least that can be reserved.
fn first_core() -> usize {
    cores().first().map(Vec::len).unwrap()
}

fn cores() -> Vec<Vec<u32>> {
    let topology = Inventory::read(Path::new("/")).unwrap().topology;
    topology.cores.into_iter().map(|core| core.cpus).collect()
}

/// What one core of this machine can be lent with. Two cores are what these tests need.
pub(crate) fn small() -> Allocation {
    let cpus = cores().get(1).map(Vec::len).expect("a machine with two cores");
    Allocation { cpus: cpus.try_into().unwrap(), memory_mib: 64, disk_mib: 2 }
}

pub(crate) fn carving(allocation: Allocation) -> CarvePartition {
    CarvePartition::of(allocation)
}

/// A running agent; it is killed when it is dropped.
pub(crate) struct Agent {
    child: Child,
    pub(crate) address: String,
    pub(crate) host: Host,
    log: Arc<Mutex<String>>,
}

impl Agent {
    pub(crate) fn start() -> Self {
        Self::start_on(Host::new())
    }

    /// Starts it on a port that is free, and waits until it listens.
    pub(crate) fn start_on(host: Host) -> Self {
        Self::start_by(program(&host.config()), host)
    }

    /// Starts it with its state in a file system in memory of this size, in a mount namespace of its own.
    pub(crate) fn start_with_little_room(host: Host, size: &str) -> Self {
        let state = host.state("");
        fs::create_dir(&state).unwrap();
        let mount = "mount -t tmpfs -o size=\"$1\",mode=700 state \"$2\" && shift 2 && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", size]).arg(&state);
        command.arg(env!("CARGO_BIN_EXE_sublet-agent")).arg("--config").arg(host.config());
        Self::start_by(command, host)
    }

    fn start_by(mut command: Command, host: Host) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let address = read_address(&mut stderr);
        let log = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                println!("{line}");
                kept.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { child, address, host, log }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it has logged this.
    pub(crate) async fn says(&self, what: &str) {
        let started = Instant::now();
        while !self.log().contains(what) {
            assert!(started.elapsed() < DEADLINE, "it does not say {what:?}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A file of its state directory as it sees it.
    pub(crate) fn own_state(&self, path: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.child.id()));
        root.join(self.host.state(path).strip_prefix("/").unwrap())
    }

    pub(crate) fn owner_token(&self) -> String {
        fs::read_to_string(self.own_state("owner.token")).unwrap().trim().to_owned()
    }

    pub(crate) fn owner(&self) -> AgentClient {
        self.with(&self.owner_token())
    }

    pub(crate) fn with(&self, bearer: &str) -> AgentClient {
        AgentClient::new(&self.address, Some(Secret::new(bearer))).unwrap()
    }

    /// SIGHUP, as an owner says that certificates have changed.
    pub(crate) fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// SIGKILL; the state stays.
    pub(crate) fn kill(mut self) -> Host {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.host.clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_address(stderr: &mut BufReader<ChildStderr>) -> String {
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "the agent ended before it listened: {seen}");
        if let Some(address) = line.trim().strip_prefix("listening on ") {
            return address.to_owned();
        }
        seen.push_str(&line);
    }
}

pub(crate) fn assert_refused<T: Debug>(result: Result<T, ClientError>, code: Code) {
    match result {
        Err(error) if error.code() == Some(code) => {}
        other => panic!("expected {code:?}, not {other:?}"),
    }
}
