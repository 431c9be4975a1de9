//! One name for all that a command asks, in the logs of the registry and of the host.
#![cfg(all(feature = "registry", feature = "cli"))]

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::server::{Agent, LOGGED};

const DEADLINE: Duration = Duration::from_secs(60);

/// A registry that logs into a file; killed when it is dropped.
struct Registry {
    child: Child,
    directory: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let token =
            command(directory.path(), &["token", "make", "borrower", "--name", "bob"]).output().unwrap();
        assert!(token.status.success(), "{token:?}");
        fs::write(directory.path().join("token"), token.stdout).unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let mut serve = command(directory.path(), &["serve", "--listen", "127.0.0.1:0"]);
        Self { child: serve.env("RUST_LOG", LOGGED).stderr(log).spawn().unwrap(), directory }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    fn address(&self) -> String {
        let address =
            |log: String| log.lines().find_map(|line| line.strip_prefix("listening on ")).map(str::to_owned);
        eventually("the registry listens", || address(self.log()))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sublet-registry"));
    command.arg("--database").arg(directory.join("registry.db")).args(arguments);
    command
}

fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn sublet(id: Uuid) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sublet"));
    command.args(["--request-id", &id.to_string()]);
    command
}

#[test]
fn what_one_command_asks_is_found_under_one_id_at_the_registry_and_at_the_host() {
    let (agent, registry) = (Agent::start(), Registry::start());
    let (id, other) = (Uuid::new_v4(), Uuid::new_v4());
    let mut search = sublet(id);
    search
        .args(["--registry", &registry.address(), "search", "--token-file"])
        .arg(registry.directory.path().join("token"));
    let output = search.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut host = sublet(id);
    host.args(["--host", &agent.address, "host", "--owner-token-file"]).arg(agent.host.state("owner.token"));
    let output = host.output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let named = |log: String| log.contains(&id.to_string()).then_some(log);
    let logs = [
        eventually("the registry's log has the id", || named(registry.log())),
        eventually("the agent's log has the id", || named(agent.log())),
    ];
    assert!(logs.iter().all(|log| !log.contains(&other.to_string())));
}
