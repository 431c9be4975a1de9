//! What survives: the agent's death, the guest's, the host's.

use sublet::api::agent::{GuestState, JobEnd, PartitionState};
use sublet_lab::AgentAction;

use crate::world::{AN_HOUR, PATIENCE, SMALL, shell, world};

#[test]
fn a_job_outlives_its_agent_and_its_output_and_exit_code_still_arrive() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    let script =
        "echo begun; i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line $i; usleep 20000; done; exit 3";
    let job = world.wait(async {
        let job = loan.submit(shell("debian-micro", script)).await.unwrap();
        loan.wait_for_output(job.id, "line 5\n").await;
        job
    });
    world.lab_host.agent(AgentAction::Kill).unwrap();
    world.lab_host.agent(AgentAction::Start).unwrap();
    world.lab_host.wait_for_agent().unwrap();

    let finished = world.wait(loan.follow(job.id));
    assert_eq!(finished.end(), &JobEnd::Exited { code: 3 });
    let expected: String = (1..=400).map(|line| format!("line {line}\n")).collect();
    assert_eq!(finished.stdout(), format!("begun\n{expected}"));
    assert_eq!(loan.shell("echo again").success(), "again\n");
    loan.end();
}

#[test]
fn a_job_that_kills_its_guests_kernel_ends_as_guest_panicked_and_the_partition_can_be_used_again() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    assert_eq!(loan.shell("echo c > /proc/sysrq-trigger").end(), &JobEnd::GuestPanicked);
    assert_eq!(loan.shell("echo alive").success(), "alive\n");
    assert_eq!(loan.shell("poweroff -f").end(), &JobEnd::GuestPoweredOff);
    assert_eq!(loan.shell("reboot -f").end(), &JobEnd::GuestRebooted);
    assert_eq!(loan.shell("echo alive").success(), "alive\n");
    loan.end();
}

#[test]
fn a_job_whose_host_lost_power_is_told_as_lost_and_never_run_again() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    let job = world.wait(async {
        let script = "echo mine >/dev/vda; sync; echo begun; tail -f /dev/null";
        let job = loan.submit(shell("debian-micro", script)).await.unwrap();
        loan.wait_for_output(job.id, "begun").await;
        job
    });
    world.lab_host.kill().unwrap();
    world.lab_host.start(&world.system).unwrap();

    let finished = world.wait(loan.follow(job.id));
    assert_eq!(finished.end(), &JobEnd::HostLost);
    assert_eq!(finished.stdout(), "begun\n");
    // The disk's key was in the host's memory alone.
    assert_eq!(loan.shell("tr -d '\\000' < /dev/vda | wc -c").success().trim(), "0");
    loan.end();
}

#[test]
fn a_lease_ends_in_time_though_the_agent_is_dead() {
    let world = world();
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, std::time::Duration::from_secs(30));
    world.wait(async {
        let job = loan.submit(shell("debian-micro", "echo begun; tail -f /dev/null")).await.unwrap();
        loan.wait_for_output(job.id, "begun").await;
    });
    world.lab_host.agent(AgentAction::Kill).unwrap();
    // The VMM keeps its process until it is asked how the guest ended, but no vCPU thread runs any more.
    let wait = "until [ -z \"$(cat /proc/[0-9]*/task/*/comm 2>/dev/null | grep vcpu)\" ]; do usleep 200000; done; date +%s";
    let patience = PATIENCE.as_secs().to_string();
    let off_at = world.lab_host.exec(["timeout", &patience, "sh", "-c", wait]).unwrap();
    let off_at: i64 = String::from_utf8(off_at.stdout).unwrap().trim().parse().unwrap();
    let late = off_at - loan.granted.lease.expires_at.as_second();
    assert!((-2..=5).contains(&late), "the guest ended {late} s after its lease");

    world.lab_host.agent(AgentAction::Start).unwrap();
    let free = world.wait_for_partition(offer.id, |view| view.state == PartitionState::Offered);
    assert_eq!(free.lease, None);
    assert_eq!(free.guest, GuestState::Prepared);
}
