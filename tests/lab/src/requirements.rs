//! What the lab needs of the machine.

use std::env;
use std::path::Path;

use thiserror::Error;

/// A program, and the Debian package that has it.
const NEEDED: [(&str, &str); 12] = [
    (crate::qemu::PROGRAM, "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("mke2fs", "e2fsprogs"),
    ("apt-get", "apt"),
    ("flock", "util-linux"),
    // What hosts start with.
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("dnsmasq", "dnsmasq-base"),
];

#[derive(Debug, Error, PartialEq, Eq)]
#[error("this machine lacks what the lab needs; install it with: apt-get install -y {}", .0.join(" "))]
pub struct Lacking(pub Vec<&'static str>);

/// Whether everything is there.
pub(crate) fn check() -> Result<(), Lacking> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<_> = env::split_paths(&path).chain(["/sbin".into(), "/usr/sbin".into()]).collect();
    check_with(|program| directories.iter().any(|directory| is_file(&directory.join(program))))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}

fn check_with(is_there: impl Fn(&str) -> bool) -> Result<(), Lacking> {
    let lacking: Vec<_> =
        NEEDED.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    if lacking.is_empty() { Ok(()) } else { Err(Lacking(lacking)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_as_the_line_that_installs_it() {
        let error = check_with(|program| program != "cpio" && program != "mke2fs").unwrap_err();
        assert!(error.to_string().ends_with("apt-get install -y cpio e2fsprogs"), "{error}");
        assert_eq!(check_with(|_| true), Ok(()));
    }
}
