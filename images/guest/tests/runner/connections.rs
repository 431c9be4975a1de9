//! What becomes of jobs and their output when the connection breaks, or the host misbehaves.

use std::io::Write;
use std::net::Shutdown;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};
use sublet_guest_protocol::{
    FromHost, JobEnd, JobId, JobSpec, OLDEST_VERSION, PROTOCOL_VERSION, Stream, UNACKNOWLEDGED_LIMIT,
};

use crate::host::{Held, Host, Line, job, shell, wait_until};

/// Writes two streams at once, some 5 MB together.
const FLOOD: &str = "seq 1 400000 & seq 1 300000 >&2; wait";

fn numbers(last: u32) -> Vec<u8> {
    (1..=last).flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

fn assert_flooded(held: &Held) {
    assert_eq!(held.exit_code(), 0);
    assert_eq!(Sha256::digest(&held.stdout), Sha256::digest(numbers(400_000)));
    assert_eq!(Sha256::digest(&held.stderr), Sha256::digest(numbers(300_000)));
}

fn started(host: &Host, spec: JobSpec) -> (Line, Held) {
    let mut held = Held::new(spec.id);
    let mut line = host.welcome();
    line.send(&FromHost::Start(spec));
    let message = line.next();
    held.take(message);
    assert!(held.started);
    (line, held)
}

#[test]
fn jobs_run_one_after_another_on_one_connection() {
    let host = Host::start();
    let mut line = host.welcome();
    for number in 0..10 {
        let held = line.run(shell(&format!("echo {number}")));
        assert_eq!(held.stdout(), format!("{number}\n"));
        line.send(&FromHost::Forget { job: held.job });
    }
}

#[test]
fn a_job_that_comes_early_waits_for_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file").display().to_string();
    let (first, second) = (shell(&format!("seq 1 1000; echo first > {path}")), job(&["cat", &path]));
    let (mut one, mut two) = (Held::new(first.id), Held::new(second.id));
    let host = Host::start();
    let mut line = host.welcome();
    line.send(&FromHost::Start(first));
    line.send(&FromHost::Start(second));
    line.collect(&mut one);
    line.collect(&mut two);
    assert_eq!(two.stdout(), "first\n");
}

#[test]
fn a_job_can_be_cancelled_before_its_turn() {
    let host = Host::start();
    let (mut line, mut first) = started(&host, job(&["sleep", "1000"]));
    let second = job(&["true"]);
    let mut held = Held::new(second.id);
    line.send(&FromHost::Start(second));
    line.send(&FromHost::Cancel { job: held.job });
    line.collect(&mut held);
    assert_eq!((held.started, held.end), (false, Some(JobEnd::Cancelled)));
    line.send(&FromHost::Cancel { job: first.job });
    line.collect(&mut first);
}

#[test]
fn a_repeated_start_does_not_run_the_job_twice() {
    let host = Host::start();
    let directory = tempfile::tempdir().unwrap();
    let spec = shell(&format!("echo ran >> {}/file; read line", directory.path().display()));
    let (mut line, mut held) = started(&host, spec.clone());
    line.send(&FromHost::Start(spec.clone()));
    line.collect(&mut held);
    drop(line);
    let mut line = host.resume(&[&held]);
    line.send(&FromHost::Start(spec));
    held.end = None;
    line.collect(&mut held);
    assert_eq!(std::fs::read_to_string(directory.path().join("file")).unwrap(), "ran\n");
}

#[test]
fn the_end_is_repeated_on_each_connection_until_the_host_says_forget() {
    let host = Host::start();
    let mut held = host.run(shell("echo done; exit 9"));
    for _ in 0..3 {
        held.end = None;
        let mut line = host.resume(&[&held]);
        assert_eq!(line.jobs.len(), 1);
        line.collect(&mut held);
        assert_eq!(held.exit_code(), 9);
    }
    let mut line = host.resume(&[&held]);
    line.send(&FromHost::Forget { job: held.job });
    line.run(job(&["true"]));
    drop(line);
    assert!(host.pick_up().jobs.iter().all(|known| known.job != held.job));
}

#[test]
fn a_running_job_is_not_forgotten() {
    let host = Host::start();
    let (mut line, mut held) = started(&host, job(&["sleep", "1000"]));
    line.send(&FromHost::Forget { job: held.job });
    line.send(&FromHost::Cancel { job: held.job });
    line.collect(&mut held);
    assert_eq!(held.end, Some(JobEnd::Cancelled));
}

#[test]
fn a_job_runs_on_while_the_host_is_away() {
    let mut host = Host::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let (line, mut held) = started(&host, shell(&format!("seq 1 1000; echo done > {}", path.display())));
    host.go_away();
    drop(line);
    wait_until("the job has ended", || path.exists());
    host.come_back();
    let mut line = host.resume(&[&held]);
    line.collect(&mut held);
    assert_eq!(held.stdout, numbers(1000));
}

#[test]
fn never_more_than_the_limit_is_sent_without_an_acknowledgement() {
    let host = Host::start();
    let (mut line, mut held) = started(&host, job(&["head", "-c", "5000000", "/dev/zero"]));
    let mut acknowledged = 0;
    while held.end.is_none() {
        let message = line.next();
        held.take(message);
        let unacknowledged = held.stdout.len() - acknowledged;
        assert!(unacknowledged <= UNACKNOWLEDGED_LIMIT);
        if unacknowledged == UNACKNOWLEDGED_LIMIT {
            acknowledged += 300_000;
            let offset = acknowledged as u64;
            line.send(&FromHost::Acknowledge { job: held.job, stream: Stream::Stdout, offset });
        }
        if held.stdout.len() == 5_000_000 {
            line.acknowledge(&held);
        }
    }
    assert_eq!(held.stdout.len(), 5_000_000);
}

