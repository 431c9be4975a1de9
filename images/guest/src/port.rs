//! The machine's named port (virtio-console), for guests whose kernel lacks vsock: one stream to the host.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use sublet_guest_protocol::PORT_NAME;

use crate::link::Dial;

/// Where the kernel shows the names of ports.
const PORTS: &str = "/sys/class/virtio-ports";
const DEVICES: &str = "/dev";

/// The port, while the host has not picked up: it does so only while a program has the port open.
#[derive(Default)]
pub struct NamedPort {
    ringing: Option<File>,
}

impl Dial for NamedPort {
    /// Fails while the host has not picked up.
    fn dial(&mut self) -> io::Result<OwnedFd> {
        let port = match self.ringing.take() {
            Some(port) => port,
            None => open(&device(Path::new(PORTS), Path::new(DEVICES))?)?,
        };
        if is_connected(&port)? {
            return Ok(port.into());
        }
        self.ringing = Some(port);
        Err(io::Error::new(io::ErrorKind::NotConnected, "the host has not picked up at the port yet"))
    }
}

fn device(ports: &Path, devices: &Path) -> io::Result<PathBuf> {
    let missing = || {
        io::Error::new(io::ErrorKind::NotFound, "this kernel has neither vsock nor the port of its machine")
    };
    for port in fs::read_dir(ports).map_err(|_| missing())? {
        let port = port?;
        if fs::read_to_string(port.path().join("name"))?.trim_end() == PORT_NAME {
            return Ok(devices.join(port.file_name()));
        }
    }
    Err(missing())
}

fn open(device: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(device)
}

/// A port that nobody holds the other end of is hung up.
fn is_connected(port: &File) -> io::Result<bool> {
    let mut watched = [PollFd::new(port, PollFlags::OUT)];
    poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(!watched[0].revents().contains(PollFlags::HUP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_its_name_among_others() {
        let folder = tempfile::tempdir().unwrap();
        let find = || device(folder.path(), Path::new("/dev"));
        assert_eq!(find().unwrap_err().kind(), io::ErrorKind::NotFound);
        for (port, name) in [("vport1p1", "org.example"), ("vport2p1", PORT_NAME)] {
            assert!(find().is_err());
            fs::create_dir(folder.path().join(port)).unwrap();
            fs::write(folder.path().join(port).join("name"), format!("{name}\n")).unwrap();
        }
        assert_eq!(find().unwrap(), Path::new("/dev/vport2p1"));
    }
}
