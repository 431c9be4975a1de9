//! The relay against the very runner that works inside guests, over a Unix socket.

use std::{
    collections::BTreeMap,
    fs,
    os::{fd::OwnedFd, unix::net::UnixStream as BlockingStream},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use sublet_guest::{link::Backoff, runner::Runner as GuestRunner};
use sublet_guest_protocol::{JobSpec, PROTOCOL_VERSION};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};

use super::*;
use crate::{
    agent::{
        guest::{jobs::NewJob, output, tunnels::TunnelError},
        partition::table::{Table, tests::row},
    },
    domain::id::LeaseId,
};

const BEAT_EVERY: Duration = Duration::from_secs(10);
const NONCE: &str = "0123456789abcdef0123456789abcdef";

/// A host with one partition, whose guest dials a socket in the host's directory.
struct Host {
    directory: tempfile::TempDir,
    listener: UnixListener,
    jobs: Jobs,
}

/// An agent's side of one connection.
struct Connection {
    relay: JoinHandle<Result<(), RelayError>>,
    off: watch::Sender<bool>,
    tunnels: Arc<Tunnels>,
    words: watch::Receiver<Option<GuestWord>>,
}

impl Host {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("vsock")).unwrap();
        let table = open(directory.path());
        table.insert(row(1), None).await.unwrap();
        let jobs = Jobs::new(row(1).id, table, directory.path(), Arc::default());
        Self { directory, listener, jobs }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("vsock")
    }

    /// Starts a guest's runner. It ends with the test's process.
    fn start_runner(&self) {
        let path = self.path();
        let dial = move || BlockingStream::connect(&path).map(OwnedFd::from);
        let soon = Duration::from_millis(1);
        let backoff = Backoff { first: soon, longest: soon };
        std::thread::spawn(move || GuestRunner::new(dial, NONCE.to_owned(), backoff, None).run());
    }

    /// Takes the runner's next call, as an agent that was just started does.
    async fn answer(&self) -> Connection {
        let (stream, _) = self.listener.accept().await.unwrap();
        let mut frames = Frames::new(stream);
        let FromGuest::Hello { version, nonce, jobs: known } = frames.receive().await.unwrap() else {
            panic!("a runner greets first")
        };
        assert_eq!(nonce, NONCE);
        let jobs = Jobs::new(row(1).id, open(self.directory.path()), self.directory.path(), Arc::default());
        let tunnels = Arc::<Tunnels>::default();
        let runner = Runner { frames, version, known };
        let clock = LeaseClock::load(self.directory.path(), "the only one").unwrap();
        let (words, heard) = watch::channel(None);
        let relay = Relay::new(runner, jobs, Arc::clone(&tunnels), Arc::new(clock))
            .telling(NONCE, move |word| drop(words.send_replace(Some(word))));
        let (off, is_off) = watch::channel(false);
        Connection { relay: tokio::spawn(relay.run(BEAT_EVERY, is_off)), off, tunnels, words: heard }
    }

    async fn submit(&self, script: &str) -> JobId {
        let job = NewJob {
            lease: LeaseId(Uuid::from_u128(7)),
            image: "debian-micro".to_owned(),
            spec: JobSpec {
                id: protocol::JobId([0; 16]),
                argv: ["sh", "-c", script].map(str::to_owned).into(),
                env: BTreeMap::new(),
                working_directory: None,
                stdin: b"from the borrower".to_vec(),
                time_limit_ms: None,
            },
            mark: None,
        };
        self.jobs.submit(job, Timestamp::UNIX_EPOCH).await.unwrap()
    }

    async fn job(&self, id: JobId) -> Job {
        self.jobs.get(id).await.unwrap().unwrap()
    }

    /// Waits until `done` says so of the job and of the length of its stdout.
    async fn wait(&self, id: JobId, done: impl Fn(&Stage, u64) -> bool) {
        let wait = async {
            while !done(&self.job(id).await.stage, output::held_bytes(&self.file(id, Stream::Stdout))) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(60), wait).await.expect("the job comes that far");
    }

    async fn end(&self, id: JobId) -> JobEnd {
        self.wait(id, |stage, _| matches!(stage, Stage::Ended(_))).await;
        match self.job(id).await.stage {
            Stage::Ended(end) => end,
            other => panic!("{other:?}"),
        }
    }

    fn file(&self, id: JobId, stream: Stream) -> PathBuf {
        output::path(self.jobs.output_directory(), id, stream)
    }

    fn output(&self, id: JobId, stream: Stream) -> String {
        fs::read_to_string(self.file(id, stream)).unwrap()
    }
}

fn open(directory: &Path) -> Table {
    Table::open(&directory.join("agent.db")).unwrap()
}

fn numbers(last: u32) -> String {
    (1..=last).map(|number| format!("{number}\n")).collect()
}

