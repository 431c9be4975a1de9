//! A lender host whose service manager is systemd: partitions live in a group that is delegated to the agent, and
//! neither systemd nor a restart of the agent disturbs them. The units are those of `examples/systemd`.

use std::time::Instant;

use sublet::{
    api::agent::{BorrowPartition, CarvePartition, IssueKey, JobEnd, JobState, PartitionState},
    client::AgentClient,
    domain::secret::Secret,
};
use sublet_lab::Host;
use uuid::Uuid;

use crate::world::{PATIENCE, SMALL, shell, world};

const PLACE: &str = "/sys/fs/cgroup/sublet-partitions.service";

fn on(host: &Host, script: &str) -> String {
    let output = host.exec(["sh", "-ec", script]).unwrap();
    assert!(output.outcome.is_success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn what_is_set_aside_below_systemd_stays_so_until_it_is_released() {
    let world = world();
    let host = world.host_with_systemd("systemd-1");
    let host = &host.0;
    let owner = AgentClient::new(&host.address(), Some(Secret::new(host.owner_token().unwrap()))).unwrap();
    assert!(
        on(host, "systemctl is-active sublet-agent sublet-partitions").lines().all(|state| state == "active")
    );
    let everybodys = "cat /sys/fs/cgroup/cpuset.cpus.effective /sys/fs/cgroup/system.slice/cpuset.cpus.effective \
                      /proc/irq/default_smp_affinity";
    let before = on(host, everybodys);

    let carved = world.wait(owner.carve(&CarvePartition::of(SMALL))).unwrap();
    let offered = world.wait(owner.offer(carved.id)).unwrap();
    assert_eq!(offered.state, PartitionState::Offered);
    let vcpus = format!("{PLACE}/{}/vcpus", carved.id);
    let kept = || on(host, &format!("cat {vcpus}/cpuset.cpus.partition {vcpus}/cpuset.cpus.effective"));
    assert_eq!(kept(), format!("isolated\n{}", carved.host_cpus[0]));
    assert_ne!(on(host, everybodys), before, "nobody else runs there");

    // systemd looks at its groups again, and its agent is another one.
    on(host, "systemctl daemon-reload; systemctl restart sublet-agent");
    host.wait_for_agent().unwrap();
    assert_eq!(kept(), format!("isolated\n{}", carved.host_cpus[0]));

    let job = world.wait(async {
        let issued = owner.issue_key(carved.id, &IssueKey { duration_seconds: 3600 }).await.unwrap();
        let borrower = AgentClient::new(&host.address(), Some(issued.key)).unwrap();
        let exchange = BorrowPartition { host: issued.host, allocation_digest: issued.allocation_digest };
        borrower.borrow(carved.id, &exchange).await.unwrap();
        let job = borrower.run(carved.id, Uuid::now_v7(), &shell("debian-micro", "true")).await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        let end = loop {
            match borrower.job(carved.id, job.id).await.unwrap().state {
                JobState::Ended { end } => break end,
                other => assert!(Instant::now() < deadline, "the job is still {other:?}"),
            }
        };
        borrower.give_back(carved.id).await.unwrap();
        while owner.partition(carved.id).await.unwrap().state != PartitionState::Offered {
            assert!(Instant::now() < deadline, "the partition is not clean");
        }
        end
    });
    assert_eq!(job, JobEnd::Exited { code: 0 });

    world.wait(async {
        owner.withdraw(carved.id).await.unwrap();
        owner.release(carved.id).await.unwrap();
    });
    assert_eq!(on(host, everybodys), before);
    assert_eq!(
        on(host, &format!("find {PLACE} -mindepth 1 -type d")),
        format!("{PLACE}/keeper\n{PLACE}/network")
    );
}
