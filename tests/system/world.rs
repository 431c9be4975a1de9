//! The world of these tests: one registry, one lab host, a lender and a borrower.

use std::{
    env, fs,
    future::Future,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{LazyLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use sublet::{
    api::{
        agent::{CarvePartition, PartitionState, PartitionView, RunJob},
        registry::{LeaseGranted, MakeLease, Offer, Search},
    },
    client::{AgentClient, ClientError, LeaseRequestId, RegistryClient},
    domain::{
        id::PartitionId, matching::Conditions, network::Network, resources::Allocation, secret::Secret,
    },
};
use sublet_lab::{Host, HostOptions, Lab, Recipe, System, prepare};
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::loan::Loan;

/// Longest any step may take; a guest in an emulated host takes its time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// Longest that putting one thing right after a failed test may take.
pub(crate) const TIDY_PATIENCE: Duration = Duration::from_secs(30);
/// How much of the host's logs is shown where a test failed, in bytes.
const SHOWN_OF_LOG_BYTES: usize = 6000;

pub(crate) struct World {
    pub(crate) registry: String,
    lab: Lab,
    pub(crate) lab_host: Host,
    pub(crate) system: System,
    /// Folder with our programs, static.
    pub(crate) programs: PathBuf,
    /// Files of this run: tokens, the registry's database.
    pub(crate) directory: PathBuf,
    pub(crate) borrower: RegistryClient,
    runtime: Runtime,
}

static WORLD: LazyLock<World> = LazyLock::new(World::begin);

/// The one world that all tests share.
pub(crate) fn world() -> &'static World {
    &WORLD
}

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn target_directory() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// Our programs, built as the quickstart builds them.
fn programs() -> PathBuf {
    let output =
        Command::new("bash").arg(repository().join("examples/build.sh")).stderr(Stdio::inherit()).output();
    let output = output.expect("bash is there");
    assert!(output.status.success(), "examples/build.sh failed");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

impl World {
    fn begin() -> Self {
        let programs = programs();
        let directory = target_directory().join("system-tests");
        let lab = Lab::open(directory.join("lab")).unwrap();
        for old in lab.hosts().unwrap() {
            lab.remove(&old).unwrap();
        }
        let files = directory.join("registry");
        let _ = fs::remove_dir_all(&files);
        fs::create_dir_all(&files).unwrap();

        let token = |role: &str, name: &str| make_token(&programs, &files, role, name);
        let enrolment = token("lender", "alice");
        let borrower_token = fs::read_to_string(token("borrower", "bob")).unwrap();
        let registry = start_registry(&programs, &files, &[]);
        let recipe = Recipe { programs: Some(programs.clone()), ..Recipe::default() };
        let system = prepare(&recipe, &|step| eprintln!("lab: {step}")).unwrap();
        let options = HostOptions {
            registry: Some(registry.clone()),
            enrolment_token_file: Some(enrolment),
            ..HostOptions::default()
        };
        let lab_host = lab.up("host-1", &options, &system).unwrap();
        let borrower = RegistryClient::new(&registry, Some(Secret::new(borrower_token.trim()))).unwrap();
        let runtime = Runtime::new().unwrap();
        Self { registry, lab, lab_host, system, programs, directory: files, borrower, runtime }
    }

    pub(crate) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// The lab host's agent, as its owner.
    pub(crate) fn owner(&self) -> AgentClient {
        let token = self.lab_host.owner_token().unwrap();
        AgentClient::new(&self.lab_host.address(), Some(Secret::new(token))).unwrap()
    }

    pub(crate) fn agent_with(&self, key: &Secret) -> AgentClient {
        AgentClient::new(&self.lab_host.address(), Some(key.clone())).unwrap()
    }

    /// A host of one test's own, at the same registry where it has an agent; it is gone with what is answered.
    pub(crate) fn another_host(&self, name: &str, options: HostOptions) -> AnotherHost {
        let registry = options.agent.then(|| self.registry.clone());
        let enrolment_token_file = options.agent.then(|| self.directory.join("alice.token"));
        self.lone_host(name, &HostOptions { registry, enrolment_token_file, ..options })
    }

    /// A host of one test's own, just as it is asked for; it is gone with what is answered.
    pub(crate) fn lone_host(&self, name: &str, options: &HostOptions) -> AnotherHost {
        AnotherHost(self.lab.up(name, options, &self.system).unwrap())
    }

    /// A file with a new token of another borrower or lender.
    pub(crate) fn token(&self, role: &str, name: &str) -> PathBuf {
        make_token(&self.programs, &self.directory, role, name)
    }

    /// What a shell script says, run as the lab host's root; it must succeed.
    pub(crate) fn on_host(&self, script: &str) -> String {
        let output = self.lab_host.exec(["sh", "-ec", script]).unwrap();
        assert!(output.outcome.is_success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the `sublet` program as the borrower and as the host's owner.
    pub(crate) fn sublet(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("sublet"));
        command
            .args(arguments)
            .env("SUBLET_REGISTRY", &self.registry)
            .env("SUBLET_TOKEN_FILE", self.directory.join("bob.token"))
            .env("SUBLET_STATE_DIR", self.directory.join("bob"))
            .env("SUBLET_HOST", self.lab_host.address())
            .env("SUBLET_OWNER_TOKEN_FILE", self.lab_host.owner_token_file())
            .stdin(Stdio::null());
        command
    }

    /// Carves a partition and offers it.
    pub(crate) fn offer(&self, allocation: Allocation) -> Offered {
        self.offer_with(allocation, Network::None)
    }

    /// The same, with a network.
    pub(crate) fn offer_with(&self, allocation: Allocation, network: Network) -> Offered {
        // A test that failed may have left the host off.
        if !self.lab_host.is_running() {
            self.lab_host.start(&self.system).unwrap();
        }
        let view = self.wait(async {
            let owner = self.owner();
            let wanted = CarvePartition { network, ..CarvePartition::of(allocation) };
            let carved = owner.carve(&wanted).await.unwrap();
            owner.offer(carved.id).await.unwrap()
        });
        assert_eq!(view.state, PartitionState::Offered);
        Offered { id: view.id }
    }

    /// Leases a partition on offer and opens it.
    pub(crate) fn borrow(&self, partition: PartitionId, duration: Duration) -> Loan {
        let granted = self.wait(self.lease(&self.borrower, partition, duration)).unwrap();
        let loan = self.loan(granted);
        self.wait(loan.open()).unwrap();
        loan
    }

    pub(crate) fn loan(&self, granted: LeaseGranted) -> Loan {
        Loan { agent: self.agent_with(&granted.key), granted }
    }

    pub(crate) async fn lease(
        &self,
        borrower: &RegistryClient,
        partition: PartitionId,
        duration: Duration,
    ) -> Result<LeaseGranted, ClientError> {
        let offer = self.shown(borrower, partition).await;
        let wish = MakeLease {
            host: offer.host,
            partition,
            terms_version: offer.terms_version,
            duration_seconds: duration.as_secs(),
            budget: None,
        };
        borrower.make_lease(LeaseRequestId(Uuid::now_v7()), &wish).await
    }

    /// The offer of a partition, as soon as search shows it: a moment after its host has said that it is clean.
    pub(crate) async fn shown(&self, borrower: &RegistryClient, partition: PartitionId) -> Offer {
        // Shares of CPUs are found by who says that they will do.
        let conditions = Conditions { min_cpu_share_percent: Some(1), ..Conditions::default() };
        let search = Search { conditions, limit: Some(1000), cursor: None };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = borrower.search(&search).await.unwrap().offers;
            match found.into_iter().find(|offer| offer.partition == partition) {
                Some(offer) => return offer,
                None => assert!(Instant::now() < deadline, "partition {partition} is not on offer"),
            }
        }
    }

    /// Shows at once what the host said last: a test run that hangs later shows nothing of its failures.
    fn show_logs(&self) {
        for log in [self.lab_host.console_log(), self.lab_host.agent_log()] {
            let bytes = fs::read(&log).unwrap_or_default();
            let last = &bytes[bytes.len().saturating_sub(SHOWN_OF_LOG_BYTES)..];
            let text = format!("--- {}, last\n{}\n", log.display(), String::from_utf8_lossy(last));
            // Not `eprint`, which the test harness keeps back.
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }

    /// Frees what a failed test held, so that the next ones find the host's CPUs free. What cannot be freed is
    /// left: the failure is told already.
    async fn tidy(&self, id: PartitionId) {
        let owner = self.owner();
        let free = async {
            while !owner.partition(id).await.is_ok_and(|view| view.state == PartitionState::Offered) {
                tokio::task::yield_now().await;
            }
            let _ = owner.withdraw(id).await;
            let _ = owner.release(id).await;
        };
        let _ = tokio::time::timeout(TIDY_PATIENCE, free).await;
    }

    /// Looks again and again until it finds something.
    pub(crate) fn patiently<T>(&self, look: impl Fn() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "it is not found in time");
            thread::yield_now();
        }
    }

    /// Waits until the host says that a partition is as wanted.
    pub(crate) fn wait_for_partition(
        &self,
        id: PartitionId,
        wanted: impl Fn(&PartitionView) -> bool,
    ) -> PartitionView {
        let owner = self.owner();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.wait(owner.partition(id));
            match seen {
                Ok(view) if wanted(&view) => return view,
                seen => assert!(Instant::now() < deadline, "partition {id} is still {seen:?}"),
            }
            thread::yield_now();
        }
    }
}