#[tokio::test]
async fn a_job_runs_and_its_output_and_end_arrive() {
    let host = Host::new().await;
    host.start_runner();
    let id = host.submit("cat; echo oops >&2; exit 3").await;
    let _connection = host.answer().await;
    assert_eq!(host.end(id).await, JobEnd::Exited { code: 3 });
    assert_eq!(host.output(id, Stream::Stdout), "from the borrower");
    assert_eq!(host.output(id, Stream::Stderr), "oops\n");
}

#[tokio::test]
async fn jobs_run_one_after_another() {
    let host = Host::new().await;
    host.start_runner();
    let ids = [host.submit("echo a").await, host.submit("echo b").await, host.submit("echo c").await];
    let _connection = host.answer().await;
    for (id, said) in ids.into_iter().zip(["a\n", "b\n", "c\n"]) {
        assert_eq!(host.end(id).await, JobEnd::Exited { code: 0 });
        assert_eq!(host.output(id, Stream::Stdout), said);
    }
}

#[tokio::test]
async fn an_agent_that_dies_again_and_again_loses_and_doubles_no_byte() {
    let host = Host::new().await;
    host.start_runner();
    let id = host.submit("seq 1 200000 & seq 1 1000 >&2; wait; exit 7").await;
    for half in 1..5 {
        let connection = host.answer().await;
        host.wait(id, |_, held| held > half * 200_000).await;
        connection.relay.abort();
        let _ = connection.relay.await;
    }
    let _connection = host.answer().await;
    assert_eq!(host.end(id).await, JobEnd::Exited { code: 7 });
    assert!(host.output(id, Stream::Stdout) == numbers(200_000), "stdout is byte for byte what was written");
    assert_eq!(host.output(id, Stream::Stderr), numbers(1000));
}

#[tokio::test]
async fn a_job_that_runs_can_be_cancelled() {
    let host = Host::new().await;
    host.start_runner();
    let id = host.submit("echo ready; sleep 1000").await;
    let connection = host.answer().await;
    host.wait(id, |_, held| held > 0).await;
    // From another agent's life: the wish stands in the table, and the next connection carries it out.
    host.jobs.cancel(id, Timestamp::UNIX_EPOCH).await.unwrap();
    connection.relay.abort();
    let _connection = host.answer().await;
    assert_eq!(host.end(id).await, JobEnd::Cancelled);
}

#[tokio::test]
async fn what_a_guest_had_sent_before_it_ended_is_taken() {
    let host = Host::new().await;
    host.start_runner();
    let id = host.submit("seq 1 1000; echo last >&2").await;
    let connection = host.answer().await;
    host.wait(id, |stage, _| *stage != Stage::Sent && *stage != Stage::Queued).await;
    connection.off.send(true).unwrap();
    connection.relay.await.unwrap().unwrap();
    assert_eq!(host.end(id).await, JobEnd::Exited { code: 0 });
    assert_eq!(host.output(id, Stream::Stdout), numbers(1000));
}

/// A guest that says whatever it likes.
struct Liar {
    frames: Frames,
}

async fn liar(host: &Host) -> (Liar, Connection) {
    let frames = Frames::new(UnixStream::connect(host.path()).await.unwrap());
    let mut liar = Liar { frames };
    liar.say(FromGuest::Hello { version: 1, nonce: NONCE.to_owned(), jobs: vec![] }).await;
    let connection = host.answer().await;
    (liar, connection)
}

impl Liar {
    async fn say(&mut self, message: FromGuest) {
        self.frames.send(&message).await.unwrap();
    }

    async fn hear(&mut self) -> FromHost {
        self.frames.receive().await.unwrap()
    }
}

async fn error_of(connection: Connection) -> String {
    connection.relay.await.unwrap().unwrap_err().to_string()
}

#[tokio::test]
async fn a_runner_that_forgot_a_job_it_had_begun_does_not_get_it_again() {
    let host = Host::new().await;
    let id = host.submit("true").await;
    let (mut guest, _first) = liar(&host).await;
    assert_eq!(guest.hear().await, FromHost::Welcome { resume: vec![] });
    assert!(matches!(guest.hear().await, FromHost::Start(_)));
    guest.say(FromGuest::Started { job: wire_id(id) }).await;
    host.wait(id, |stage, _| *stage == Stage::Running).await;
    let (_guest, _second) = liar(&host).await;
    assert!(matches!(host.end(id).await, JobEnd::GuestFailed { .. }));
}

#[tokio::test]
async fn a_job_that_was_sent_and_not_heard_of_is_sent_again() {
    let host = Host::new().await;
    host.submit("true").await;
    for _ in 0..2 {
        let (mut guest, _connection) = liar(&host).await;
        assert_eq!(guest.hear().await, FromHost::Welcome { resume: vec![] });
        assert!(matches!(guest.hear().await, FromHost::Start(_)));
    }
}

