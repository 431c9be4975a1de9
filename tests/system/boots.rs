//! Guests that give up while they come up.

use sublet::api::agent::JobEnd;

use crate::{
    images::Images,
    world::{AN_HOUR, SMALL, shell, world},
};

/// Two images: `second-time`, whose guest resets itself at the first boot of a lease and comes up at the next, and
/// `never-up`, whose kernel finds no init.
const TWO_IMAGES: &str = r#"
copy second-time /first
cat >/tmp/first <<'INIT'
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
modprobe -a virtio_pci virtio_blk
if [ "$(head -c 5 /dev/vda)" != again ]; then echo again >/dev/vda; sync; reboot -f; fi
umount /dev /proc
exec /init
INIT
chmod 755 /tmp/first
(cd /tmp; echo first | cpio -o -H newc) | add second-time
copy never-up /nothing
"#;

#[test]
fn a_guest_that_resets_before_its_runner_calls_is_booted_again_and_its_job_runs_once() {
    let world = world();
    let _images = Images::add(world, TWO_IMAGES);
    let offer = world.offer(SMALL);
    let loan = world.borrow(offer.id, AN_HOUR);
    assert_eq!(loan.run(shell("second-time", "echo up; head -n 1 /dev/vda")).success(), "up\nagain\n");
    loan.end();

    world.wait_for_partition(offer.id, |view| view.lease.is_none());
    let loan = world.borrow(offer.id, AN_HOUR);
    let never = loan.run(shell("never-up", "echo up"));
    assert_eq!(never.end(), &JobEnd::GuestRebooted);
    assert_eq!(loan.shell("echo alive").success(), "alive\n");
    loan.end();
}
