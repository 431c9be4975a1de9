//! What is set aside for a partition, as the host's kernel keeps it: from its offer on nobody else runs on its CPUs, and
//! when it is released all is as it was.

use sublet::{
    api::agent::{CarvePartition, PartitionState},
    domain::{id::PartitionId, resources::Allocation},
};
use sublet_vmm_protocol::config::layered_file_bytes;

use crate::world::{AN_HOUR, Offered, SMALL, world};

/// Where everybody may run, where interrupts go and where the kernel does its own work.
const SURROUNDINGS: &str = "cat /sys/fs/cgroup/cpuset.cpus.effective /proc/irq/default_smp_affinity \
                            /sys/devices/virtual/workqueue/cpumask; grep . /proc/irq/*/smp_affinity_list; \
                            grep Cpus_allowed_list /proc/self/status; find /sys/fs/cgroup/sublet -mindepth 1 -type d; \
                            ls /run/sublet-interrupts.json 2>/dev/null || true";

fn says(file: &str) -> String {
    world().on_host(&format!("cat /sys/fs/cgroup/{file}")).trim().to_owned()
}

/// Carves a partition that has a share of a CPU, and offers it.
fn offer_share(percent: u8) -> Offered {
    let world = world();
    let id = world.wait(async {
        let owner = world.owner();
        let wanted = CarvePartition { cpu_share_percent: Some(percent), ..CarvePartition::of(SMALL) };
        let carved = owner.carve(&wanted).await.unwrap();
        owner.offer(carved.id).await.unwrap().id
    });
    Offered { id }
}

/// The host CPUs of a partition.
fn cpus(id: PartitionId) -> Vec<u32> {
    world().wait_for_partition(id, |view| view.state == PartitionState::Offered).host_cpus
}

#[test]
fn a_partition_on_offer_has_its_cpus_memory_and_disk_to_itself_and_all_is_put_back_when_it_is_released() {
    let world = world();
    let before = world.on_host(SURROUNDINGS);
    let offer = world.offer(Allocation { disk_mib: 64, ..SMALL });
    let [cpu] = cpus(offer.id)[..] else { panic!("one CPU was asked for") };
    let group = format!("sublet/{}", offer.id);

    assert_eq!(says(&format!("{group}/vcpus/cpuset.cpus.partition")), "isolated");
    assert_eq!(says(&format!("{group}/vcpus/cpuset.cpus.effective")), cpu.to_string());
    assert_eq!(says(&format!("{group}/memory.swap.max")), "0");
    let threads = |of: &str| {
        let names = format!(
            "for thread in $(cat /sys/fs/cgroup/{of}/cgroup.threads); do cat /proc/$thread/comm; done"
        );
        world.on_host(&names)
    };
    assert_eq!(threads(&format!("{group}/vcpus")), "vcpu0\n");
    assert!(!threads(&group).contains("vcpu"), "the VMM's own threads are apart");
    let everybodys = world.on_host("cat /sys/fs/cgroup/cpuset.cpus.effective");
    assert!(!is_listed(cpu, &everybodys), "{cpu} is nobody else's: {everybodys}");
    let of_a_shell = world.on_host("grep Cpus_allowed_list /proc/self/status | cut -f 2");
    assert!(!is_listed(cpu, &of_a_shell), "{of_a_shell}");
    for mask in ["/proc/irq/default_smp_affinity", "/sys/devices/virtual/workqueue/cpumask"] {
        let mask = u32::from_str_radix(world.on_host(&format!("cat {mask}")).trim(), 16).unwrap();
        assert_eq!(mask & 1 << cpu, 0, "{mask:x}");
    }

    let vmm = says(&format!("{group}/cgroup.procs"));
    let locked = world.on_host(&format!("grep VmLck /proc/{vmm}/status"));
    let locked_kib: u64 = locked.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(locked_kib >= SMALL.memory_mib * 1024, "before anything is booted: {locked}");
    let disk = world.on_host(&format!("stat -c '%s %b' /var/lib/sublet/partitions/{}/disk", offer.id));
    let bytes = layered_file_bytes(64 << 20);
    assert_eq!(disk.trim(), format!("{bytes} {}", bytes / 512));

    drop(offer);
    assert_eq!(world.on_host(SURROUNDINGS), before);
}

#[test]
fn an_agent_that_was_killed_leaves_cpus_set_aside_and_another_one_gives_them_back() {
    let world = world();
    let before = world.on_host(SURROUNDINGS);
    let offer = world.offer(SMALL);
    let cpu = cpus(offer.id)[0];
    world.on_host("agent kill");
    let everybodys = world.on_host("cat /sys/fs/cgroup/cpuset.cpus.effective");
    assert!(!is_listed(cpu, &everybodys), "{everybodys}");
    world.on_host("agent start");
    world.lab_host.wait_for_agent().unwrap();
    drop(offer);
    assert_eq!(world.on_host(SURROUNDINGS), before);
}

#[test]
fn a_host_whose_agent_is_to_be_removed_is_given_back_unless_it_is_lent() {
    let world = world();
    let offer = world.offer(SMALL);
    let give_back =
        "agent stop; /usr/lib/sublet/sublet-agent --config /etc/sublet/agent.toml --give-back 2>&1";
    let loan = world.borrow(offer.id, AN_HOUR);
    let refused = world.on_host(&format!("! {{ {give_back}; }}"));
    assert!(refused.contains("is lent"), "{refused}");
    world.on_host("agent start");
    world.lab_host.wait_for_agent().unwrap();
    loan.end();
    world.wait_for_partition(offer.id, |view| view.state == PartitionState::Offered);

    world.on_host(give_back);
    let left = "ls -d /sys/fs/cgroup/sublet /run/sublet-interrupts.json /var/lib/sublet/partitions/* 2>/dev/null || true; \
                cat /sys/fs/cgroup/cpuset.cpus.effective";
    assert_eq!(world.on_host(left), "0-3\n");
    std::mem::forget(offer);
    world.on_host("agent start");
    world.lab_host.wait_for_agent().unwrap();
}

#[test]
fn partitions_with_shares_of_one_cpu_get_no_more_than_theirs_and_whole_cores_are_others() {
    let world = world();
    let before = world.on_host(SURROUNDINGS);
    let (half, rest) = (offer_share(50), offer_share(40));
    let whole = world.offer(SMALL);
    let cpu = cpus(half.id);
    assert_eq!(cpus(rest.id), cpu, "they share it");
    assert_ne!(cpus(whole.id), cpu);
    assert_eq!(says("sublet/shares/cpuset.cpus.partition"), "root");
    assert_eq!(says(&format!("sublet/shares/{}/cpu.max", half.id)), "50000 100000");

    let loan = world.borrow(half.id, AN_HOUR);
    loan.shell("i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done").success();
    let stat = says(&format!("sublet/shares/{}/cpu.stat", half.id));
    let count = |name: &str| -> u64 {
        let line = stat.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap().parse().unwrap()
    };
    assert!(count("nr_throttled") > 0, "a guest that wants all gets half: {stat}");
    assert!(count("usage_usec") <= count("nr_periods") * 55_000, "{stat}");
    loan.end();

    drop((half, rest, whole));
    assert_eq!(world.on_host(SURROUNDINGS), before);
}

/// Whether a CPU is in a list such as `0-2,5`.
fn is_listed(cpu: u32, list: &str) -> bool {
    list.trim().split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse().is_ok_and(|first: u32| first <= cpu) && last.parse().is_ok_and(|last: u32| cpu <= last)
    })
}
