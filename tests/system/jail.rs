//! The jail, as lender and borrowers see it: a VMM that reaches for its host is lost, its partition is not, and nobody
//! else notices.

use sublet::{api::agent::JobEnd, domain::id::PartitionId};

use crate::world::{AN_HOUR, SMALL, shell, world};

/// Runs in the lab host, and has a thread of another process make a system call.
const CALLER: &str = "/usr/lib/sublet/sublet-lab-host";

#[test]
fn a_vmm_made_to_reach_for_its_host_dies_with_its_own_guest_and_with_no_other() {
    let world = world();
    let (offer, neighbours_offer) = (world.offer(SMALL), world.offer(SMALL));
    let (loan, neighbour) = (world.borrow(offer.id, AN_HOUR), world.borrow(neighbours_offer.id, AN_HOUR));
    let neighbours_job = world.wait(async {
        let script = "echo kept > /tmp/kept; echo begun; tail -f /dev/null";
        let job = neighbour.submit(shell("debian-micro", script)).await.unwrap();
        neighbour.wait_for_output(job.id, "begun").await;
        job.id
    });

    for call in ["execve", "open", "socket"] {
        let job = world.wait(async {
            let job = loan.submit(shell("debian-micro", "echo begun; tail -f /dev/null")).await.unwrap();
            loan.wait_for_output(job.id, "begun").await;
            job.id
        });
        assert_eq!(made_to_call(offer.id, call), "killed by SIGSYS\n");
        let finished = world.wait(loan.follow(job));
        assert_eq!(finished.end(), &JobEnd::GuestFailed { reason: "its VMM ended".to_owned() }, "{call}");
    }
    assert_eq!(loan.shell("echo alive").success(), "alive\n");
    loan.end();

    let cancelled = world.wait(async {
        neighbour.agent.cancel(neighbour.partition(), neighbours_job).await.unwrap();
        neighbour.follow(neighbours_job).await
    });
    assert_eq!(cancelled.end(), &JobEnd::Cancelled);
    // The very guest of before.
    assert_eq!(neighbour.shell("cat /tmp/kept").success(), "kept\n");
    neighbour.end();
}

/// What comes of a system call that the VMM of a partition is made to make.
fn made_to_call(partition: PartitionId, call: &str) -> String {
    let script = format!("exec {CALLER} call $(cat /sys/fs/cgroup/sublet/{partition}/cgroup.procs) {call}");
    let output = world().lab_host.exec(["sh", "-c", &script]).unwrap();
    assert!(output.outcome.is_success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
