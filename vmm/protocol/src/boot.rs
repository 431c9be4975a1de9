//! The files of an operating system, which the VMM, being jailed, cannot open itself.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use thiserror::Error;

use crate::config::BaseSource;

/// Most descriptors that come with a `boot` request: kernel, initrd, what lies under a disk, and the map of what of that has
/// arrived.
pub const BOOT_FILES_MAX: usize = 4;

#[derive(Debug, Error)]
pub enum OpenBootFileError {
    #[error("{what} {path:?} cannot be opened")]
    Open { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{what} {path:?} is not a file")]
    NotAFile { what: &'static str, path: PathBuf },
}

/// What a machine boots from, open for reading.
#[derive(Debug)]
pub struct BootFiles {
    /// bzImage or uncompressed 64-bit ELF kernel.
    pub(crate) kernel: File,
    pub(crate) initrd: Option<File>,
    pub(crate) base: Option<(BaseSource, BaseFiles)>,
}

/// What lies under a disk.
#[derive(Debug)]
pub struct BaseFiles {
    pub content: File,
    /// Which chunks of it have arrived; none: all.
    pub arrived: Option<File>,
}

impl BootFiles {
    pub fn open(kernel: &Path, initrd: Option<&Path>) -> Result<Self, OpenBootFileError> {
        Ok(Self {
            kernel: open("kernel", kernel)?,
            initrd: initrd.map(|path| open("initrd", path)).transpose()?,
            base: None,
        })
    }

    /// The same with `bytes` of these files under a disk.
    pub fn over(self, disk: usize, bytes: u64, files: BaseFiles) -> Self {
        let source = BaseSource { disk, bytes, is_arriving: files.arrived.is_some() };
        Self { base: Some((source, files)), ..self }
    }

    /// In the order in which the VMM expects them.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let base =
            self.base.iter().flat_map(|(_, files)| std::iter::once(&files.content).chain(&files.arrived));
        std::iter::once(&self.kernel).chain(&self.initrd).chain(base).map(File::as_fd).collect()
    }
}

fn open(what: &'static str, path: &Path) -> Result<File, OpenBootFileError> {
    // A pipe in the place of a file must keep nobody waiting.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path);
    match file.and_then(|file| Ok((file.metadata()?.is_file(), file))) {
        Ok((true, file)) => Ok(file),
        Ok((false, _)) => Err(OpenBootFileError::NotAFile { what, path: path.to_owned() }),
        Err(source) => Err(OpenBootFileError::Open { what, path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_file_that_is_missing_or_none_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (kernel, pipe) = (directory.path().join("vmlinux"), directory.path().join("pipe"));
        std::fs::write(&kernel, "").unwrap();
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(BootFiles::open(&kernel, Some(&kernel)).unwrap().descriptors().len(), 2);
        assert_eq!(BootFiles::open(&kernel, None).unwrap().descriptors().len(), 1);
        let missing = BootFiles::open(&kernel, Some(Path::new("/nonexistent"))).unwrap_err();
        assert_eq!(missing.to_string(), r#"initrd "/nonexistent" cannot be opened"#);
        for path in [pipe.as_path(), directory.path()] {
            assert!(matches!(BootFiles::open(path, None), Err(OpenBootFileError::NotAFile { .. })));
        }
    }
}
