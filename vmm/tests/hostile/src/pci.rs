//! PCI functions, as the kernel shows them to root.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
};

use crate::registers::Window;

const DEVICES: &str = "/sys/bus/pci/devices";
const VIRTIO_VENDOR: u16 = 0x1af4;
const HEADER: u64 = 64;
const CAPABILITIES: u64 = 0x34;
pub(crate) const COMMAND: u64 = 0x04;
pub(crate) const BAR0: u64 = 0x10;
/// Bytes of a function's registers.
const REGISTERS: usize = 0x8000;

/// A function of a virtio device.
#[derive(Debug)]
pub(crate) struct Function {
    /// As the kernel names it: domain, bus, device and function.
    pub(crate) name: String,
    config: File,
}

/// A capability: its id, where it is in configuration space, and its bytes from there on.
#[derive(Debug)]
pub(crate) struct Capability {
    pub(crate) id: u8,
    pub(crate) at: u64,
    pub(crate) bytes: [u8; 20],
}

impl Function {
    /// All of virtio's, in order.
    pub(crate) fn all() -> io::Result<Vec<Self>> {
        let mut names = fs::read_dir(DEVICES)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        let functions = names.into_iter().map(Self::open).collect::<io::Result<Vec<_>>>()?;
        Ok(functions.into_iter().filter(|function| function.config::<u16>(0) == VIRTIO_VENDOR).collect())
    }

    fn open(name: String) -> io::Result<Self> {
        let path = PathBuf::from(DEVICES).join(&name).join("config");
        Ok(Self { config: File::options().read(true).write(true).open(path)?, name })
    }

    /// Takes it from its driver, if it has one, and turns its registers on.
    pub(crate) fn take(&self) -> io::Result<()> {
        let path = PathBuf::from(DEVICES).join(&self.name);
        match fs::write(path.join("driver/unbind"), &self.name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::write(path.join("enable"), "1")
    }

    pub(crate) fn registers(&self) -> io::Result<Window> {
        let path = PathBuf::from(DEVICES).join(&self.name).join("resource0");
        Window::map(&File::options().read(true).write(true).open(path)?, 0, REGISTERS)
    }

    /// Number of its slot.
    pub(crate) fn slot(&self) -> u8 {
        let slot = self.name.rsplit(':').next().and_then(|rest| rest.split('.').next());
        slot.and_then(|slot| u8::from_str_radix(slot, 16).ok()).unwrap()
    }

    pub(crate) fn config<T: Little>(&self, offset: u64) -> T {
        let mut bytes = [0; 8];
        self.config.read_exact_at(&mut bytes[..size_of::<T>()], offset).unwrap();
        T::of(bytes)
    }

    /// Writes a value of 1, 2 or 4 bytes.
    pub(crate) fn set_config(&self, offset: u64, bytes: &[u8]) {
        self.config.write_all_at(bytes, offset).unwrap();
    }

    pub(crate) fn header(&self) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        self.config.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    pub(crate) fn capabilities(&self) -> Vec<Capability> {
        let mut found = Vec::new();
        let mut at = u64::from(self.config::<u8>(CAPABILITIES));
        while at != 0 && found.len() < 48 {
            let mut bytes = [0; 20];
            self.config.read_exact_at(&mut bytes, at).unwrap();
            found.push(Capability { id: bytes[0], at, bytes });
            at = bytes[1].into();
        }
        found
    }
}

/// A number as PCI has it, lowest byte first.
pub(crate) trait Little {
    fn of(bytes: [u8; 8]) -> Self;
}

macro_rules! little {
    ($($type:ty)*) => {$(
        impl Little for $type {
            fn of(bytes: [u8; 8]) -> Self {
                u64::from_le_bytes(bytes) as Self
            }
        }
    )*};
}

little!(u8 u16 u32);
