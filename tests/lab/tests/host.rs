//! A real lab host, with nothing in it but a way to run commands: one that lives as long as the test.

#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use sublet_lab::exec::Outcome;
use sublet_lab::{Host, HostOptions, Lab, Recipe, prepare, until};

const LIMIT: Duration = Duration::from_secs(60);
const LAB: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/lab");

struct Bare {
    lab: Lab,
    host: Host,
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.lab.remove(&self.host);
    }
}

impl Bare {
    fn up() -> Self {
        let recipe = Recipe { agent: false, vmm: false, images: Vec::new(), ..Recipe::default() };
        let system = prepare(&recipe, &|step| eprintln!("lab: {step}")).unwrap();
        let lab = Lab::open(LAB).unwrap();
        for old in lab.hosts().unwrap() {
            lab.remove(&old).unwrap();
        }
        let options =
            HostOptions { agent: false, cpus: 2, memory_mib: 1024, disk_mib: 256, ..HostOptions::default() };
        let host = lab.up("bare", &options, &system).unwrap();
        Self { lab, host }
    }

    /// What a command in the host says; it must succeed.
    fn says(&self, script: &str) -> String {
        let output = self.host.exec(["sh", "-c", script]).unwrap();
        assert!(output.outcome.is_success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

#[test]
fn a_lab_host_does_what_lender_hosts_do() {
    let bare = Bare::up();
    its_kvm_and_its_cgroups_are_real(&bare);
    the_command_line_passes_everything_through();
    commands_run_side_by_side(&bare);
    an_interrupted_client_takes_its_command_with_it(&bare);
    a_file_is_copied_with_its_mode(&bare);
    a_power_cut_loses_nothing_that_was_synced(&bare);
}

fn its_kvm_and_its_cgroups_are_real(bare: &Bare) {
    assert_eq!(bare.says("grep -cw svm /proc/cpuinfo"), "2");
    assert_eq!(bare.says("nproc"), "2");
    for device in ["/dev/kvm", "/dev/vhost-vsock", "/dev/vhost-net", "/dev/net/tun"] {
        bare.says(&format!("test -c {device}"));
    }
    let controllers = bare.says("cat /sys/fs/cgroup/cgroup.subtree_control");
    for controller in ["cpuset", "cpu", "io", "memory"] {
        assert!(controllers.split(' ').any(|name| name == controller), "{controllers}");
    }
}

fn the_command_line_passes_everything_through() {
    let mut client = client(&["sh", "-c", "cat; echo err >&2; exit 5"]);
    client.stdin.take().unwrap().write_all(b"in").unwrap();
    let output = client.wait_with_output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (b"in".as_slice(), b"err\n".as_slice()));
    assert_eq!(output.status.code(), Some(5));
}

fn client(argv: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_sublet-lab"))
        .args(["--dir", LAB, "exec", "bare", "--"].iter().chain(argv).map(OsStr::new))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Each waits for the other's file: one after the other they would wait for ever.
fn commands_run_side_by_side(bare: &Bare) {
    let meet = |mine: &str, other: &str| {
        let script = format!("touch /tmp/{mine}; until [ -e /tmp/{other} ]; do usleep 1000; done");
        bare.host.exec(["timeout", "60", "sh", "-c", &script]).unwrap().outcome
    };
    thread::scope(|scope| {
        let one = scope.spawn(|| meet("one", "other"));
        assert_eq!(meet("other", "one"), Outcome::Exited(0));
        assert_eq!(one.join().unwrap(), Outcome::Exited(0));
    });
}

fn an_interrupted_client_takes_its_command_with_it(bare: &Bare) {
    let runs = || bare.says("ps | grep -c '[s]leep 12345' || true") != "0";
    let mut client = client(&["sleep", "12345"]);
    until(LIMIT, || runs().then_some(())).unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    until(LIMIT, || (!runs()).then_some(())).unwrap();
}

fn a_file_is_copied_with_its_mode(bare: &Bare) {
    let local = Path::new(env!("CARGO_BIN_EXE_sublet-lab-host"));
    bare.host.copy(local, "/tmp/copied").unwrap();
    assert_eq!(bare.says("stat -c '%a %s' /tmp/copied"), format!("755 {}", local.metadata().unwrap().len()));
}

fn a_power_cut_loses_nothing_that_was_synced(bare: &Bare) {
    bare.says("echo kept >/var/lib/sublet/file && sync");
    bare.host.kill().unwrap();
    assert!(bare.host.exec(["true"]).unwrap_err().to_string().contains("bare is off"));
    bare.host.start(bare.host.system()).unwrap();
    assert_eq!(bare.says("cat /var/lib/sublet/file"), "kept");
    assert_eq!(bare.says("test -e /tmp/copied || echo gone"), "gone");
}
