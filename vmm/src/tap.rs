//! A TAP interface of the host (Linux, Documentation/networking/tuntap.rst): what a guest's network card is plugged
//! into. It is made beforehand and stays when the machine is gone; a machine only attaches to it.

use std::{
    ffi::{c_int, c_ulong},
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use thiserror::Error;
use vmm_sys_util::ioctl::{ioctl_with_ref, ioctl_with_val};

const CLONE_DEVICE: &str = "/dev/net/tun";
/// Bytes before each frame: `struct virtio_net_hdr_v1` (virtio 1.2, 5.1.6).
const HEADER_BYTES: c_int = 12;
/// Frames without the driver's own header, but with virtio's.
const ATTACHED: c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

#[derive(Debug, Error)]
pub enum OpenTapError {
    #[error(
        "the host has no TAP interface {name:?}; it must be made before the machine: ip tuntap add {name} mode tap"
    )]
    Missing { name: String, source: io::Error },
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} holds {text:?}, which is no number")]
    Malformed { path: PathBuf, text: String },
    #[error("the interface {name:?} must be a persistent TAP with one queue; its flags are {flags:#x}")]
    Unfit { name: String, flags: u32 },
    #[error("cannot open {CLONE_DEVICE}; the kernel's module tun must be loaded")]
    Open(#[source] io::Error),
    #[error("the TAP interface {name:?} is in use by another process; each machine needs its own")]
    InUse { name: String, source: io::Error },
    #[error("cannot attach to the TAP interface {name:?}")]
    Attach { name: String, source: io::Error },
    #[error("cannot agree on the headers of frames with the TAP interface {name:?}")]
    Header { name: String, source: io::Error },
}

/// `struct ifreq` of Linux, as `TUNSETIFF` reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: i16,
    unused: [u8; 22],
}

/// An interface, attached to. Nobody else can attach to it while this lives.
#[derive(Debug)]
pub struct Tap {
    file: File,
    mtu: u16,
}

impl Tap {
    /// Attaches to an interface that is there.
    pub fn open(name: &str) -> Result<Self, OpenTapError> {
        // Attaching to one that is not there would make it, with nothing behind it.
        check(name)?;
        let mtu = attribute(name, "mtu", |text| text.parse().ok())?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(CLONE_DEVICE)
            .map_err(OpenTapError::Open)?;
        attach(&file, name)?;
        // SAFETY: the kernel reads an int at this address, and one is there.
        let result = unsafe { ioctl_with_ref(&file, libc::TUNSETVNETHDRSZ, &HEADER_BYTES) };
        done(result).map_err(|source| OpenTapError::Header { name: name.into(), source })?;
        Ok(Self { file, mtu })
    }

    /// What the kernel is given so that it serves the interface.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Largest packet that it takes whole, in bytes, as it was when it was opened.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Says what the host may leave to the guest of the frames that it gives it: a set of `TUN_F_…` (linux/if_tun.h).
    pub fn set_offloads(&self, offloads: u32) -> io::Result<()> {
        // SAFETY: the argument of this request is a number; no memory of ours is touched.
        done(unsafe { ioctl_with_val(&self.file, libc::TUNSETOFFLOAD, c_ulong::from(offloads)) })
    }
}

fn check(name: &str) -> Result<(), OpenTapError> {
    let hexadecimal = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let flags = attribute(name, "tun_flags", hexadecimal)?;
    let has = |flag: c_int| flags & flag as u32 != 0;
    match has(libc::IFF_TAP) && has(libc::IFF_PERSIST) && !has(libc::IFF_MULTI_QUEUE) {
        true => Ok(()),
        false => Err(OpenTapError::Unfit { name: name.into(), flags }),
    }
}

/// What the kernel says of an interface.
fn attribute<T>(name: &str, what: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, OpenTapError> {
    let path = PathBuf::from(format!("/sys/class/net/{name}/{what}"));
    let text = fs::read_to_string(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => OpenTapError::Missing { name: name.into(), source },
        _ => OpenTapError::Read { path: path.clone(), source },
    })?;
    parse(text.trim()).ok_or(OpenTapError::Malformed { path, text })
}

fn attach(file: &File, name: &str) -> Result<(), OpenTapError> {
    let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], flags: ATTACHED as i16, unused: [0; 22] };
    // The last byte stays a NUL; a configuration's names are shorter.
    request.name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()).for_each(|(to, from)| *to = from);
    // SAFETY: the kernel reads a `struct ifreq` at this address, and one of its size and layout is there.
    let result = unsafe { ioctl_with_ref(file, libc::TUNSETIFF, &request) };
    let name = name.to_owned();
    done(result).map_err(|source| match source.kind() {
        io::ErrorKind::ResourceBusy => OpenTapError::InUse { name, source },
        _ => OpenTapError::Attach { name, source },
    })
}

fn done(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_request_is_as_large_as_the_kernels() {
        assert_eq!(size_of::<InterfaceRequest>(), size_of::<libc::ifreq>());
    }

    #[test]
    fn what_is_no_tap_is_named_and_none_is_made() {
        for name in ["lo", "sublet-none"] {
            let error = Tap::open(name).unwrap_err();
            assert!(matches!(error, OpenTapError::Missing { .. }) && error.to_string().contains(name));
        }
        assert!(!PathBuf::from("/sys/class/net/sublet-none").exists());
    }
}
