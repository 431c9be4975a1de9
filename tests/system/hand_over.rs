//! From one borrower to the next: nothing of the first is left (law 8), and its key opens nothing (law 4).

use std::process::Command;

use sublet::api::{agent::PartitionState, problem::Code};
use sublet::domain::id::PartitionId;
use sublet_lab::attacks::names;

use crate::world::{AN_HOUR, SMALL, shell, world};

const MARKER: &str = "the-first-borrowers-secret";
/// What stands on the disk, and not in the job that writes it there.
const ON_DISK: &str = "the-$(echo first)-borrowers-data";
/// Bytes that the guest fills its memory with.
const FILLED: usize = 32 << 20;
const DISK_MARKER: &str = "the-first-borrowers-data";

/// How many bytes of a machine's memory are not zero, as its host's root reads them, all of them.
fn bytes_in_memory(partition: PartitionId) -> usize {
    let names = names(&partition.to_string());
    let mib = SMALL.memory_mib;
    let said = world().on_host(&format!(
        "{names}
         from=$(sed -n 's/^\\(.*\\)-\\(.*\\) rw-p .*/\\1 \\2/p' /proc/$machine/maps | while read -r from to; do
             [ $((0x$to - 0x$from)) != $(({mib} << 20)) ] || echo $from
         done)
         dd if=/proc/$machine/mem bs=1M skip=$((0x$from >> 20)) count={mib} 2>/run/copied | tr -d '\\000' | wc -c
         grep -q '^{mib}+0 records in' /run/copied"
    ));
    said.trim().parse().unwrap()
}

#[test]
fn the_next_borrower_finds_neither_data_nor_logs_and_the_old_key_opens_nothing() {
    let world = world();
    let offer = world.offer(SMALL);
    let first = world.borrow(offer.id, AN_HOUR);
    first
        .shell(&format!("yes {ON_DISK} | head -c 1048576 > /dev/vda; sync; echo {MARKER} > /dev/console"))
        .success();
    first.shell(&format!("yes secret | head -c {FILLED} > /filled")).success();
    assert!(bytes_in_memory(offer.id) > FILLED);
    // Not even while it is lent does the disk stand anywhere to be read.
    let disk = format!("/var/lib/sublet/partitions/{}/disk", offer.id);
    assert_eq!(world.on_host(&format!("grep -c {DISK_MARKER} {disk} || true")).trim(), "0");
    assert_ne!(world.on_host(&format!("head -c 1048576 {disk} | tr -d '\\000' | wc -c")).trim(), "0");
    let key = format!("/run/sublet/keys/{}", offer.id);
    let first_key = world.on_host(&format!("sha256sum {key}"));
    let ended = first.end();
    assert!(ended.end.is_some());
    world.wait_for_partition(offer.id, |view| view.state == PartitionState::Offered);

    // Nor does the host's own disk have it afterwards, block by block; and the key that would be wanted is gone.
    world.on_host("sync");
    let image = world.lab_host.state_disk();
    // Without its holes.
    let blocks = format!("tar -cS '{}' | tr -d '\\000' | grep -ac {DISK_MARKER}", image.display());
    let blocks = Command::new("sh").args(["-c", &blocks]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&blocks.stdout).trim(), "0");
    assert_ne!(world.on_host(&format!("sha256sum {key}")), first_key);

    assert_eq!(bytes_in_memory(offer.id), 0, "memory is given again as zeroes");

    let second = world.borrow(offer.id, AN_HOUR);
    assert_eq!(second.shell("tr -d '\\000' < /dev/vda | wc -c").success().trim(), "0");
    let jobs = world.wait(second.agent.jobs(offer.id)).unwrap();
    assert_eq!(jobs.jobs.len(), 1);
    let left = format!("grep -rl {MARKER} /var/lib/sublet/ --include=* 2>/dev/null; true");
    let left = world.lab_host.exec(["sh", "-c", &left]).unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");

    for refused in [
        world.wait(first.agent.partition(offer.id)).map(drop),
        world.wait(first.agent.jobs(offer.id)).map(drop),
        world.wait(first.submit(shell("debian-micro", "true"))).map(drop),
        world.wait(first.open()).map(drop),
    ] {
        assert_eq!(refused.unwrap_err().code(), Some(Code::KeyEpochPassed));
    }
    second.end();
}
