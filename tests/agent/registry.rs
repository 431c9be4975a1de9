//! An agent with a real registry: how it is known there, and by which token.
#![cfg(feature = "registry")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use sublet::{
    api::{problem::Code, registry::HostEnrolled, secret::Secret},
    client::{AgentClient, RegistryClient, Trust},
};
use tempfile::TempDir;

use crate::server::{Agent, Host, assert_refused};

const DEADLINE: Duration = Duration::from_secs(60);

/// It is killed when it is dropped.
struct Registry {
    directory: TempDir,
    child: Child,
    address: String,
}

fn program(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sublet-registry"));
    command.arg("--database").arg(directory.join("registry.db"));
    command
}

impl Registry {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let made =
            program(directory.path()).args(["token", "make", "lender", "--name", "alice"]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        fs::write(directory.path().join("enrolment.token"), made.stdout).unwrap();
        let serve = ["serve", "--listen", "127.0.0.1:0"];
        let mut child = program(directory.path()).args(serve).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("listening on ").map(str::to_owned)).unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        Self { directory, child, address }
    }

    fn database(&self) -> PathBuf {
        self.directory.path().join("registry.db")
    }

    /// What the registry knows of its only host.
    fn tls_key(&self) -> Option<String> {
        let db = rusqlite::Connection::open(self.database()).unwrap();
        db.query_row("SELECT tls_key FROM hosts", (), |row| row.get(0)).unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn host_of(registry: &Registry) -> Host {
    let host = Host::new();
    let config = fs::read_to_string(host.config()).unwrap();
    let table = format!(
        "[tls]\n[registry]\nurl = '{}'\nenrolment_token_file = '{}'\n[reserve]",
        registry.address,
        registry.directory.path().join("enrolment.token").display(),
    );
    let config = config.replace("advertise = 'http:", "advertise = 'https:").replace("[reserve]", &table);
    fs::write(host.config(), config).unwrap();
    host
}

fn owner(agent: &Agent) -> AgentClient {
    let certificate = Trust::authorities(&agent.host.state("tls.crt")).unwrap();
    AgentClient::trusting(&agent.address, Some(Secret::new(agent.owner_token())), &certificate).unwrap()
}

fn enrolled(host: &Host) -> HostEnrolled {
    serde_json::from_slice(&fs::read(host.state("registry.json")).unwrap()).unwrap()
}

#[tokio::test]
async fn the_registry_learns_the_hosts_tls_key_and_its_token_is_rotated_without_another_enrolment() {
    let registry = Registry::start();
    let agent = Agent::start_on(host_of(&registry));
    let key = owner(&agent).host().await.unwrap().tls_key.unwrap().to_string();
    let started = Instant::now();
    while registry.tls_key().as_deref() != Some(&key) {
        assert!(started.elapsed() < DEADLINE, "not in time: the host introduces itself");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let before = enrolled(&agent.host);
    owner(&agent).rotate_token().await.unwrap();
    let after = enrolled(&agent.host);
    assert_eq!(before.host, after.host);
    let beat = async |token| {
        let client = RegistryClient::new(&registry.address, Some(token)).unwrap();
        client.heartbeat(before.host, &<_>::default()).await
    };
    assert_refused(beat(before.host_token.clone()).await, Code::Unauthorized);
    assert!(beat(after.host_token.clone()).await.is_ok());

    let again = Agent::start_on(agent.kill());
    assert_eq!(owner(&again).host().await.unwrap().host, before.host);
    assert_eq!(enrolled(&again.host).host_token, after.host_token);
}
