//! A registry of a test's own: its process, its database, its clients.

use std::{
    fmt::Debug,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use sublet::{
    api::{problem::Code, secret::Secret},
    client::{ClientError, RegistryClient},
};

pub(crate) use crate::database::Database;

/// How long anything may take on a slow and busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A beat so long that no host of a test falls silent by itself.
const CALM: [&str; 2] = ["--beat-every-ms", "3600000"];

/// A running registry; it is killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    address: String,
    log: Arc<Mutex<String>>,
    database: Database,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(Database::new(), &CALM)
    }

    pub(crate) fn start_on(database: Database) -> Self {
        Self::start_with(database, &CALM)
    }

    /// Starts it on a port that is free, and waits until it listens.
    pub(crate) fn start_with(database: Database, options: &[&str]) -> Self {
        let mut command = database.program();
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(options);
        Self::started(command, database)
    }

    /// Has this command start it, which says where its database is; `database` is kept as long as it runs.
    pub(crate) fn start_by(mut command: Command, database: Database) -> Self {
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(CALM).env_remove("RUST_LOG");
        Self::started(command, database)
    }

    fn started(mut command: Command, database: Database) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let address = read_address(&mut stderr);
        Self { child, address, log: keep(stderr), database }
    }

    /// The file system as it sees it.
    pub(crate) fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.child.id()).into()
    }

    /// Starts it at this address, to die where `crash_at` says (`sublet::registry::crash_point`); does not wait until
    /// it listens.
    pub(crate) fn start_at(listen: SocketAddr, database: Database, crash_at: Option<&str>) -> Self {
        let mut command = database.program();
        command.args(["serve", "--listen", &listen.to_string()]).args(CALM).stderr(Stdio::piped());
        command.envs(crash_at.map(|place| ("SUBLET_CRASH_AT", place)));
        let mut child = command.spawn().unwrap();
        let log = keep(BufReader::new(child.stderr.take().unwrap()));
        Self { child, address: format!("http://{listen}"), log, database }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn database(&self) -> Database {
        self.database.clone()
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// A client with a token that was just made.
    pub(crate) fn lender(&self, name: &str) -> RegistryClient {
        self.client(self.database.token("lender", name))
    }

    pub(crate) fn borrower(&self, name: &str) -> RegistryClient {
        self.client(self.database.token("borrower", name))
    }

    pub(crate) fn client(&self, token: Secret) -> RegistryClient {
        RegistryClient::new(&self.address, Some(token)).unwrap()
    }

    /// SIGKILL, as a power cut would do it; the database stays.
    pub(crate) fn kill(mut self) -> Database {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.database()
    }

    pub(crate) fn is_dead(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it dies by itself; true: by SIGKILL.
    pub(crate) async fn dies(mut self) -> bool {
        use std::os::unix::process::ExitStatusExt as _;
        let status = eventually("the registry dies", async || self.child.try_wait().unwrap()).await;
        status.signal() == Some(rustix::process::Signal::KILL.as_raw())
    }

    /// SIGHUP, as an operator says that certificates have changed.
    pub(crate) fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// SIGTERM; true: it ended with success.
    pub(crate) async fn terminate(mut self) -> bool {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        eventually("the registry ends", async || self.child.try_wait().unwrap()).await.success()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the registry's log ---\n{}", self.log());
        }
    }
}

/// Reads the log, so that it never stands in the server's way.
fn keep(stderr: BufReader<ChildStderr>) -> Arc<Mutex<String>> {
    let log = Arc::new(Mutex::new(String::new()));
    let kept = Arc::clone(&log);
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            kept.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    log
}

fn read_address(stderr: &mut BufReader<ChildStderr>) -> String {
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "the registry ended before it listened: {seen}");
        if let Some(address) = line.trim().strip_prefix("listening on ") {
            return address.to_owned();
        }
        seen.push_str(&line);
    }
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn assert_refused<T: Debug>(result: Result<T, ClientError>, code: Code) {
    match result {
        Err(error) if error.code() == Some(code) => {}
        other => panic!("expected {code:?}, not {other:?}"),
    }
}
