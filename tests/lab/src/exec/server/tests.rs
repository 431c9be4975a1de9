use std::io::Read as _;
use std::path::Path;
use std::sync::mpsc;

use super::*;
use crate::exec::client::{Connection, ExecError, Output};

/// A server in this process; its port.
fn server() -> (u16, Secret) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let secret = Secret::generate();
    let servers = secret.clone();
    thread::spawn(move || serve(&listener, servers));
    (port, secret)
}

fn run(argv: &[&str], stdin: &[u8]) -> Result<Output, ExecError> {
    let (port, secret) = server();
    Connection::open(port, &secret)?.output(Command::new(argv.iter().copied()), stdin.into())
}

#[test]
fn output_comes_apart_and_the_exit_code_is_passed_on() {
    let output = run(&["sh", "-c", "echo out; echo err >&2; exit 7"], b"").unwrap();
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(output.outcome, Outcome::Exited(7));
}

#[test]
fn a_command_killed_by_a_signal_says_which() {
    let output = run(&["sh", "-c", "kill -9 $$"], b"").unwrap();
    assert_eq!(output.outcome, Outcome::Signaled(9));
}

#[test]
fn megabytes_of_input_come_back_whole() {
    let input: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 251) as u8).collect();
    let output = run(&["cat"], &input).unwrap();
    assert!(output.stdout == input);
}

#[test]
fn a_command_that_does_not_read_its_input_still_ends() {
    let output = run(&["true"], &vec![0; 5_000_000]).unwrap();
    assert_eq!(output.outcome, Outcome::Exited(0));
}

#[test]
fn a_command_that_is_not_there_is_named() {
    let error = run(&["/no/such/program"], b"").unwrap_err();
    assert!(error.to_string().contains("/no/such/program"), "{error}");
}

#[test]
fn what_stays_in_the_background_does_not_hold_the_client_up() {
    let output = run(&["sh", "-c", "sleep 1000 & echo $!"], b"").unwrap();
    assert_eq!(output.outcome, Outcome::Exited(0));
    let process: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(Path::new(&format!("/proc/{process}")).exists());
    rustix::process::kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_client_with_another_secret_runs_nothing() {
    let (port, _) = server();
    assert!(matches!(Connection::open(port, &Secret::generate()), Err(ExecError::Handshake(_))));
}

#[test]
fn a_client_that_goes_away_takes_its_command_with_it() {
    let (port, secret) = server();
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("alive");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    let script = format!("exec 3>{}; sleep 1000", fifo.display());

    let (said, heard) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut alive = std::fs::File::open(fifo).unwrap();
        said.send(()).unwrap();
        alive.read_to_end(&mut Vec::new())
    });
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    handshake::introduce(&mut stream, &secret).unwrap();
    write_frame(&mut stream, &ToHost::Run(Command::new(["sh", "-c", &script]))).unwrap();
    heard.recv().unwrap();
    drop(stream);

    // The fifo ends only when the command, and the sleep it started, are gone.
    assert_eq!(reader.join().unwrap().unwrap(), 0);
}
