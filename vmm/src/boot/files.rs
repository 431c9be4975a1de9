//! The descriptors that come with a `boot` request.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{FileType, SeekFrom, fstat, seek},
    io::Errno,
};
use sublet_vmm_protocol::BootSource;
use thiserror::Error;

use crate::block::layer::base::{Base, BaseError};

#[derive(Debug, Error)]
pub enum FilesError {
    #[error("{needed} descriptors must come with this boot request, not {got}")]
    Count { needed: usize, got: usize },
    #[error("the {0} is not a file")]
    NotAFile(&'static str),
    #[error("the {what} cannot be read from its start")]
    Unusable { what: &'static str, source: Errno },
    #[error(transparent)]
    Base(#[from] BaseError),
}

/// Kernel and initrd, at their start, and what lies under a disk.
#[derive(Debug)]
pub struct Files {
    pub(super) kernel: File,
    pub(super) initrd: Option<File>,
    pub(crate) base: Option<Base>,
}

impl Files {
    /// Takes exactly what the source says has come.
    pub fn of(source: &BootSource, descriptors: Vec<OwnedFd>) -> Result<Self, FilesError> {
        let of_base = source.base.as_ref().map_or(0, |base| 1 + usize::from(base.is_arriving));
        let (needed, got) = (1 + usize::from(source.has_initrd) + of_base, descriptors.len());
        if needed != got {
            return Err(FilesError::Count { needed, got });
        }
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or(FilesError::Count { needed, got });
        let kernel = file("kernel", next()?)?;
        let initrd = source.has_initrd.then(|| file("initrd", next()?)).transpose()?;
        let base = match &source.base {
            None => None,
            Some(base) => {
                let (content, map) = (next()?, base.is_arriving.then(&mut next).transpose()?);
                Some(Base::open(base, content, map)?)
            }
        };
        Ok(Self { kernel, initrd, base })
    }
}

/// Its place is shared with whoever sent it, so it may be anywhere.
fn file(what: &'static str, descriptor: OwnedFd) -> Result<File, FilesError> {
    let failed = |source| FilesError::Unusable { what, source };
    let about = fstat(&descriptor).map_err(failed)?;
    if FileType::from_raw_mode(about.st_mode) != FileType::RegularFile {
        return Err(FilesError::NotAFile(what));
    }
    seek(&descriptor, SeekFrom::Start(0)).map_err(failed)?;
    Ok(descriptor.into())
}

/// In bytes. Asked of the descriptor, as the standard library would ask by a path (statx(2)).
pub(super) fn size_of(file: impl AsFd) -> Result<u64, Errno> {
    Ok(fstat(file)?.st_size.cast_unsigned())
}