impl World {
    /// A host of one test's own whose first program is systemd.
    pub(crate) fn host_with_systemd(&self, name: &str) -> AnotherHost {
        let recipe = Recipe { programs: Some(self.programs.clone()), systemd: true, ..Recipe::default() };
        let system = prepare(&recipe, &|step| eprintln!("lab: {step}")).unwrap();
        let options = HostOptions { systemd: true, ..HostOptions::default() };
        AnotherHost(self.lab.up(name, &options, &system).unwrap())
    }
}

/// A host beside the one that all tests share.
pub(crate) struct AnotherHost(pub(crate) Host);

impl Drop for AnotherHost {
    fn drop(&mut self) {
        let removed = world().lab.remove(&self.0);
        assert!(removed.is_ok() || thread::panicking(), "{removed:?}");
    }
}

/// A partition on offer; given back to the host at the end of its test.
pub(crate) struct Offered {
    pub(crate) id: PartitionId,
}

impl Drop for Offered {
    fn drop(&mut self) {
        let world = world();
        if thread::panicking() {
            world.show_logs();
            world.wait(world.tidy(self.id));
            return;
        }
        world.wait_for_partition(self.id, |view| view.state == PartitionState::Offered);
        world.wait(async {
            world.owner().withdraw(self.id).await.unwrap();
            world.owner().release(self.id).await.unwrap();
        });
    }
}

