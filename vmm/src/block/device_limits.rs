//! What the device under a disk takes in one request.
//!
//! Past the page cache the kernel cuts what is longer into several, and refuses to do so for io_uring, where that may
//! have to wait: it builds the request, drops it, and has a worker thread build it again. A guest that is told what the
//! device takes cuts its requests itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{Dev, major, minor};

/// Limits of a block device's queue (Linux, Documentation/ABI/stable/sysfs-block).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Most pieces of memory, each in one place.
    pub segments: u32,
    /// Longest piece.
    pub segment_bytes: u32,
}

impl DeviceLimits {
    /// Those of the device with this number; none where the kernel tells of no such device, as of a file system's that
    /// has none of its own.
    pub fn of(device: Dev) -> Option<Self> {
        let directory = format!("/sys/dev/block/{}:{}", major(device), minor(device));
        // A partition has the queue of the whole.
        let queues = ["queue", "../queue"].map(|queue| Path::new(&directory).join(queue));
        queues.into_iter().find_map(|queue| Self::read(&queue).ok())
    }

    fn read(queue: &Path) -> io::Result<Self> {
        let number =
            |path: PathBuf| fs::read_to_string(path)?.trim().parse::<u32>().map_err(io::Error::other);
        Ok(Self {
            segments: number(queue.join("max_segments"))?,
            segment_bytes: number(queue.join("max_segment_size"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_says_what_it_takes() {
        let queue = tempfile::tempdir().unwrap();
        let say = |name: &str, text: &str| fs::write(queue.path().join(name), text).unwrap();
        say("max_segments", "128\n");
        say("max_segment_size", "4294967295\n");
        let limits = DeviceLimits { segments: 128, segment_bytes: u32::MAX };
        assert_eq!(DeviceLimits::read(queue.path()).unwrap(), limits);
        say("max_segments", "many\n");
        assert!(DeviceLimits::read(queue.path()).is_err());
    }

    #[test]
    fn a_device_that_is_none_has_no_limits() {
        assert_eq!(DeviceLimits::of(rustix::fs::makedev(4095, 1)), None);
    }
}
