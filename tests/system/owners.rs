//! The owner's own partitions and work: they count, they are never offered, and their failures hurt no borrower
//! [0005, 0018, 0039].

use std::{thread, time::Instant};

use sublet::{
    api::{
        agent::{
            BorrowPartition, CarvePartition, GuestEnd, GuestState, IssueKey, JobEnd, JobState,
            PartitionState, RunJob,
        },
        problem::Code,
    },
    client::AgentClient,
    domain::{id::PartitionId, partition::Kind},
};
use uuid::Uuid;

use crate::hangs::image_that_hangs;
use crate::world::{AN_HOUR, PATIENCE, SMALL, shell, world};

/// Processes that start two others each, in a group that bounds them, until there are as many as may be.
const BOMB: &str = r#"
    group=/sys/fs/cgroup/bomb
    mkdir $group
    echo 300 >$group/pids.max
    sh -c "echo \$\$ >$group/cgroup.procs; f() { f | f & }; f" >/dev/null 2>&1 || true
    until grep -q 'max [1-9]' $group/pids.events; do usleep 10000; done
    echo 1 >$group/cgroup.kill
    until rmdir $group 2>/dev/null; do usleep 10000; done
"#;

/// A partition of the owner's that is in use; it is given back at the end of its test.
struct Own {
    id: PartitionId,
    agent: AgentClient,
}

impl Own {
    fn open() -> Self {
        let world = world();
        world.wait(async {
            let owner = world.owner();
            let wanted = CarvePartition { kind: Kind::Owners, ..CarvePartition::of(SMALL) };
            let id = owner.carve(&wanted).await.unwrap().id;
            let issued = owner.issue_key(id, &IssueKey { duration_seconds: 3600 }).await.unwrap();
            let agent = world.agent_with(&issued.key);
            let exchange = BorrowPartition { host: issued.host, allocation_digest: issued.allocation_digest };
            agent.borrow(id, &exchange).await.unwrap();
            Self { id, agent }
        })
    }

    fn start(&self, job: RunJob) {
        world().wait(self.agent.run(self.id, Uuid::now_v7(), &job)).unwrap();
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let world = world();
        let _ = world.wait(self.agent.give_back(self.id));
        if !thread::panicking() {
            world.wait_for_partition(self.id, |view| view.state == PartitionState::Carved);
        }
        let released = world.wait(world.owner().release(self.id));
        assert!(released.is_ok() || thread::panicking(), "{released:?}");
    }
}

#[test]
fn an_owners_partition_runs_the_owners_work_counts_and_is_never_offered() {
    let world = world();
    let before = world.wait(world.owner().host()).unwrap();
    let own = Own::open();
    let during = world.wait(world.owner().host()).unwrap();
    assert_eq!(during.free.cpus, before.free.cpus - SMALL.cpus);
    assert_eq!(during.owner_has.cpus, before.owner_has.cpus - SMALL.cpus, "the reserve's row is rewritten");
    assert_eq!(during.owner_has.disk_mib, before.owner_has.disk_mib - SMALL.disk_mib);
    assert_eq!(world.wait(world.owner().offer(own.id)).unwrap_err().code(), Some(Code::PartitionNotOffered));
    own.start(shell("debian-micro", "true"));
    world.wait_for_partition(own.id, |view| matches!(view.guest, GuestState::Running { .. }));
    drop(own);
    assert_eq!(world.wait(world.owner().host()).unwrap().owner_has, before.owner_has);
}

#[test]
fn a_declared_partition_takes_from_the_reserve_when_it_is_borrowed_and_not_before() {
    let world = world();
    let before = world.wait(world.owner().host()).unwrap();
    let id = world.wait(async {
        let owner = world.owner();
        let wanted = CarvePartition { kind: Kind::Declared, ..CarvePartition::of(SMALL) };
        let id = owner.carve(&wanted).await.unwrap().id;
        owner.offer(id).await.unwrap();
        id
    });
    let offered = world.wait(world.owner().host()).unwrap();
    assert_eq!(offered.owner_has, before.owner_has, "nothing is built");
    assert_eq!(offered.free.cpus, before.free.cpus - SMALL.cpus, "but it is promised to nobody else");
    let loan = world.borrow(id, AN_HOUR);
    let lent = world.wait(world.owner().host()).unwrap().owner_has;
    assert_eq!(lent.cpus, before.owner_has.cpus - SMALL.cpus);
    assert_eq!(loan.shell("echo built").success(), "built\n");
    loan.end();
    world.wait_for_partition(id, |view| view.state == PartitionState::Offered);
    assert_eq!(world.wait(world.owner().host()).unwrap().owner_has, before.owner_has);
    let disk = format!("ls /var/lib/sublet/partitions/{id}");
    assert_eq!(world.on_host(&disk), "", "its disk is gone with the lease");
    world.wait(async {
        world.owner().withdraw(id).await.unwrap();
        world.owner().release(id).await.unwrap();
    });
}

#[test]
fn what_fails_at_the_owners_leaves_a_lent_job_running() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    let job = world.wait(async {
        let job = loan.submit(shell("debian-micro", "echo begun; tail -f /dev/null")).await.unwrap();
        loan.wait_for_output(job.id, "begun").await;
        job.id
    });
    let own = Own::open();
    let failures = [
        ("echo c >/proc/sysrq-trigger", "its kernel panics"),
        ("tail /dev/zero", "it wants more memory than it has"),
    ];
    for (script, failure) in failures {
        own.start(shell("debian-micro", script));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let jobs = world.wait(own.agent.jobs(own.id)).unwrap().jobs;
            if jobs.iter().all(|job| matches!(job.state, JobState::Ended { .. })) {
                break;
            }
            assert!(Instant::now() < deadline, "{failure}, and the job does not end");
        }
        let view = world.wait(world.owner().partition(own.id)).unwrap();
        if let GuestState::Off { how } = view.guest {
            assert_eq!(how, GuestEnd::Panicked, "{failure}");
        }
    }
    let _images = image_that_hangs(world);
    if let GuestState::Running { .. } = world.wait(world.owner().partition(own.id)).unwrap().guest {
        world.wait(own.agent.stop(own.id)).unwrap();
    }
    own.start(shell("hangs", "true"));
    world.wait_for_partition(own.id, |view| view.guest_hung.is_some());
    // And while it hangs, in the reserve: as many processes as there may be, as much memory as there is, and no agent.
    world.on_host(BOMB);
    world.on_host("(echo 1000 >/proc/self/oom_score_adj; tail /dev/zero) || true; agent kill; agent start");
    world.lab_host.wait_for_agent().unwrap();
    drop(own);
    let ended = world.wait(async {
        loan.agent.cancel(loan.partition(), job).await.unwrap();
        loan.follow(job).await
    });
    assert_eq!(ended.end(), &JobEnd::Cancelled, "it ran all the time");
    assert_eq!(ended.stdout(), "begun\n");
    loan.end();
}
