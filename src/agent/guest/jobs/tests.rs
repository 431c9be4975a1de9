use std::{collections::BTreeMap, sync::Arc};

use super::*;

const LEASE: LeaseId = LeaseId(Uuid::from_u128(7));
const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// The jobs of a partition that stands in a table of its own.
async fn jobs() -> (tempfile::TempDir, Jobs) {
    let directory = tempfile::tempdir().unwrap();
    let table = Table::open(&directory.path().join("agent.db")).unwrap();
    let row = crate::agent::partition::table::tests::row(1);
    let partition = row.id;
    table.insert(row, None).await.unwrap();
    let jobs = Jobs::new(partition, table, directory.path(), Arc::default());
    (directory, jobs)
}

fn job(program: &str) -> NewJob {
    let spec = JobSpec {
        id: sublet_guest_protocol::JobId([0; 16]),
        argv: vec![program.to_owned()],
        env: BTreeMap::new(),
        working_directory: None,
        stdin: vec![0, 255],
        time_limit_ms: None,
    };
    NewJob { lease: LEASE, image: "debian-micro".to_owned(), spec, mark: None }
}

fn exited(code: u8) -> Ending {
    Ending { end: JobEnd::Exited { code }, dropped: (0, 3) }
}

async fn stage(jobs: &Jobs, id: JobId) -> Stage {
    jobs.get(id).await.unwrap().unwrap().stage
}

#[tokio::test]
async fn jobs_are_sent_one_after_another_in_the_order_they_came() {
    let (_directory, jobs) = jobs().await;
    let (a, b) = (jobs.submit(job("a"), NOW).await.unwrap(), jobs.submit(job("b"), NOW).await.unwrap());
    assert_eq!(jobs.next().await.unwrap().unwrap().id, a);
    assert_eq!(jobs.next().await.unwrap().unwrap().id, a, "the same until it has ended");
    jobs.started(a).await.unwrap();
    assert_eq!((stage(&jobs, a).await, stage(&jobs, b).await), (Stage::Running, Stage::Queued));
    jobs.end(a, exited(0), NOW).await.unwrap();
    let next = jobs.next().await.unwrap().unwrap();
    assert_eq!((next.id, next.argv), (b, vec!["b".to_owned()]));
    let spec = jobs.spec(b).await.unwrap().unwrap();
    assert_eq!((spec.id.0, spec.stdin), (b.0.into_bytes(), vec![0, 255]));
    assert_eq!(jobs.spec(a).await.unwrap(), None, "what a job was given is not kept longer than the job");
}

#[tokio::test]
async fn a_job_ends_once() {
    let (_directory, jobs) = jobs().await;
    let id = jobs.submit(job("a"), NOW).await.unwrap();
    jobs.end(id, exited(3), NOW).await.unwrap();
    jobs.end(id, exited(4), NOW).await.unwrap();
    jobs.end_all(JobEnd::HostLost, NOW).await.unwrap();
    jobs.started(id).await.unwrap();
    let view = jobs.view(jobs.get(id).await.unwrap().unwrap());
    assert_eq!(view.state, JobState::Ended { end: JobEnd::Exited { code: 3 } });
    assert_eq!((view.stdout_dropped_bytes, view.stderr_dropped_bytes), (0, 3));
}

#[tokio::test]
async fn the_same_request_makes_one_job_and_another_one_none() {
    let (_directory, jobs) = jobs().await;
    let mark = RequestMark { key: "k".to_owned(), digest: [1; 32] };
    let marked = |digest| NewJob { mark: Some(RequestMark { digest, ..mark.clone() }), ..job("a") };
    let id = jobs.submit(marked([1; 32]), NOW).await.unwrap();
    assert_eq!(jobs.submit(marked([1; 32]), NOW).await.unwrap(), id);
    assert!(matches!(jobs.submit(marked([2; 32]), NOW).await, Err(SubmitError::KeyReused)));
    assert_eq!(jobs.made_by(LEASE, mark).await.unwrap(), Earlier::Same(id));
    assert_eq!(jobs.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_and_a_sent_one_by_its_guest() {
    let (_directory, jobs) = jobs().await;
    let (a, b) = (jobs.submit(job("a"), NOW).await.unwrap(), jobs.submit(job("b"), NOW).await.unwrap());
    jobs.next().await.unwrap();
    jobs.cancel(a, NOW).await.unwrap();
    jobs.cancel(b, NOW).await.unwrap();
    assert!(jobs.next().await.unwrap().unwrap().cancel_requested);
    assert_eq!(stage(&jobs, b).await, Stage::Ended(JobEnd::Cancelled));
}

#[tokio::test]
async fn a_lease_has_only_so_many_jobs_waiting() {
    let (_directory, jobs) = jobs().await;
    for _ in 0..WAITING_MAX {
        jobs.submit(job("a"), NOW).await.unwrap();
    }
    assert!(matches!(jobs.submit(job("a"), NOW).await, Err(SubmitError::TooManyWaiting)));
}

#[tokio::test]
async fn jobs_that_wait_take_up_only_so_much() {
    let (_directory, jobs) = jobs().await;
    let mut large = job("a");
    large.spec.stdin = vec![7; 1 << 20];
    let mut taken = 0;
    while jobs.submit(large.clone(), NOW).await.is_ok() {
        taken += 1;
    }
    assert_eq!(taken, (WAITING_MAX_BYTES >> 20) - 1, "each is a little more than its standard input");
    jobs.end_all(JobEnd::GuestStopped, NOW).await.unwrap();
    assert!(jobs.submit(large, NOW).await.is_ok());
}

#[tokio::test]
async fn nothing_of_a_job_is_left_after_the_wipe() {
    let (directory, jobs) = jobs().await;
    let id = jobs.submit(job("a"), NOW).await.unwrap();
    let mut output = output::JobOutput::open(jobs.output_directory(), id).unwrap();
    output.stream(Stream::Stdout).append(0, b"secret").unwrap();
    assert_eq!(jobs.view(jobs.get(id).await.unwrap().unwrap()).stdout_bytes, 6);
    jobs.wipe().await.unwrap();
    jobs.wipe().await.unwrap();
    assert_eq!(jobs.list().await.unwrap(), []);
    assert!(!directory.path().join("jobs").exists());
}

#[tokio::test]
async fn whoever_waits_for_jobs_hears_of_each() {
    let (_directory, jobs) = jobs().await;
    let mut seen = jobs.signals().watch();
    jobs.submit(job("a"), NOW).await.unwrap();
    seen.changed().await.unwrap();
    jobs.signals().work().await;
}
