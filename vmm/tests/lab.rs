//! Takes the tests of `machine` into a lab host and runs them there, against the real KVM.

#![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use sublet_lab::exec::{ExecError, Output};
use sublet_lab::{EMULATOR_FAULT, Host, HostOptions, LOST_GUESTS, Lab, Recipe, System, prepare};

const LAB: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/lab");
const TARGET: &str = "x86_64-unknown-linux-gnu";
const INSIDE: &str = "/tmp/machine";
/// The program that attacks its machine, for the guests that do.
const HOSTILE: &str = "/tmp/hostile-guest";
/// The firmware, for the machines that start from a disk.
const FIRMWARE: &str = "/tmp/firmware";
/// How often a test is begun whose host or guest fell to the emulator (ADR 11).
const ATTEMPTS: u32 = 3;
/// How many guests may be lost in a whole run, and none twice in one test: more is no accident of the emulator's (ADR 11).
const LOST_MAX: u32 = 2;
/// Longest that one test may run; each bounds its own waiting far below.
const RUN_LIMIT: Duration = Duration::from_secs(240);
/// How often a host that is at work is called before it is held for hung, two seconds each.
const CALLS: u32 = 15;

#[test]
fn machines_keep_their_promises_on_real_guests() {
    let tests = build(&["test", "--no-run", "--test", "machine"], "Cargo.toml", "machine");
    let hostile = build(&["build"], "tests/hostile/Cargo.toml", "sublet-hostile-guest");
    let system =
        prepare(&Recipe { agent: false, ..Recipe::default() }, &|step| eprintln!("lab: {step}")).unwrap();
    let programs = vec![(tests, INSIDE), (hostile, HOSTILE), (firmware(), FIRMWARE)];
    let mut place = Place::new(programs, system);
    let names = place.names();
    assert!(!names.is_empty());
    // One after another: they share the host's two CPUs.
    let failed: Vec<_> = names.iter().filter(|name| !place.passes(name)).collect();
    place.lab.remove(&place.host).unwrap();
    assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), names.len());
}

/// Where the tests run.
struct Place {
    lab: Lab,
    host: Host,
    system: System,
    programs: Vec<(PathBuf, &'static str)>,
    /// Guests that were lost so far.
    lost: u32,
}

/// How one run of a test ended.
enum Run {
    Passed,
    Failed,
    /// It has not failed: its host, or its guest by what its kernel said, fell to the emulator.
    Fell,
    /// Its guest was lost, to the emulator most likely.
    Lost,
}

impl Place {
    fn new(programs: Vec<(PathBuf, &'static str)>, system: System) -> Self {
        let lab = Lab::open(LAB).unwrap();
        for old in lab.hosts().unwrap() {
            lab.remove(&old).unwrap();
        }
        let host = up(&lab, &system, &programs);
        Self { lab, host, system, programs, lost: 0 }
    }

    fn names(&self) -> Vec<String> {
        let output = self.host.exec([INSIDE, "--list", "--format", "terse"]).unwrap();
        let list = String::from_utf8(output.stdout).unwrap();
        list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
    }

    /// Runs one test, anew where that says nothing of the machine.
    fn passes(&mut self, name: &str) -> bool {
        let lost_before = self.lost;
        for _ in 0..ATTEMPTS {
            match self.run(name) {
                Run::Passed => return true,
                Run::Failed => return false,
                Run::Fell => println!("test {name} ... begun anew: the emulator failed"),
                Run::Lost if self.lost > lost_before || self.lost == LOST_MAX => return false,
                Run::Lost => {
                    self.lost += 1;
                    println!(
                        "test {name} ... begun anew: its guest was lost, number {} of this run",
                        self.lost
                    );
                }
            }
        }
        false
    }

    fn run(&mut self, name: &str) -> Run {
        let console = self.host.console_end();
        let (ended, hung) = self.exec_in_time(&[INSIDE, "--exact", name]);
        let output = match ended {
            Ok(output) => output,
            Err(error) => {
                println!(
                    "test {name} ... {error}, host hung: {hung}\n{}",
                    self.host.last_of_console(console)
                );
                let fell = hung || self.host.fell_to_its_emulator(console);
                self.host.kill().unwrap();
                self.host = up(&self.lab, &self.system, &self.programs);
                return if fell { Run::Fell } else { Run::Failed };
            }
        };
        if output.outcome.is_success() {
            println!("test {name} ... ok");
            return Run::Passed;
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        println!("test {name} ... {}\n{said}", output.outcome);
        let is_lost = LOST_GUESTS.iter().any(|sign| said.contains(sign));
        match said.contains(EMULATOR_FAULT) {
            true => Run::Fell,
            false if is_lost => Run::Lost,
            false => Run::Failed,
        }
    }

    /// Runs a command; past the limit its host is killed. True: by then nobody answered there any more.
    fn exec_in_time(&self, command: &[&str]) -> (Result<Output, ExecError>, bool) {
        let (running, ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let watch = scope.spawn(move || {
                let too_long = ended.recv_timeout(RUN_LIMIT) == Err(RecvTimeoutError::Timeout);
                let hung = too_long && (0..CALLS).all(|_| self.host.connect().is_err());
                if too_long {
                    self.host.kill().unwrap();
                }
                hung
            });
            let output = self.host.exec(command.iter().copied());
            drop(running);
            (output, watch.join().unwrap())
        })
    }
}

/// A host with the programs in it.
fn up(lab: &Lab, system: &System, programs: &[(PathBuf, &'static str)]) -> Host {
    let options = HostOptions { agent: false, cpus: 2, memory_mib: 2048, ..HostOptions::default() };
    let host = lab.up("vmm", &options, system).unwrap();
    for (program, inside) in programs {
        host.copy(program, inside).unwrap();
    }
    host
}

/// Builds a static program.
fn build(arguments: &[&str], manifest: &str, target: &str) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(manifest);
    let output = Command::new(env!("CARGO"))
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .args(arguments)
        .args(["--release", "--message-format=json", "--target", TARGET, "--manifest-path"])
        .arg(manifest)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{target} does not build");
    let messages = String::from_utf8(output.stdout).unwrap();
    messages.lines().find_map(|message| executable(message, target)).unwrap()
}

/// Builds the firmware, which is freestanding.
fn firmware() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../firmware/build.sh");
    let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "the firmware does not build");
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}

fn executable(message: &str, target: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    (message["target"]["name"] == target).then(|| message["executable"].as_str().map(PathBuf::from))?
}
