//! The commands, each a few lines over the library.

use std::error::Error;
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;
use sublet_lab::bench::{self, Bench, PeerKind};
use sublet_lab::exec::Command;
use sublet_lab::{AgentAction, Host, HostOptions, Lab, Recipe, prepare};

type Result<T = ExitCode> = std::result::Result<T, Box<dyn Error>>;

/// Lender hosts in QEMU, with real KVM inside.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    /// The lab's directory [default: `lab` in cargo's target directory]
    #[arg(long, global = true, env = sublet_lab::DIRECTORY_VARIABLE)]
    dir: Option<PathBuf>,
    /// Where kernels, programs and images are built [default: `lab-system` in cargo's target directory]
    #[arg(long, global = true, env = "SUBLET_LAB_SYSTEM_DIR")]
    system_dir: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build what hosts start from, where it is not up to date
    Prepare(Build),
    /// Bring hosts up, and print their addresses
    Up(Up),
    /// List the hosts
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a command as a host's root
    Exec {
        host: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Copy a file into a host
    Copy { host: String, local: PathBuf, remote: String },
    /// Start, end or ask after a host's agent (inside the host: `agent ACTION`)
    Agent { host: String, action: AgentWord },
    /// Print a host's console, or its agent's log
    Logs {
        host: String,
        /// Which
        #[arg(long, default_value = "console")]
        log: Log,
    },
    /// Cut a host's power
    Kill { host: String },
    /// Power a host up again, with its disk
    Start { host: String },
    /// Measure the VMM in hosts of its own, or the registry; the last line printed is one JSON object
    Bench(Measure),
    /// End a host, or all of them, and forget their disks
    Down { host: Option<String> },
}

#[derive(Debug, Args)]
struct Up {
    /// How many hosts there shall be: host-1, host-2, …
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    hosts: u32,
    /// CPUs of each host [default: 4, with --icount 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: Option<u32>,
    /// Memory of each host
    #[arg(long, value_name = "MiB", default_value_t = HostOptions::default().memory_mib)]
    memory: u64,
    /// Size of each host's own disk
    #[arg(long, value_name = "MiB", default_value_t = HostOptions::default().disk_mib)]
    disk: u64,
    /// Count time in instructions, so that it repeats; one CPU only
    #[arg(long)]
    icount: bool,
    /// Hosts whose first program is systemd, in a Debian made by mmdebstrap
    #[arg(long)]
    systemd: bool,
    /// Registry at which the agents register, as seen from this machine
    #[arg(long, value_name = "URL")]
    registry: Option<String>,
    /// File with the token with which they enrol there
    #[arg(long, value_name = "FILE", requires = "registry")]
    enrolment_token_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    build: Build,
}

#[derive(Debug, Args)]
struct Build {
    /// Neither build nor start an agent
    #[arg(long)]
    no_agent: bool,
    /// Nothing in the hosts but a way to run commands: no agent, no VMM, no OS images
    #[arg(long)]
    bare: bool,
    /// Take our static programs from here instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Cargo's profile for our static programs
    #[arg(long, env = "SUBLET_LAB_PROFILE", default_value = "release")]
    profile: String,
    /// OS images to have, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = Recipe::default().images)]
    images: Vec<String>,
}

#[derive(Debug, Args)]
struct Measure {
    /// What to measure
    name: BenchName,
    /// Another VMM to measure beside it: firecracker=FILE or cloud_hypervisor=FILE, a static program
    #[arg(long = "peer", value_name = "KIND=FILE", value_parser = peer)]
    peers: Vec<(PeerKind, PathBuf)>,
    /// Runs of each case that is measured by the wall's clock
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Print nothing but the JSON object
    #[arg(long)]
    json: bool,
    /// Take our static programs from here instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BenchName {
    Boot,
    Memory,
    Cpu,
    Net,
    Block,
    #[cfg(feature = "registry")]
    Freeze,
    #[cfg(feature = "registry")]
    Registry,
}

