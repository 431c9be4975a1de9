//! Tunnels to ports of the guest, as a borrower types them.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use biscuit_auth::{UnverifiedBiscuit, builder::BlockBuilder};
use serde_json::Value;
use sublet::{
    api::{agent::PartitionState, problem::Code, registry::LeaseGranted},
    domain::{
        id::{LeaseId, PartitionId},
        secret::Secret,
    },
};
use sublet_lab::AgentAction;

use crate::{
    loan::Loan,
    world::{AN_HOUR, PATIENCE, SMALL, output, shell, world},
};

/// What goes through a tunnel in each direction, in bytes.
const MANY: usize = 3 << 20;
/// Serves at port 7000: says that it is ready; once all has come, its digest; then `/tmp/all`, whose digest the job says.
const SERVE: &str = r#"
head -c 3145728 /dev/urandom >/tmp/all
md5sum </tmp/all
printf '#!/bin/sh\necho ready\nmd5sum\ncat /tmp/all\n' >/tmp/serve
chmod 755 /tmp/serve
nc -ll -p 7000 -e /tmp/serve &
until netstat -tln | grep -q ':7000 '; do usleep 100000; done
echo serving
wait
"#;

/// A lease as the command line keeps it, in a folder of the test's own.
pub(crate) struct Borrowed {
    state: PathBuf,
    pub(crate) id: LeaseId,
    pub(crate) loan: Loan,
}

impl Borrowed {
    /// `sublet borrow`.
    pub(crate) fn new(partition: PartitionId) -> Self {
        let world = world();
        let state = world.directory.join(format!("state-{partition}"));
        let duration = format!("{}s", AN_HOUR.as_secs());
        let borrow = ["borrow", "--partition", &partition.to_string(), "--for", &duration, "--json"];
        let borrowed = output(with_state(world.sublet(&borrow), &state));
        assert!(borrowed.status.success(), "{borrowed:?}");
        let borrowed: Value = serde_json::from_slice(&borrowed.stdout).unwrap();
        let id: LeaseId = borrowed["lease"].as_str().unwrap().parse().unwrap();
        let kept = fs::read(state.join(format!("leases/{id}.json"))).unwrap();
        let kept: Value = serde_json::from_slice(&kept).unwrap();
        let granted = LeaseGranted {
            lease: world.wait(world.borrower.lease(id)).unwrap(),
            key: Secret::new(kept["key"].as_str().unwrap()),
            allocation_digest: serde_json::from_value(kept["allocation_digest"].clone()).unwrap(),
        };
        Self { state, id, loan: world.loan(granted) }
    }

    /// Where ssh keeps the host keys of the lease's guests.
    pub(crate) fn known_hosts(&self) -> PathBuf {
        self.state.join("known_hosts").join(self.id.to_string())
    }

    /// `sublet COMMAND --lease ID ARGUMENTS`.
    pub(crate) fn sublet(&self, command: &str, arguments: &[&str]) -> Command {
        let id = self.id.to_string();
        let all = [&[command, "--lease", &id], arguments].concat();
        with_state(world().sublet(&all), &self.state)
    }

    /// Runs a job until it says that it serves; all that it has said.
    pub(crate) fn serve(&self, image: &str, script: &str) -> String {
        world().wait(async {
            let job = self.loan.submit(shell(image, script)).await.unwrap();
            self.loan.wait_for_output(job.id, "serving\n").await
        })
    }

