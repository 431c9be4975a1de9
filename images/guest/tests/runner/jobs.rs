//! What a job gets, gives and how it ends.

use std::process::Command;

use sublet_guest::cgroup::Cgroups;
use sublet_guest_protocol::{FromHost, JobEnd, JobSpec, job::STDIN_LIMIT};

use crate::host::{Held, Host, has_ended, job, shell, wait_until};

fn not_started(spec: JobSpec) -> String {
    let held = Host::start().run(spec);
    assert!(!held.started);
    match held.end {
        Some(JobEnd::NotStarted { reason }) => reason,
        other => panic!("{other:?} instead of a reason"),
    }
}

#[test]
fn a_job_runs_and_its_output_arrives() {
    let held = Host::start().run(job(&["echo", "hello", "world"]));
    assert!(held.started);
    assert_eq!((held.stdout(), held.exit_code()), ("hello world\n", 0));
}

#[test]
fn stdout_and_stderr_arrive_apart() {
    let held = Host::start().run(shell("echo out; echo err >&2; echo out again"));
    assert_eq!(held.stdout, b"out\nout again\n");
    assert_eq!(held.stderr, b"err\n");
}

#[test]
fn exit_codes_arrive() {
    let host = Host::start();
    let mut line = host.welcome();
    for code in [1, 2, 77, 255] {
        assert_eq!(line.run(shell(&format!("exit {code}"))).exit_code(), code);
    }
}

#[test]
fn a_job_ended_by_a_signal_says_which() {
    let held = Host::start().run(shell("kill -SEGV $$"));
    assert_eq!(held.end, Some(JobEnd::Signaled { signal: 11 }));
    let held = Host::start().run(shell("kill -KILL $$"));
    assert_eq!(held.end, Some(JobEnd::Signaled { signal: 9 }));
}

#[test]
fn standard_input_arrives_whole_and_ends() {
    let mut spec = job(&["cat"]);
    spec.stdin = (0..STDIN_LIMIT).map(|at| (at % 251) as u8).collect();
    let stdin = spec.stdin.clone();
    assert!(Host::start().run(spec).stdout == stdin);
}

#[test]
fn without_standard_input_a_reader_sees_its_end() {
    assert_eq!(Host::start().run(job(&["cat"])).exit_code(), 0);
}

#[test]
fn the_environment_is_the_jobs_own_over_a_default_path_and_home() {
    let mut spec = job(&["env"]);
    spec.env.insert("GREETING".into(), "hello there".into());
    spec.env.insert("HOME".into(), "/tmp".into());
    let held = Host::start().run(spec);
    let mut lines: Vec<_> = held.stdout().lines().collect();
    lines.sort_unstable();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(lines, ["GREETING=hello there", "HOME=/tmp", path]);
}

#[test]
fn a_job_works_where_it_was_told_to_and_else_in_the_root() {
    let host = Host::start();
    let mut line = host.welcome();
    assert_eq!(line.run(job(&["pwd"])).stdout(), "/\n");
    let mut spec = job(&["pwd"]);
    spec.working_directory = Some("/usr/bin".into());
    assert_eq!(line.run(spec).stdout(), "/usr/bin\n");
}

#[test]
fn an_unknown_program_is_not_started_and_named() {
    let reason = not_started(job(&["no-such-program"]));
    assert_eq!(reason, "cannot run \"no-such-program\": No such file or directory");
}

#[test]
fn a_file_that_is_no_program_is_not_started_and_named() {
    assert_eq!(not_started(job(&["/etc/passwd"])), "cannot run \"/etc/passwd\": Permission denied");
}

#[test]
fn a_missing_working_directory_is_named() {
    let mut spec = job(&["true"]);
    spec.working_directory = Some("/no/such/place".into());
    assert_eq!(not_started(spec), "cannot work in \"/no/such/place\": No such file or directory");
}

