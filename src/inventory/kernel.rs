//! What the host's kernel can do for partitions.

use std::collections::BTreeSet;

use thiserror::Error;

use super::files::Files;

/// Controllers of a partition's group, each for one of the things that are set aside.
pub const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "io", "memory"];
/// From here on a group below another that is no partition itself can take CPUs from everybody else (cpuset.cpus.exclusive,
/// cgroup-v2.rst, "remote partition").
const EXCLUSIVE_FROM: (u32, u32) = (6, 7);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// As `uname -r` tells it.
    pub release: String,
    pub control_groups: ControlGroups,
    pub has_kvm: bool,
    pub has_vhost_vsock: bool,
}

/// What is at /sys/fs/cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlGroups {
    None,
    /// A hierarchy a controller; one of version 2 beside them has none.
    V1,
    V2 {
        controllers: BTreeSet<String>,
    },
}

/// Why this kernel cannot set CPUs aside.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CannotSetAside {
    #[error("there are no control groups at /sys/fs/cgroup: mount cgroup2 there")]
    NoControlGroups,
    #[error(
        "this host's control groups are of version 1, in which CPUs cannot be kept from others: boot with \
         systemd.unified_cgroup_hierarchy=1, or mount cgroup2 at /sys/fs/cgroup"
    )]
    Version1,
    #[error(
        "the cgroup2 at /sys/fs/cgroup has no controller {0}: boot without cgroup_disable, and not with version 1 beside it"
    )]
    NoController(&'static str),
    #[error(
        "Linux {release} cannot keep CPUs from everybody else below a group of its own; {major}.{minor} and later can",
        major = EXCLUSIVE_FROM.0, minor = EXCLUSIVE_FROM.1
    )]
    TooOld { release: String },
}

impl Kernel {
    pub(super) fn read(files: &Files<'_>) -> Self {
        Self {
            release: files.word("proc/sys/kernel/osrelease").unwrap_or_default(),
            control_groups: ControlGroups::read(files),
            has_kvm: files.has("dev/kvm"),
            has_vhost_vsock: files.has("dev/vhost-vsock"),
        }
    }

    /// Whether CPUs and the rest of a partition can be kept from everybody else.
    pub fn can_set_aside(&self) -> Result<(), CannotSetAside> {
        let controllers = match &self.control_groups {
            ControlGroups::None => return Err(CannotSetAside::NoControlGroups),
            ControlGroups::V1 => return Err(CannotSetAside::Version1),
            ControlGroups::V2 { controllers } => controllers,
        };
        if let Some(missing) = CONTROLLERS.into_iter().find(|name| !controllers.contains(*name)) {
            return Err(CannotSetAside::NoController(missing));
        }
        match version(&self.release) {
            Some(version) if version < EXCLUSIVE_FROM => {
                Err(CannotSetAside::TooOld { release: self.release.clone() })
            }
            _ => Ok(()),
        }
    }
}

impl ControlGroups {
    fn read(files: &Files<'_>) -> Self {
        match files.word("sys/fs/cgroup/cgroup.controllers") {
            Some(names) => Self::V2 { controllers: names.split_whitespace().map(str::to_owned).collect() },
            None if files.names("sys/fs/cgroup").is_empty() => Self::None,
            None => Self::V1,
        }
    }
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(release: &str, controllers: &[&str]) -> Kernel {
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        Kernel {
            release: release.to_owned(),
            control_groups: ControlGroups::V2 { controllers },
            has_kvm: true,
            has_vhost_vsock: true,
        }
    }

    #[test]
    fn a_kernel_that_cannot_set_aside_says_what_it_lacks() {
        assert_eq!(kernel("6.12.9-cloud-amd64", &CONTROLLERS).can_set_aside(), Ok(()));
        assert_eq!(kernel("7.0", &CONTROLLERS).can_set_aside(), Ok(()));
        let old = kernel("6.1.0-28-amd64", &CONTROLLERS).can_set_aside().unwrap_err();
        assert_eq!(
            old.to_string(),
            "Linux 6.1.0-28-amd64 cannot keep CPUs from everybody else below a group of its own; 6.7 and later can"
        );
        let lacking = kernel("6.12", &["cpu", "io", "memory"]).can_set_aside();
        assert_eq!(lacking, Err(CannotSetAside::NoController("cpuset")));
        let one = Kernel { control_groups: ControlGroups::V1, ..kernel("6.12", &[]) };
        assert_eq!(one.can_set_aside(), Err(CannotSetAside::Version1));
    }
}
