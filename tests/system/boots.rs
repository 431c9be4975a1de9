//! Guests that give up while they come up.

use sublet::api::agent::JobEnd;

use crate::world::{AN_HOUR, SMALL, World, shell, world};

/// Adds two images to the host's: `second-time`, whose guest resets itself at the first boot of a lease and comes up
/// at the next, and `never-up`, whose kernel finds no init.
const ADD_IMAGES: &str = r#"
images=/usr/share/sublet/images
mkdir -p /tmp/images/second-time /tmp/images/never-up /tmp/second-time
for image in second-time never-up; do
    cp $images/debian-micro/vmlinux $images/debian-micro/initrd.img /tmp/images/$image
done
cat >/tmp/second-time/first <<'INIT'
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
modprobe -a virtio_pci virtio_blk
if [ "$(head -c 5 /dev/vda)" != again ]; then echo again >/dev/vda; sync; reboot -f; fi
umount /dev /proc
exec /init
INIT
chmod 755 /tmp/second-time/first
cd /tmp/second-time
{ echo first | cpio -o -H newc; cat $images/debian-micro/initrd.img; } >/tmp/images/second-time/initrd.img
change() {
    sed -e "s|\"name\": *\"[^\"]*\"|\"name\": \"$1\"|" \
        -e "s|\"command_line\": *\"|&rdinit=$2 |" $images/debian-micro/image.json >/tmp/images/$1/image.json
}
change second-time /first
change never-up /nothing
for image in debian-micro debian-micro-6.1; do
    mkdir -p /tmp/images/$image
    mount --bind $images/$image /tmp/images/$image
done
mount --rbind /tmp/images $images
"#;

const REMOVE_IMAGES: &str =
    "umount -l /usr/share/sublet/images; umount /tmp/images/debian-micro*; rm -r /tmp/images";

/// Takes the images away again, at the end of a test or at its failure.
struct Images<'a>(&'a World);

impl Drop for Images<'_> {
    fn drop(&mut self) {
        let _ = self.0.lab_host.exec(["sh", "-c", REMOVE_IMAGES]);
    }
}

#[test]
fn a_guest_that_resets_before_its_runner_calls_is_booted_again_and_its_job_runs_once() {
    let world = world();
    world.on_host(ADD_IMAGES);
    let _images = Images(world);
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
