//! The firmware itself, started by QEMU as a VMM would start it.

#![cfg(test)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Longest wait for the last line; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);
const QEMU: &str = "qemu-system-x86_64";

fn firmware() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.sh");
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let built = Command::new(script).arg("--target-dir").arg(target_dir).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    String::from_utf8(built.stdout).unwrap().trim_end().into()
}

/// A machine that is switched off when the test is done with it.
struct Machine(Child);

impl Machine {
    fn start(kind: &str, command_line: &str) -> Self {
        let machine = Command::new(QEMU)
            .args(["-accel", "tcg", "-M", kind, "-m", "64", "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-serial", "stdio", "-append", command_line, "-kernel"])
            .arg(firmware())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        Self(machine.unwrap_or_else(|error| panic!("{QEMU}: {error}; apt-get install qemu-system-x86")))
    }

    /// What it prints, up to its last line.
    fn report(&mut self) -> Vec<String> {
        let lines = lines(self.0.stdout.take().unwrap());
        let deadline = Instant::now() + PATIENCE;
        let mut report: Vec<String> = Vec::new();
        while !report.last().is_some_and(|line| line.ends_with("Halted.")) {
            let left = deadline.saturating_duration_since(Instant::now());
            report.push(lines.recv_timeout(left).unwrap_or_else(|_| panic!("no last line: {report:#?}")));
        }
        report
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).unwrap();
    }
}

fn lines(from: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    let pass_on = move || {
        let mut lines = BufReader::new(from).lines();
        while let Some(Ok(line)) = lines.next()
            && sender.send(line).is_ok()
        {}
    };
    std::thread::spawn(pass_on);
    receiver
}

fn assert_reports(kind: &str) {
    let report = Machine::start(kind, "hello \"there\"").report();
    let has = |expected: &str| report.iter().any(|line| line.trim_end().ends_with(expected));
    assert!(has(concat!("Sublet firmware ", env!("CARGO_PKG_VERSION"))), "{report:#?}");
    assert!(has("Started by PVH, version 1; modules: 0."), "{report:#?}");
    assert!(has(r#"Command line: "hello \"there\""."#), "{report:#?}");
    assert!(has("  0x0000000000000000 to 0x000000000009fbff  RAM"), "{report:#?}");
    assert!(has("there is no operating system to start. Halted."), "{report:#?}");
    let kibibytes =
        report.iter().find_map(|line| line.strip_prefix("Memory: ")?.strip_suffix(" KiB of RAM."));
    let kibibytes: u32 = kibibytes.unwrap().parse().unwrap();
    assert!((60 * 1024..=64 * 1024).contains(&kibibytes), "{kibibytes} KiB of 64 MiB");
}

#[test]
fn it_starts_on_a_pc_and_reports_what_it_found() {
    assert_reports("q35");
}

#[test]
fn it_starts_on_a_machine_made_for_small_guests_and_reports_what_it_found() {
    assert_reports("microvm");
}