pub(crate) fn shell(image: &str, script: &str) -> RunJob {
    RunJob {
        image: Some(image.to_owned()),
        argv: ["sh", "-c", script].map(str::to_owned).into(),
        ..RunJob::default()
    }
}

/// One CPU and little memory: boots quickest.
pub(crate) const SMALL: Allocation = Allocation { cpus: 1, memory_mib: 256, disk_mib: 16 };

pub(crate) const AN_HOUR: Duration = Duration::from_secs(3600);

/// Ended, and its output.
pub(crate) fn output(mut command: Command) -> Output {
    command.output().expect("the program is there")
}

/// A file with a new token of a registry whose database is among these files.
pub(crate) fn make_token(programs: &Path, files: &Path, role: &str, name: &str) -> PathBuf {
    let output = Command::new(programs.join("sublet-registry"))
        .arg("--database")
        .arg(files.join("registry.db"))
        .args(["token", "make", role, "--name", name])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = files.join(format!("{name}.token"));
    fs::write(&file, output.stdout).unwrap();
    file
}

/// Starts a registry, which ends with these tests, and waits until it says where it listens.
pub(crate) fn start_registry(programs: &Path, files: &Path, options: &[&str]) -> String {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL"])
        .arg(programs.join("sublet-registry"))
        .arg("--database")
        .arg(files.join("registry.db"))
        .args(["serve", "--listen", "127.0.0.1:0", "--beat-every-ms", "2000"])
        .args(options)
        .stderr(Stdio::piped());
    let (said, heard) = mpsc::channel();
    let log = files.join("registry.log");
    // The signal is sent when the thread that started the process ends, so this one stays.
    thread::spawn(move || {
        let mut registry = command.spawn().expect("setpriv and the registry are there");
        let mut log = fs::File::create(log).unwrap();
        for line in BufReader::new(registry.stderr.take().unwrap()).lines().map_while(Result::ok) {
            writeln!(log, "{line}").unwrap();
            if let Some((_, address)) = line.split_once("listening on ") {
                let _ = said.send(address.trim().to_owned());
            }
        }
        registry.wait()
    });
    heard.recv_timeout(PATIENCE).expect("the registry says where it listens")
}