#[test]
fn a_working_directory_that_is_a_file_is_named() {
    let mut spec = job(&["true"]);
    spec.working_directory = Some("/etc/passwd".into());
    assert_eq!(not_started(spec), "cannot work in \"/etc/passwd\": Not a directory");
}

#[test]
fn a_job_that_is_not_valid_is_refused_with_the_reason() {
    assert_eq!(not_started(job(&[])), "the job is not valid: argv: a job needs a program to run");
}

#[test]
fn a_job_is_ended_when_its_time_is_up() {
    let mut spec = job(&["sleep", "1000"]);
    spec.time_limit_ms = Some(1);
    assert_eq!(Host::start().run(spec).end, Some(JobEnd::TimedOut));
}

#[test]
fn a_job_that_is_quicker_than_its_time_limit_is_not_ended_by_it() {
    let mut spec = job(&["true"]);
    spec.time_limit_ms = Some(u64::MAX);
    assert_eq!(Host::start().run(spec).exit_code(), 0);
}

/// Starts two generations of descendants, prints their ids, and goes on until it is cancelled.
fn cancelled_with_descendants(host: &Host, script: &str) -> Vec<String> {
    let spec = shell(script);
    let mut held = Held::new(spec.id);
    let mut line = host.welcome();
    line.send(&FromHost::Start(spec));
    while held.stdout.iter().filter(|&&byte| byte == b'\n').count() < 2 {
        let message = line.next();
        held.take(message);
    }
    line.send(&FromHost::Cancel { job: held.job });
    line.collect(&mut held);
    assert_eq!(held.end, Some(JobEnd::Cancelled));
    held.stdout().lines().map(str::to_owned).collect()
}

const FAMILY: &str = "sh -c 'sleep 1000 & echo $!; exec sleep 1000' & echo $!; wait";

#[test]
fn cancelling_ends_a_job_with_its_descendants_by_process_group() {
    for pid in cancelled_with_descendants(&Host::start_with(None), FAMILY) {
        wait_until("the descendant has ended", || has_ended(&pid));
    }
}

#[test]
fn a_daemon_left_behind_does_not_hold_up_the_end_and_is_ended() {
    for cgroups in [Cgroups::find(), None] {
        let held = Host::start_with(cgroups).run(shell("sleep 1000 & echo $!"));
        assert_eq!(held.exit_code(), 0);
        wait_until("the daemon has ended", || has_ended(held.stdout().trim()));
    }
}

#[test]
fn a_daemon_that_cannot_be_ended_and_floods_stdout_does_not_hold_up_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let flag = directory.path().join("floods").display().to_string();
    let script = format!("setsid sh -c 'yes & touch {flag}; wait' & until [ -e {flag} ]; do :; done; exit 3");
    let held = Host::start_with(None).run(shell(&script));
    assert_eq!(held.exit_code(), 3);
}

#[test]
fn a_job_that_closes_its_output_is_still_waited_for() {
    let held = Host::start().run(shell("exec >&- 2>&-; read line; exit 5"));
    assert_eq!(held.exit_code(), 5);
}

#[test]
fn output_written_just_before_the_end_arrives() {
    let host = Host::start();
    let mut line = host.welcome();
    for _ in 0..20 {
        let held = line.run(job(&["head", "-c", "60000", "/dev/zero"]));
        assert_eq!(held.stdout.len(), 60000);
        line.send(&FromHost::Forget { job: held.job });
    }
}

#[test]
fn a_job_does_not_inherit_the_runners_descriptors() {
    let held = Host::start().run(job(&["ls", "/proc/self/fd"]));
    let of_a_plain_child = Command::new("ls").arg("/proc/self/fd").output().unwrap().stdout;
    assert_eq!(held.stdout, of_a_plain_child);
}

#[test]
fn a_job_runs_in_a_session_of_its_own() {
    let held = Host::start().run(shell("echo $$; cut -d' ' -f5,6 /proc/$$/stat"));
    let mut words = held.stdout().split_whitespace();
    let pid = words.next().unwrap();
    assert_eq!(words.collect::<Vec<_>>(), [pid, pid]);
}
