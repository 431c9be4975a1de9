//! `sublet ssh`: this machine's own ssh, into an SSH server in the guest.

use std::{fs, path::Path, process::Command};

use crate::{
    images::Images,
    tunnel::Borrowed,
    world::{SMALL, output, world},
};

/// Makes an archive of Debian's dropbear, what it is linked with, a host key, and the key that may log in.
const PACK: &str = r#"
server=$(command -v dropbear || echo /usr/sbin/dropbear)
[ -x "$server" ] || { echo "dropbear is missing: run tests/lab/packages.sh dropbear-bin openssh-client"; exit 1; }
rm -rf "$1"
mkdir -p "$1/tree/bin" "$1/tree/etc/dropbear" "$1/tree/root/.ssh"
cp "$server" "$1/tree/bin/dropbear"
ldd "$server" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$1/tree/$(dirname "$library")"
    cp -L "$library" "$1/tree/$library"
done
dropbearkey -t ed25519 -f "$1/tree/etc/dropbear/host_key"
ssh-keygen -q -t ed25519 -N '' -f "$1/key"
cp "$1/key.pub" "$1/tree/root/.ssh/authorized_keys"
chmod -R go-rwx "$1/tree/root/.ssh"
cd "$1/tree"
find . -mindepth 1 | cpio --quiet --create --format=newc --owner=0:0 >../dropbear.cpio
"#;

const SERVE: &str = "dropbear -F -E -s -r /etc/dropbear/host_key & until netstat -tln | grep -q ':22 '; do usleep 100000; \
                     done; echo serving; wait";

fn pack(directory: &Path) {
    let packed = output({
        let mut command = Command::new("sh");
        command.args(["-ec", PACK, "pack"]).arg(directory);
        command
    });
    assert!(packed.status.success(), "{packed:?}");
}

#[test]
fn ssh_runs_a_command_in_the_guest_and_each_lease_learns_its_own_host_key() {
    let world = world();
    let directory = world.directory.join("dropbear");
    pack(&directory);
    world.lab_host.copy(&directory.join("dropbear.cpio"), "/tmp/dropbear.cpio").unwrap();
    let _images =
        Images::add(world, "copy with-ssh; add with-ssh </tmp/dropbear.cpio; rm /tmp/dropbear.cpio");
    let offer = world.offer(SMALL);
    let borrowed = Borrowed::new(offer.id);
    borrowed.serve("with-ssh", SERVE);

    let key = directory.join("key");
    let options = ["--", "-i", key.to_str().unwrap(), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"];
    let script = "uname -s; echo $HOME; cat; exit 7";
    let mut ssh = borrowed.sublet("ssh", &[&options[..], &[script]].concat());
    let said = output({
        ssh.stdin(fs::File::open(directory.join("key.pub")).unwrap());
        ssh
    });
    let public = fs::read_to_string(directory.join("key.pub")).unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), format!("Linux\n/root\n{public}"), "{said:?}");
    assert_eq!(said.status.code(), Some(7), "{said:?}");

    let known = fs::read_to_string(borrowed.known_hosts()).unwrap();
    assert!(known.starts_with(&format!("sublet-{} ssh-ed25519 ", borrowed.id)), "{known}");
    let without = output({
        let mut ssh = borrowed.sublet("ssh", &[]);
        ssh.env("PATH", &directory);
        ssh
    });
    assert!(String::from_utf8_lossy(&without.stderr).contains("openssh-client"), "{without:?}");
    let returned = output(borrowed.sublet("return", &[]));
    assert!(returned.status.success(), "{returned:?}");
    assert!(!borrowed.known_hosts().exists());
}
