//! The directory that is served. Nothing outside of it is ever opened, whatever names and links there are in it: the kernel
//! resolves each path beneath it, and follows no link.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, open, openat2},
    io::Errno,
};

use super::refusal::{Code, Refusal};
use crate::{
    domain::image::{digest::Digest, index::Index, manifest::MANIFEST_MAX_BYTES, reference::RepositoryName},
    image::store::{ImageStore, StoreError},
};

pub(super) struct ImageDirectory {
    root: OwnedFd,
    path: PathBuf,
}

/// A file that is there, as it was when it was opened.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) bytes: u64,
}

impl ImageDirectory {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: open(path, flags, Mode::empty())?, path: path.to_owned() })
    }

    /// Whether it can still be read.
    pub(super) fn check(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat2(&self.root, ".", flags, Mode::empty(), ResolveFlags::BENEATH).map(drop)?)
    }

    pub(super) fn repositories(&self) -> Result<Vec<RepositoryName>, StoreError> {
        ImageStore::at(self.path.clone()).repositories()
    }

    /// All manifests of a repository.
    pub(super) fn index(&self, name: &RepositoryName) -> Result<Index, Refusal> {
        let found = self.file(&format!("{name}/index.json"))?;
        let Some(Opened { file, .. }) = found else {
            return Err(Refusal::new(Code::NameUnknown, format!("there is no repository {name}")));
        };
        let mut bytes = Vec::new();
        file.take(MANIFEST_MAX_BYTES + 1).read_to_end(&mut bytes)?;
        Index::read(&bytes)
            .map_err(|error| Refusal::failed(Code::Unknown, &format!("the repository {name}"), &error))
    }

    pub(super) fn blob(&self, name: &RepositoryName, digest: &Digest) -> io::Result<Option<Opened>> {
        self.file(&format!("{name}/blobs/sha256/{}", digest.hex()))
    }

    /// A file beneath the directory. None: there is none, or what is there is something else.
    fn file(&self, path: &str) -> io::Result<Option<Opened>> {
        // A pipe would be waited for otherwise.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let file = match openat2(&self.root, path, flags, Mode::empty(), beneath) {
            Ok(file) => File::from(file),
            Err(
                Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG | Errno::NXIO,
            ) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let about = file.metadata()?;
        Ok(about.is_file().then(|| Opened { file, bytes: about.len() }))
    }
}
