//! A disk's volumes with the file systems on them.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::config::grub;
use crate::disk::Volume;
use crate::filesystem::{FileError, FileSystem, mount, read_text};
use crate::partition::{Role, partitions};

/// Longest configuration file that is read; Debian's are a tenth of this with ten kernels.
const TEXT_LIMIT: usize = 256 << 10;
/// Most file systems of a disk that are looked at: each takes up to half a MiB of memory.
const VOLUMES_LIMIT: usize = 12;

/// A file system on a partition, or on a disk that is not divided.
pub struct Mounted {
    /// As Linux calls it: `vda1`.
    pub name: String,
    /// As GRUB calls it: `hd0,gpt1`.
    pub grub_name: String,
    pub role: Role,
    pub files: Box<dyn FileSystem>,
}

pub struct Volumes(pub Vec<Mounted>);

impl Volumes {
    /// Mounts what it can of a disk, and tells what it found there.
    pub fn find(disk: &Volume, name: &str, out: &mut dyn Write) -> Result<Self, fmt::Error> {
        let partitions = match partitions(disk) {
            Ok(partitions) => partitions,
            Err(error) => {
                writeln!(out, "{name}: {error}.")?;
                Vec::new()
            }
        };
        let mut found = Vec::new();
        for partition in partitions {
            let number = partition.number.map_or_else(String::new, |number| number.to_string());
            let name = format!("{name}{number}");
            if found.len() == VOLUMES_LIMIT {
                writeln!(out, "{name} and what follows is not looked at.")?;
                break;
            }
            match mount(&partition.volume) {
                Ok(Some(files)) => {
                    let separator = if partition.grub_name.is_empty() { "" } else { "," };
                    let grub_name = format!("hd0{separator}{}", partition.grub_name);
                    found.push(Mounted { name, grub_name, role: partition.role, files });
                }
                Ok(None) => writeln!(out, "{name}: no file system that is known here.")?,
                Err(error) => writeln!(out, "{name}: {error}.")?,
            }
        }
        Ok(Self(found))
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &Mounted)> {
        self.0.iter().enumerate()
    }

    #[must_use]
    pub fn text(&self, volume: usize, path: &str) -> Option<String> {
        read_text(&*self.0.get(volume)?.files, path, TEXT_LIMIT).ok()
    }

    /// A configuration file; none where it is not there. Any other reason that it cannot be read is told.
    pub fn config(
        &self,
        volume: usize,
        path: &str,
        out: &mut dyn Write,
    ) -> Result<Option<String>, fmt::Error> {
        let Some(mounted) = self.0.get(volume) else { return Ok(None) };
        match read_text(&*mounted.files, path, TEXT_LIMIT) {
            Ok(text) => return Ok(Some(text)),
            Err(FileError::NotFound | FileError::NotADirectory) => {}
            Err(error) => writeln!(out, "{}{path}: {error}.", mounted.name)?,
        }
        Ok(None)
    }

    #[must_use]
    pub fn has(&self, volume: usize, path: &str) -> bool {
        self.0
            .get(volume)
            .is_some_and(|volume| volume.files.open(path).is_ok() || volume.files.list(path).is_ok())
    }
}

impl grub::Disks for Volumes {
    fn name(&self, volume: usize) -> String {
        self.0.get(volume).map_or_else(String::new, |volume| volume.grub_name.clone())
    }

    fn by_name(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|volume| volume.grub_name == name)
    }

    fn by_uuid(&self, uuid: &str) -> Option<usize> {
        self.0.iter().position(|volume| volume.files.uuid().eq_ignore_ascii_case(uuid))
    }

    fn by_label(&self, label: &str) -> Option<usize> {
        self.0.iter().position(|volume| volume.files.label() == label)
    }

    fn exists(&self, volume: usize, path: &str) -> bool {
        self.has(volume, path)
    }

    fn read(&self, volume: usize, path: &str) -> Option<String> {
        self.text(volume, path)
    }

    fn volumes(&self) -> usize {
        self.0.len()
    }
}
