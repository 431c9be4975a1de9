//! Jobs in a guest: their output, their ends.

use sublet::api::agent::{JobEnd, RunJob};

use crate::world::{AN_HOUR, SMALL, shell, world};

#[test]
fn jobs_run_one_after_another_and_each_end_is_told_as_it_was() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);

    let apart = loan.shell("echo out; echo err >&2; exit 7");
    assert_eq!((apart.stdout(), apart.stderr()), ("out\n".to_owned(), "err\n".to_owned()));
    assert_eq!(apart.end(), &JobEnd::Exited { code: 7 });

    assert_eq!(loan.shell("kill -SEGV $$").end(), &JobEnd::Signaled { signal: 11 });

    let unknown = loan.run(RunJob { argv: vec!["no-such-program".to_owned()], ..shell("debian-micro", "") });
    assert!(
        matches!(unknown.end(), JobEnd::NotStarted { reason } if reason.contains("no-such-program")),
        "{unknown:?}"
    );

    let limited = RunJob { time_limit_ms: Some(500), ..shell("debian-micro", "tail -f /dev/null") };
    assert_eq!(loan.run(limited).end(), &JobEnd::TimedOut);

    let told = RunJob {
        env: [("COLOUR".to_owned(), "blue".to_owned())].into(),
        working_directory: Some("/tmp".to_owned()),
        stdin_base64: Some("aGVsbG8=".to_owned()),
        ..shell("debian-micro", "pwd; echo $COLOUR; cat")
    };
    assert_eq!(loan.run(told).success(), "/tmp\nblue\nhello");
    loan.end();
}

#[test]
fn a_job_that_wants_more_memory_than_there_is_ends_out_of_memory_and_the_next_one_runs() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    assert_eq!(loan.shell("tail /dev/zero").end(), &JobEnd::OutOfMemory);
    // A descendant takes the whole job with it.
    let descendant = loan.shell("echo begun; sh -c 'tail /dev/zero; true'; echo survived");
    assert_eq!((descendant.stdout().as_str(), descendant.end()), ("begun\n", &JobEnd::OutOfMemory));
    // The guest's file systems are memory as well, and bounded.
    let filled = loan.shell("cat /dev/zero > /tmp/all");
    assert!(filled.stderr().contains("No space left"), "{filled:?}");
    assert_eq!(loan.shell("rm /tmp/all; echo alive").success(), "alive\n");
    loan.end();
}

#[test]
fn nothing_that_a_job_started_outlives_it_or_its_runner() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    let daemons = "setsid sh -c 'setsid sleep 1000 & exec sleep 1000' & echo begun; wait";
    let cancelled = world.wait(async {
        let job = loan.submit(shell("debian-micro", daemons)).await.unwrap();
        loan.wait_for_output(job.id, "begun").await;
        loan.agent.cancel(loan.partition(), job.id).await.unwrap();
        loan.follow(job.id).await
    });
    assert_eq!(cancelled.end(), &JobEnd::Cancelled);
    assert_eq!(loan.shell("! pgrep sleep").success(), "");

    let runner = loan.shell("setsid sleep 1000 & echo begun; killall -9 sublet-guest; wait");
    assert!(matches!(runner.end(), JobEnd::GuestFailed { .. }), "{runner:?}");
    assert_eq!(loan.shell("! pgrep sleep").success(), "");
    loan.end();
}

#[test]
fn output_of_many_megabytes_arrives_byte_for_byte() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    let finished = loan.shell("head -c 8388608 /dev/urandom | tee /tmp/all; md5sum < /tmp/all >&2");
    let told = finished.stderr().split_whitespace().next().unwrap().to_owned();
    assert_eq!(finished.end(), &JobEnd::Exited { code: 0 });
    assert_eq!(finished.stdout.len(), 8 << 20);
    assert_eq!(md5(&finished.stdout), told);
    loan.end();
}

/// As `md5sum` says it.
fn md5(bytes: &[u8]) -> String {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };
    let mut child = Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}