fn peer(text: &str) -> std::result::Result<(PeerKind, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("it is none of the form KIND=FILE")?;
    let kind = PeerKind::ALL.into_iter().find(|kind| kind.name() == name);
    Ok((kind.ok_or_else(|| format!("{name} is no VMM that can be run beside ours"))?, path.into()))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AgentWord {
    Start,
    Stop,
    Kill,
    Restart,
    Status,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Log {
    Console,
    Agent,
}

impl Arguments {
    pub(crate) fn run(self) -> Result {
        let Self { dir, system_dir, action } = self;
        let lab = || Lab::open(dir.clone().unwrap_or_else(Lab::default_directory));
        let system_dir = || system_dir.unwrap_or_else(|| Recipe::default().directory);
        match action {
            Action::Prepare(build) => prepare(&build.recipe(system_dir()), &say).map(drop)?,
            Action::Up(up) => up.run(&lab()?, system_dir())?,
            Action::List { json } => print(&lab()?.hosts()?, json),
            Action::Exec { host, command } => return exec(&lab()?.host(&host)?, command),
            Action::Copy { host, local, remote } => lab()?.host(&host)?.copy(&local, &remote)?,
            Action::Agent { host, action } => return agent(&lab()?.host(&host)?, action),
            Action::Logs { host, log } => logs(&lab()?.host(&host)?, log)?,
            Action::Kill { host } => lab()?.host(&host)?.kill()?,
            Action::Start { host } => start(&lab()?.host(&host)?)?,
            Action::Bench(measure) => measure.run(system_dir())?,
            Action::Down { host } => down(&lab()?, host)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Build {
    fn has_agent(&self) -> bool {
        !self.no_agent && !self.bare
    }

    fn recipe(&self, directory: PathBuf) -> Recipe {
        Recipe {
            directory,
            programs: self.programs.clone(),
            profile: self.profile.clone(),
            agent: self.has_agent(),
            systemd: false,
            vmm: !self.bare,
            images: if self.bare { Vec::new() } else { self.images.clone() },
        }
    }
}

impl Up {
    fn options(&self) -> HostOptions {
        HostOptions {
            cpus: self.cpus.unwrap_or(if self.icount { 1 } else { HostOptions::default().cpus }),
            memory_mib: self.memory,
            disk_mib: self.disk,
            icount: self.icount,
            systemd: self.systemd,
            agent: self.build.has_agent(),
            registry: self.registry.clone(),
            enrolment_token_file: self.enrolment_token_file.clone(),
            tls: None,
        }
    }

    fn run(&self, lab: &Lab, system_dir: PathBuf) -> Result<()> {
        let recipe = Recipe { systemd: self.systemd, ..self.build.recipe(system_dir) };
        let system = prepare(&recipe, &say)?;
        let options = self.options();
        say(&format!("{} host(s) coming up", self.hosts));
        let hosts = thread::scope(|scope| {
            let starting: Vec<_> = (1..=self.hosts)
                .map(|number| {
                    scope.spawn({
                        let (options, system) = (&options, &system);
                        move || lab.up(&format!("host-{number}"), options, system)
                    })
                })
                .collect();
            let joined = starting.into_iter().map(|thread| thread.join());
            joined
                .map(|host| Ok(host.map_err(|_| "a host's start panicked")??))
                .collect::<Result<Vec<Host>>>()
        })?;
        print(&hosts, self.json);
        Ok(())
    }
}

impl Measure {
    fn run(self, system_dir: PathBuf) -> Result<()> {
        let bench = match self.name {
            BenchName::Boot => Bench::Boot,
            BenchName::Memory => Bench::Memory,
            BenchName::Cpu => Bench::Cpu,
            BenchName::Net => Bench::Net,
            BenchName::Block => Bench::Block,
            #[cfg(feature = "registry")]
            BenchName::Freeze => Bench::Freeze,
            #[cfg(feature = "registry")]
            BenchName::Registry => Bench::Registry,
        };
        let directory = system_dir.with_file_name("lab-bench");
        let recipe =
            Recipe { directory: system_dir, programs: self.programs, agent: false, ..Recipe::default() };
        let options = bench::Options { recipe, directory, peers: self.peers, runs: self.runs };
        let report = bench::run(bench, &options, &say)?;
        if !self.json {
            print!("{report}");
        }
        println!("{}", report.json());
        Ok(())
    }
}

/// Progress goes to standard error, and only where somebody looks on.
fn say(step: &str) {
    if io::stderr().is_terminal() {
        eprintln!("sublet-lab: {step}");
    }
}

fn print(hosts: &[Host], json: bool) {
    if json {
        let hosts: Vec<_> = hosts.iter().map(as_json).collect();
        println!("{}", json!({ "hosts": hosts }));
        return;
    }
    for host in hosts {
        let state = if host.is_running() { "up" } else { "off" };
        println!(
            "{}  {state}  {}  owner's token in {}",
            host.name(),
            host.address(),
            host.owner_token_file().display()
        );
    }
}

fn as_json(host: &Host) -> serde_json::Value {
    json!({
        "name": host.name(),
        "address": host.address(),
        "running": host.is_running(),
        "process": host.process_id(),
        "owner_token_file": host.owner_token_file(),
        "console_log": host.console_log(),
        "agent_log": host.agent_log(),
        "options": host.options(),
    })
}

fn start(host: &Host) -> Result<()> {
    Ok(host.start(host.system())?)
}

fn exec(host: &Host, command: Vec<String>) -> Result {
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    let outcome = host.connect()?.run(Command::new(command), io::stdin(), &mut stdout, &mut stderr)?;
    Ok(outcome.exit_code().into())
}

fn agent(host: &Host, action: AgentWord) -> Result {
    let action = match action {
        AgentWord::Start => AgentAction::Start,
        AgentWord::Stop => AgentAction::Stop,
        AgentWord::Kill => AgentAction::Kill,
        AgentWord::Restart => AgentAction::Restart,
        AgentWord::Status => AgentAction::Status,
    };
    exec(host, vec!["agent".into(), action.word().into()])
}

fn logs(host: &Host, log: Log) -> Result<()> {
    let path = match log {
        Log::Console => host.console_log(),
        Log::Agent => host.agent_log(),
    };
    let mut file = File::open(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    io::copy(&mut file, &mut io::stdout())?;
    Ok(())
}

fn down(lab: &Lab, host: Option<String>) -> Result<()> {
    let hosts = match host {
        Some(name) => vec![lab.host(&name)?],
        None => lab.hosts()?,
    };
    for host in hosts {
        lab.remove(&host)?;
        println!("{} is gone", host.name());
    }
    Ok(())
}
