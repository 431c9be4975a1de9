//! The root directory: empty, and nothing can be put there.

use std::ffi::CStr;

use rustix::{
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    process::{chdir, pivot_root},
};
use thiserror::Error;

/// Where the new root is mounted first. Any directory will do; this one is there, as memory was asked for in it.
const PLACE: &str = "/proc";
/// One page and the inode of the root itself: no file fits in, even if it could be written.
const SIZE: &CStr = c"size=4k,nr_inodes=1,mode=555";

#[derive(Debug, Error)]
#[error("cannot {step}")]
pub struct RootError {
    step: &'static str,
    source: Errno,
}

/// Changes to an empty root. The old one is gone with all that is mounted in it; files that are open stay open.
pub(super) fn empty() -> Result<(), RootError> {
    let failed = |step| move |source| RootError { step, source };
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(failed("keep mounts from the host's"))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", PLACE, "tmpfs", flags, SIZE).map_err(failed("mount an empty root"))?;
    chdir(PLACE).map_err(failed("go to the empty root"))?;
    // Onto itself: the old root then lies on top of the new one (pivot_root(2)).
    pivot_root(".", ".").map_err(failed(
        "change to the empty root; a host that runs from its initramfs must switch_root to another first",
    ))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("leave the host's root"))?;
    chdir("/").map_err(failed("stand in the empty root"))
}
