//! Guests that lack vsock.

use sublet_lab::AgentAction;

use crate::{
    images::Images,
    world::{AN_HOUR, SMALL, shell, world},
};

/// Keeps the guest's kernel from serving vsock.
const IMAGE: &str = r#"
mkdir -p /tmp/no-vsock
cat >/tmp/no-vsock/first <<'INIT'
#!/bin/sh
export PATH=/bin
sed -i 's/vmw_vsock_virtio_transport[a-z_]*//g' /etc/modules
exec /init
INIT
chmod 755 /tmp/no-vsock/first
copy no-vsock /first
cd /tmp/no-vsock
echo first | cpio -o -H newc | add no-vsock
"#;

#[test]
fn a_guest_that_lacks_vsock_runs_its_jobs_through_its_named_port_and_its_next_agent_hears_it_there() {
    let world = world();
    let _images = Images::add(world, IMAGE);
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    let script = "ls /sys/bus/virtio/drivers | grep -c vsock; seq 100000 | md5sum; exit 3";
    let finished = loan.run(shell("no-vsock", script));
    assert_eq!(finished.stdout(), "0\ndea9193b768319cbb4ff1a137ac03113  -\n");

    let job = world.wait(async {
        let job = loan.submit(shell("no-vsock", "echo begun; sleep 5; echo ended")).await.unwrap();
        loan.wait_for_output(job.id, "begun").await;
        job.id
    });
    world.lab_host.agent(AgentAction::Kill).unwrap();
    world.lab_host.agent(AgentAction::Start).unwrap();
    assert_eq!(world.wait(loan.follow(job)).stdout(), "begun\nended\n");
    loan.end();
}
