//! OS images of a test's own, beside those of the lab host.

use crate::world::World;

/// What a script that makes images starts with. `copy NAME [INIT]` makes a copy of `debian-micro` whose first program is
/// INIT; `add NAME` adds the files of the cpio archive on standard input to it.
const BEGIN: &str = r#"
images=/usr/share/sublet/images
copy() {
    mkdir -p /tmp/images/$1
    cp $images/debian-micro/vmlinux $images/debian-micro/initrd.img /tmp/images/$1
    sed -e "s|\"name\": *\"[^\"]*\"|\"name\": \"$1\"|" -e "s|\"command_line\": *\"|&${2:+rdinit=$2 }|" \
        $images/debian-micro/image.json >/tmp/images/$1/image.json
}
add() {
    { cat; cat $images/debian-micro/initrd.img; } >/tmp/images/$1/initrd.img
}
"#;

const SHOW: &str = r#"
for image in debian-micro debian-micro-6.1; do
    mkdir -p /tmp/images/$image
    mount --bind $images/$image /tmp/images/$image
done
mount --rbind /tmp/images $images
"#;

const HIDE: &str = "umount -l /usr/share/sublet/images; umount /tmp/images/debian-micro*; rm -r /tmp/images";

/// Takes the images away again, at the end of a test or at its failure.
pub(crate) struct Images<'a>(&'a World);

impl<'a> Images<'a> {
    /// Makes images by a shell script, run on the lab host.
    pub(crate) fn add(world: &'a World, script: &str) -> Self {
        world.on_host(&format!("{BEGIN}{script}{SHOW}"));
        Self(world)
    }
}

impl Drop for Images<'_> {
    fn drop(&mut self) {
        let _ = self.0.lab_host.exec(["sh", "-c", HIDE]);
    }
}
