//! The host's memory.

use std::{fs, path::Path};

/// What the owner's work could have without pushing anything out, in MiB, as the kernel of the host below `root` tells it.
pub fn available_mib(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.strip_suffix(" kB"))?;
    kib.trim().parse::<u64>().ok().map(|kib| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_what_the_kernel_says() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(available_mib(root.path()), None);
        fs::create_dir(root.path().join("proc")).unwrap();
        fs::write(root.path().join("proc/meminfo"), "MemTotal: 9 kB\nMemAvailable:    4096 kB\n").unwrap();
        assert_eq!(available_mib(root.path()), Some(4));
    }
}
