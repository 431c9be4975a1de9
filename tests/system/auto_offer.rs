//! What the host can spare is offered by itself, and taken back when its owner needs it [0033].

use sublet::{
    api::{
        agent::{PartitionState, PartitionView},
        problem::Code,
    },
    domain::id::PartitionId,
};

use crate::world::world;

/// Puts the host's configuration back.
struct Configured;

impl Configured {
    fn with(least_available_mib: u64) -> Self {
        let world = world();
        world.on_host(&format!(
            "cp /etc/sublet/agent.toml /etc/sublet/agent.toml.before
             printf '[auto_offer]\\nshape = \"small\"\\ncpus = 1\\nmemory_mib = 256\\nspare_seconds = 1\\nat_most = 1\\n' \
             >>/etc/sublet/agent.toml
             echo 'least_available_mib = {least_available_mib}' >>/etc/sublet/agent.toml
             agent restart"
        ));
        world.lab_host.wait_for_agent().unwrap();
        Self
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        let world = world();
        world.on_host(
            "mv /etc/sublet/agent.toml.before /etc/sublet/agent.toml; rm -f /dev/shm/owners; agent restart",
        );
        world.lab_host.wait_for_agent().unwrap();
    }
}

fn of_the_shape() -> Option<PartitionView> {
    let world = world();
    let all = world.wait(world.owner().partitions()).unwrap().partitions;
    all.into_iter().find(|partition| partition.shape.as_deref() == Some("small"))
}

fn until_offered() -> PartitionId {
    let world = world();
    let found = world.patiently(of_the_shape);
    world.wait_for_partition(found.id, |view| view.state == PartitionState::Offered).id
}

#[test]
fn spare_memory_is_offered_by_itself_and_withdrawn_when_the_owner_needs_it() {
    let world = world();
    let available: u64 =
        world.on_host("awk '/MemAvailable/ {print int($2 / 1024)}' /proc/meminfo").trim().parse().unwrap();
    let configured = Configured::with(available - 600);
    let id = until_offered();
    world.wait(world.shown(&world.borrower, id));

    // The owner's work takes what it needs.
    world.on_host("dd if=/dev/zero of=/dev/shm/owners bs=1M count=400 2>/dev/null");
    world.patiently(|| {
        let gone = world.wait(world.owner().partition(id)).map_err(|error| error.code());
        (gone.err() == Some(Some(Code::NotFound))).then_some(())
    });
    world.on_host("rm /dev/shm/owners");
    let again = until_offered();
    assert_ne!(again, id);

    drop(configured);
    world.wait(async {
        world.owner().withdraw(again).await.unwrap();
        world.owner().release(again).await.unwrap();
    });
}