    /// Starts `sublet tunnel`, and waits until it listens.
    fn forward(&self, forward: &str) -> Forwarding {
        let mut command = self.sublet("tunnel", &["--json", forward]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = serde_json::Deserializer::from_reader(child.stdout.take().unwrap());
        let said: Value = said.into_iter().next().unwrap().unwrap();
        Forwarding { child, listening: said["listening"].as_str().unwrap().parse().unwrap() }
    }

    fn code_of_tunnel_with(&self, key: &Secret) -> Option<Code> {
        let opened = world().wait(world().agent_with(key).tunnel(self.loan.partition(), 7000));
        opened.err().and_then(|error| error.code())
    }
}

fn with_state(mut command: Command, state: &PathBuf) -> Command {
    command.env("SUBLET_STATE_DIR", state);
    command
}

/// A `sublet tunnel` that runs; ended with the test.
struct Forwarding {
    child: Child,
    listening: SocketAddr,
}

impl Forwarding {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listening).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What it says at its end, and how it ends.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn md5(bytes: &[u8]) -> String {
    let mut child = Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    first_word(&child.wait_with_output().unwrap().stdout)
}

fn first_word(text: &[u8]) -> String {
    String::from_utf8_lossy(text).split_whitespace().next().unwrap_or_default().to_owned()
}

fn bytes() -> Vec<u8> {
    (0..MANY).map(|at| (at * 7 / 3) as u8).collect()
}

/// Where the lab host listens.
fn listening() -> Vec<String> {
    let script = "cat /proc/net/tcp /proc/net/tcp6 | awk '$4 == \"0A\" {print $2}' | sort";
    world().on_host(script).lines().map(str::to_owned).collect()
}

/// What a served connection answers to [`bytes`]: the digest of what it got, then what it sends.
fn assert_served(answer: &[u8], all: &str) {
    let answer = answer.strip_prefix(b"ready\n").expect("it is ready first");
    let end_of_line = answer.iter().position(|byte| *byte == b'\n').expect("a line first");
    let (digest, rest) = answer.split_at(end_of_line + 1);
    assert_eq!(first_word(digest), md5(&bytes()), "what the guest got");
    assert_eq!((rest.len(), md5(rest).as_str()), (MANY, all), "what the guest sent");
}

#[test]
fn a_port_of_the_guest_is_reached_with_the_key_and_no_port_is_opened_on_the_host() {
    let world = world();
    let offer = world.offer(SMALL);
    let borrowed = Borrowed::new(offer.id);
    let without_guest = output(borrowed.sublet("tunnel", &["--stdio", "7000"]));
    assert_refused(&without_guest, "no guest is running");
    let before = listening();
    let all = first_word(borrowed.serve("debian-micro", SERVE).as_bytes());

    let forwarding = borrowed.forward("0:7000");
    assert!(forwarding.listening.ip().is_loopback());
    let mut one = forwarding.connect();
    let mut other = forwarding.connect();
    one.write_all(&bytes()).unwrap();
    // Each way ends by itself: the answer comes after the end of what was sent.
    one.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    one.read_to_end(&mut answer).unwrap();
    assert_served(&answer, &all);
    assert_eq!(listening(), before);
    other.shutdown(Shutdown::Write).unwrap();
    answer.clear();
    other.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(format!("ready\n{} ", md5(b"")).as_bytes()));

    let mut stdio = borrowed.sublet("tunnel", &["--stdio", "7000"]);
    let mut stdio = stdio.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    stdio.stdin.take().unwrap().write_all(&bytes()).unwrap();
    let ended = stdio.wait_with_output().unwrap();
    assert!(ended.status.success());
    assert_served(&ended.stdout, &all);

    assert_refused(&output(borrowed.sublet("tunnel", &["--stdio", "9"])), "nobody listens at port 9");
    borrowed.loan.end();
}

fn assert_refused(ended: &Output, said: &str) {
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains(said), "{stderr}");
}

#[test]
fn a_tunnel_ends_with_the_agent_and_with_its_lease_and_an_old_or_wrong_or_narrowed_key_opens_none() {
    let world = world();
    let offer = world.offer(SMALL);
    let borrowed = Borrowed::new(offer.id);
    borrowed.serve("debian-micro", SERVE);
    let forwarding = borrowed.forward("0:7000");
    assert_eq!(borrowed.code_of_tunnel_with(&Secret::new("not a key")), Some(Code::KeyInvalid));
    let narrowed = narrowed(&borrowed.loan.granted.key, r#"check if operation("logs")"#);
    assert_eq!(borrowed.code_of_tunnel_with(&narrowed), Some(Code::Forbidden));

    let mut open = half_open(&forwarding);
    world.lab_host.agent(AgentAction::Kill).unwrap();
    assert_ended(&mut open);
    world.lab_host.agent(AgentAction::Start).unwrap();
    world.lab_host.wait_for_agent().unwrap();

    // The job serves on, and the command forwards on.
    let mut open = half_open(&forwarding);
    borrowed.loan.end();
    assert_ended(&mut open);
    world.wait_for_partition(offer.id, |view| view.state == PartitionState::Offered);
    assert_eq!(borrowed.code_of_tunnel_with(&borrowed.loan.granted.key), Some(Code::KeyEpochPassed));
    assert_ended(&mut forwarding.connect());
    let (code, said) = forwarding.end();
    assert_eq!(code, Some(125));
    assert!(said.contains("earlier lease"), "{said}");
}

/// A connection that the guest has taken, and in which it waits for more.
fn half_open(forwarding: &Forwarding) -> TcpStream {
    let mut stream = forwarding.connect();
    let mut ready = [0; 6];
    stream.read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    stream
}

/// Whoever was connected sees the end, in whichever way.
fn assert_ended(stream: &mut TcpStream) {
    match stream.read(&mut [0; 1]) {
        Ok(count) => assert_eq!(count, 0),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
}

/// The key with a check appended, as whoever hands it on does.
fn narrowed(key: &Secret, check: &str) -> Secret {
    let key = UnverifiedBiscuit::from_base64(key.reveal()).unwrap();
    let block = BlockBuilder::new().code(check).unwrap();
    Secret::new(key.append(block).unwrap().to_base64().unwrap())
}
