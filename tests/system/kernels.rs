//! Different OSes at once (patent V3, claim 5), each in what was set aside for it.

use sublet::{
    api::agent::{JobEnd, JobState, JobView},
    domain::resources::Allocation,
};

use crate::{
    loan::Loan,
    world::{AN_HOUR, shell, world},
};

const LOOK: &str =
    "uname -r; nproc; awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo; blockdev --getsize64 /dev/vda";

/// What a guest says about its machine.
#[derive(Debug)]
struct Seen {
    kernel: String,
    cpus: u32,
    memory_mib: u64,
    disk_bytes: u64,
}

fn seen(text: &str) -> Seen {
    let lines: Vec<&str> = text.lines().collect();
    Seen {
        kernel: lines[0].to_owned(),
        cpus: lines[1].parse().unwrap(),
        memory_mib: lines[2].parse().unwrap(),
        disk_bytes: lines[3].parse().unwrap(),
    }
}

/// Starts a job that looks around and stays, and waits until it has looked.
fn started(loan: &Loan) -> JobView {
    let script = format!("{LOOK}; echo ready; tail -f /dev/null");
    let job = world().wait(loan.submit(shell("debian-micro", &script))).unwrap();
    world().wait(loan.wait_for_output(job.id, "ready"));
    job
}

#[test]
fn two_partitions_run_different_kernels_at_once_and_each_sees_only_its_own_cpus_and_memory() {
    let world = world();
    let new = Allocation { cpus: 2, memory_mib: 384, disk_mib: 32 };
    let old = Allocation { cpus: 1, memory_mib: 256, disk_mib: 16 };
    let (new_offer, old_offer) = (world.offer(new), world.offer(old));
    let new_loan = world.borrow(new_offer.id, AN_HOUR);
    let old_loan = world.borrow(old_offer.id, AN_HOUR);

    // One runs on while the other is asked, so both are there at the same time.
    let waiting = started(&new_loan);
    let in_old = seen(&old_loan.run(shell("debian-micro-6.1", LOOK)).success());
    let still = world.wait(new_loan.agent.job(new_loan.partition(), waiting.id)).unwrap();
    assert_eq!(still.state, JobState::Running);
    world.wait(new_loan.agent.cancel(new_loan.partition(), waiting.id)).unwrap();
    let finished = world.wait(new_loan.follow(waiting.id));
    assert_eq!(finished.end(), &JobEnd::Cancelled);
    let in_new = seen(&finished.stdout());

    assert!(in_new.kernel.starts_with("6.12."), "{in_new:?}");
    assert!(in_old.kernel.starts_with("6.1."), "{in_old:?}");
    for (guest, allocation) in [(in_new, new), (in_old, old)] {
        assert_eq!(guest.cpus, allocation.cpus, "{guest:?}");
        assert_eq!(guest.disk_bytes, allocation.disk_mib << 20, "{guest:?}");
        // The kernel keeps some of it for itself.
        let kept = allocation.memory_mib - guest.memory_mib;
        assert!(guest.memory_mib <= allocation.memory_mib && kept < 96, "{guest:?}");
    }
    new_loan.end();
    old_loan.end();
}
