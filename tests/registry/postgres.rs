//! A PostgreSQL server of one test's own, to be crashed.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

/// It is gone when it is dropped, with all that is in it.
pub(crate) struct PostgresServer {
    child: Child,
    url: String,
    /// A shell command that controls it: pg_ctl(1), as the server's owner.
    control: String,
}

impl PostgresServer {
    pub(crate) fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres/with-server.sh");
        let tell_and_wait = r#"echo "$SUBLET_TEST_DATABASE"; echo "$SUBLET_TEST_POSTGRES_CONTROL"; cat"#;
        let mut child = Command::new("bash")
            .args([script, "--durable", "sh", "-c", tell_and_wait])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut line = || lines.next().expect("the server starts").unwrap();
        Self { url: line(), control: line(), child }
    }

    /// As `SUBLET_TEST_DATABASE` has it.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// All its processes end at once, in the middle of what they do; then it recovers.
    pub(crate) fn crashes_and_comes_back(&self) {
        let command = format!("{} restart --mode immediate --wait >/dev/null", self.control);
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success(), "{command}");
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // What waits for its standard input to end lets the server end.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