#[test]
fn a_flood_of_one_stream_does_not_hold_up_the_other() {
    let host = Host::start();
    let (mut line, mut held) = started(&host, shell("yes & sleep 1000 & echo heard >&2; wait"));
    while held.stderr.is_empty() {
        let message = line.next();
        held.take(message);
    }
    line.send(&FromHost::Cancel { job: held.job });
    line.acknowledge(&held);
    line.collect(&mut held);
}

/// Reads on until the line is to break; the host keeps only what it had time to make durable.
fn listen_until_the_line_breaks(mut line: Line, held: &mut Held, random: &mut StdRng) {
    let messages = random.random_range(0..60);
    for _ in 0..messages {
        match line.try_next() {
            Ok(message) => held.take(message),
            Err(error) => panic!("the runner hung up: {error:?}"),
        }
        if random.random_bool(0.5) {
            line.acknowledge(held);
        }
        if held.end.is_some() {
            return;
        }
    }
    let _ =
        line.stream.shutdown([Shutdown::Both, Shutdown::Read, Shutdown::Write][random.random_range(0..3)]);
}

#[test]
fn a_connection_that_breaks_at_any_moment_loses_and_doubles_nothing() {
    for seed in 0..8 {
        let mut random = StdRng::seed_from_u64(seed);
        let host = Host::start();
        let (line, mut held) = started(&host, shell(FLOOD));
        listen_until_the_line_breaks(line, &mut held, &mut random);
        while held.end.is_none() {
            let line = host.resume(&[&held]);
            listen_until_the_line_breaks(line, &mut held, &mut random);
        }
        assert_flooded(&held);
    }
}

#[test]
fn a_host_that_lost_what_it_had_not_acknowledged_gets_it_again() {
    let host = Host::start();
    let (mut line, mut held) = started(&host, shell(FLOOD));
    while held.stdout.len() < UNACKNOWLEDGED_LIMIT / 2 {
        let message = line.next();
        held.take(message);
    }
    drop(line);
    let mut held = Held::new(held.job);
    host.resume(&[&held]).collect(&mut held);
    assert_flooded(&held);
}

#[test]
fn what_the_host_no_longer_needs_is_not_named_as_being_held() {
    let host = Host::start();
    let held = host.run(shell("echo 12345; echo 123 >&2"));
    let mut line = host.resume(&[&held]);
    line.run(job(&["true"]));
    drop(line);
    let line = host.pick_up();
    let known = line.jobs.iter().find(|known| known.job == held.job).unwrap();
    assert_eq!((known.stdout_from, known.stderr_from), (6, 4));
}

#[test]
fn bytes_that_are_no_message_end_the_connection_and_nothing_else() {
    let host = Host::start();
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..40 {
        let mut line = host.welcome();
        let length = random.random_range(1..200_u32);
        let mut garbage: Vec<u8> = (0..length).map(|_| random.random()).collect();
        if random.random_bool(0.5) {
            garbage.splice(0..0, length.to_le_bytes());
        }
        let _ = line.stream.write_all(&garbage);
        let _ = line.stream.shutdown(Shutdown::Write);
        line.expect_hang_up();
    }
    assert_eq!(host.run(job(&["true"])).exit_code(), 0);
}

#[test]
fn a_frame_beyond_the_limit_ends_the_connection() {
    let host = Host::start();
    let mut line = host.welcome();
    line.stream.write_all(&u32::MAX.to_le_bytes()).unwrap();
    line.expect_hang_up();
    host.welcome();
}

#[test]
fn orders_before_the_welcome_end_the_connection() {
    let host = Host::start();
    let mut line = host.pick_up();
    line.send(&FromHost::Start(job(&["true"])));
    line.expect_hang_up();
    assert!(host.pick_up().jobs.is_empty());
}

#[test]
fn a_host_that_claims_to_hold_more_than_there_is_is_not_believed() {
    let host = Host::start();
    let (mut line, mut held) = started(&host, shell("echo short; read line"));
    line.send(&FromHost::Acknowledge { job: held.job, stream: Stream::Stdout, offset: 1 << 40 });
    line.expect_hang_up();
    host.resume(&[&held]).collect(&mut held);
    assert_eq!(held.stdout(), "short\n");
}

#[test]
fn a_refused_runner_dials_again_with_each_version_before_and_then_with_its_own() {
    let host = Host::start();
    let all = (OLDEST_VERSION..=PROTOCOL_VERSION).rev();
    for version in all.clone().chain(all) {
        let mut line = host.pick_up();
        assert_eq!(line.version, version);
        line.send(&FromHost::Refused { reason: "not this boot".into() });
        line.expect_hang_up();
    }
    assert_eq!(host.run(job(&["true"])).exit_code(), 0);
}

#[test]
fn orders_about_unknown_jobs_are_no_trouble() {
    let host = Host::start();
    let mut line = host.welcome();
    let unknown = JobId([9; 16]);
    line.send(&FromHost::Cancel { job: unknown });
    line.send(&FromHost::Forget { job: unknown });
    line.send(&FromHost::Acknowledge { job: unknown, stream: Stream::Stdout, offset: 5 });
    assert_eq!(line.run(job(&["true"])).exit_code(), 0);
}

#[test]
fn too_many_uncollected_jobs_are_refused() {
    let host = Host::start();
    let mut line = host.welcome();
    let refused = (0..100).map(|_| line.run(job(&["true"]))).find(|held| !held.started).unwrap();
    match refused.end {
        Some(JobEnd::NotStarted { reason }) => assert!(reason.contains("waiting for the host")),
        other => panic!("{other:?} instead of a reason"),
    }
}
