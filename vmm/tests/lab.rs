//! Takes the tests of `machine` into a lab host and runs them there, against the real KVM.

#![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sublet_lab::{HostOptions, Lab, Recipe, prepare};

const LAB: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/lab");
const TARGET: &str = "x86_64-unknown-linux-gnu";
const INSIDE: &str = "/tmp/machine";
/// The program that attacks its machine, for the guests that do.
const HOSTILE: &str = "/tmp/hostile-guest";

#[test]
fn machines_keep_their_promises_on_real_guests() {
    let tests = build(
        &["test", "--no-run", "--features", "system-tests", "--test", "machine"],
        "Cargo.toml",
        "machine",
    );
    let hostile = build(&["build"], "tests/hostile/Cargo.toml", "sublet-hostile-guest");
    let system =
        prepare(&Recipe { agent: false, ..Recipe::default() }, &|step| eprintln!("lab: {step}")).unwrap();
    let lab = Lab::open(LAB).unwrap();
    for old in lab.hosts().unwrap() {
        lab.remove(&old).unwrap();
    }
    let options = HostOptions { agent: false, cpus: 2, memory_mib: 2048, ..HostOptions::default() };
    let host = lab.up("vmm", &options, &system).unwrap();
    host.copy(&tests, INSIDE).unwrap();
    host.copy(&hostile, HOSTILE).unwrap();
    // One after another: they share the host's two CPUs.
    let output = host.exec([INSIDE, "--test-threads", "1"]).unwrap();
    lab.remove(&host).unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.outcome.is_success(), "{}", String::from_utf8_lossy(&output.stderr));
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

fn executable(message: &str, target: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    (message["target"]["name"] == target).then(|| message["executable"].as_str().map(PathBuf::from))?
}