#[tokio::test]
async fn a_guest_that_lies_is_hung_up_on_and_nothing_is_stored() {
    let host = Host::new().await;
    let id = host.submit("true").await;
    let job = wire_id(id);
    let (stranger, bytes) = (protocol::JobId([9; 16]), vec![b'x']);
    for lie in [
        FromGuest::Output { job: stranger, stream: Stream::Stdout, offset: 0, bytes: bytes.clone() },
        FromGuest::Output { job, stream: Stream::Stdout, offset: 5, bytes },
        FromGuest::Ended { job, end: protocol::JobEnd::Exited { code: 0 }, stdout_bytes: 1, stderr_bytes: 0 },
        FromGuest::Hello { version: 1, nonce: String::new(), jobs: vec![] },
    ] {
        let (mut guest, connection) = liar(&host).await;
        guest.say(lie).await;
        assert!(!error_of(connection).await.is_empty());
        assert_eq!(output::held_bytes(&host.file(id, Stream::Stdout)), 0);
        assert!(!matches!(host.job(id).await.stage, Stage::Ended(_)));
    }
}

#[tokio::test]
async fn a_job_the_host_does_not_know_is_cancelled_and_forgotten() {
    let host = Host::new().await;
    let mut frames = Frames::new(UnixStream::connect(host.path()).await.unwrap());
    let job = protocol::JobId([9; 16]);
    let known = JobProgress { job, stdout_from: 0, stderr_from: 0 };
    frames.send(&FromGuest::Hello { version: 1, nonce: NONCE.to_owned(), jobs: vec![known] }).await.unwrap();
    let _connection = host.answer().await;
    assert_eq!(frames.receive::<FromHost>().await.unwrap(), FromHost::Welcome { resume: vec![] });
    assert_eq!(frames.receive::<FromHost>().await.unwrap(), FromHost::Cancel { job });
    assert_eq!(frames.receive::<FromHost>().await.unwrap(), FromHost::Forget { job });
}

#[tokio::test]
async fn a_runner_carries_a_tunnel_that_its_relay_asked_for_and_refuses_what_nobody_listens_at() {
    let host = Host::new().await;
    host.start_runner();
    let connection = host.answer().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let dialled = async {
        let mut frames = Frames::new(host.listener.accept().await.unwrap().0);
        let FromGuest::Tunnel { nonce, tunnel } = frames.receive().await.unwrap() else {
            panic!("no tunnel's greeting")
        };
        assert_eq!(nonce, NONCE);
        connection.tunnels.dialled(tunnel, frames);
    };
    let (opened, ()) = tokio::join!(connection.tunnels.open(port), dialled);
    let (mut guest, _) = listener.accept().await.unwrap();
    let (mut client, near) = tokio::io::duplex(64);
    tokio::spawn(opened.unwrap().carry(near));
    client.write_all(b"ping").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = String::new();
    guest.read_to_string(&mut heard).await.unwrap();
    guest.write_all(b"pong").await.unwrap();
    drop(guest);
    let mut said = String::new();
    client.read_to_string(&mut said).await.unwrap();
    assert_eq!((heard.as_str(), said.as_str()), ("ping", "pong"));

    drop(listener);
    assert_eq!(connection.tunnels.open(port).await.unwrap_err(), TunnelError::PortClosed(port));
}

#[tokio::test]
async fn a_runner_of_the_version_before_is_asked_neither_for_tunnels_nor_for_beats() {
    let host = Host::new().await;
    let (mut guest, connection) = liar(&host).await;
    assert_eq!(guest.hear().await, FromHost::Welcome { resume: vec![] });
    assert_eq!(connection.tunnels.open(22).await.unwrap_err(), TunnelError::Unsupported);
    connection.relay.abort();
    let _ = connection.relay.await;
    assert!(guest.frames.receive::<FromHost>().await.is_err(), "nothing else was said");
}

#[tokio::test]
async fn a_runner_of_this_version_is_told_how_often_to_beat() {
    let host = Host::new().await;
    let mut frames = Frames::new(UnixStream::connect(host.path()).await.unwrap());
    let hello = FromGuest::Hello { version: PROTOCOL_VERSION, nonce: NONCE.to_owned(), jobs: vec![] };
    frames.send(&hello).await.unwrap();
    let _connection = host.answer().await;
    assert_eq!(frames.receive::<FromHost>().await.unwrap(), FromHost::Welcome { resume: vec![] });
    assert_eq!(frames.receive::<FromHost>().await.unwrap(), FromHost::Beat { every_ms: 10_000 });
}

#[tokio::test]
async fn a_runner_says_what_it_has_measured_signed_as_of_its_boot() {
    let host = Host::new().await;
    host.start_runner();
    let mut connection = host.answer().await;
    let heard = connection.words.wait_for(Option::is_some);
    let word = timeout(Duration::from_secs(60), heard).await.unwrap().unwrap().clone().unwrap();
    let measured = word.measured().unwrap();
    assert_eq!(measured.boot, boot_name(NONCE));
    assert!(!measured.cpus.is_empty());
}
