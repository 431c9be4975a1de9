//! One repository: an OCI image layout (image-spec 1.1) in a directory. Whoever writes takes care that no reader ever sees half
//! of anything: a blob comes to its place whole, durable and under its own digest, before a manifest that names it; and that
//! before the index lists it. Writers come one after another, in whatever process.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
};

use thiserror::Error;
use uuid::Uuid;

use crate::domain::image::{
    descriptor::Descriptor,
    digest::{Digest, Hasher},
    index::Index,
    manifest::{BadManifest, MANIFEST_MAX_BYTES, Manifest},
    media_type,
    reference::{Tag, Version},
};

/// What says that a directory is a layout, and of which version.
pub const LAYOUT_FILE: &str = "oci-layout";
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const INDEX_FILE: &str = "index.json";
/// Where blobs are while they come. No repository has a name that begins with a dot, so no server takes these for one.
const INCOMING: &str = ".incoming";
const LOCK: &str = ".lock";

#[derive(Debug, Error)]
pub enum LayoutError {
    #[error("cannot use {path:?}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path:?} is no index of images")]
    Index { path: PathBuf, source: BadManifest },
    #[error("the manifest {digest}")]
    Manifest { digest: Digest, source: BadManifest },
    #[error("{0:?} has no such image")]
    NoImage(PathBuf),
    #[error("the blob {digest} is missing in {directory:?}")]
    NoBlob { directory: PathBuf, digest: Digest },
    #[error("the blob {digest} has {found} bytes, and should have {expected}")]
    Size { digest: Digest, expected: u64, found: u64 },
    #[error(
        "the blob {expected} is damaged: what is there has the digest {found}; pull or build the image again, which \
         replaces it"
    )]
    Damaged { expected: Digest, found: Digest },
    #[error("the blob {digest} has {found} bytes, and no more than {max} are read of its kind")]
    TooLong { digest: Digest, max: u64, found: u64 },
    #[error("cannot write as JSON")]
    Json(#[from] serde_json::Error),
}

/// A repository's directory. Nothing is there until something is written.
#[derive(Debug, Clone)]
pub struct Layout {
    directory: PathBuf,
}

impl Layout {
    pub fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// All manifests that there are.
    pub fn index(&self) -> Result<Index, LayoutError> {
        let path = self.directory.join(INDEX_FILE);
        let bytes = match read_at_most(&path, MANIFEST_MAX_BYTES + 1) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Index::default()),
            Err(source) => return Err(LayoutError::File { path, source }),
        };
        Index::read(&bytes).map_err(|source| LayoutError::Index { path, source })
    }

    /// The manifest that a tag or digest stands for.
    pub fn find(&self, version: &Version) -> Result<Descriptor, LayoutError> {
        let found = self.index()?.find(version).cloned();
        found.ok_or_else(|| LayoutError::NoImage(self.directory.clone()))
    }

    /// A manifest, and its bytes.
    pub fn manifest(&self, descriptor: &Descriptor) -> Result<(Manifest, Vec<u8>), LayoutError> {
        let bytes = self.read_blob(descriptor, MANIFEST_MAX_BYTES)?;
        let manifest = Manifest::read(&bytes);
        let digest = descriptor.digest;
        Ok((manifest.map_err(|source| LayoutError::Manifest { digest, source })?, bytes))
    }

    /// A short blob, whose digest was checked.
    pub fn read_blob(&self, descriptor: &Descriptor, max: u64) -> Result<Vec<u8>, LayoutError> {
        let &Descriptor { digest, size: found, .. } = descriptor;
        if found > max {
            return Err(LayoutError::TooLong { digest, max, found });
        }
        let mut bytes = Vec::new();
        let file = self.open_blob(descriptor)?;
        file.take(max).read_to_end(&mut bytes).map_err(|source| self.failed(&self.blob(&digest), source))?;
        match Digest::of(&bytes) {
            found if found == digest => Ok(bytes),
            found => Err(LayoutError::Damaged { expected: digest, found }),
        }
    }

    /// A blob's file, which has its length; whether it has its digest, whoever reads it sees.
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<File, LayoutError> {
        let &Descriptor { digest, size: expected, .. } = descriptor;
        let path = self.blob(&digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LayoutError::NoBlob { directory: self.directory.clone(), digest });
            }
            file => file.map_err(|source| self.failed(&path, source))?,
        };
        let found = file.metadata().map_err(|source| self.failed(&path, source))?.len();
        if found == expected { Ok(file) } else { Err(LayoutError::Size { digest, expected, found }) }
    }

    /// A place for a blob that is to come; it is gone again unless it is kept.
    pub fn incoming(&self) -> Result<Incoming<'_>, LayoutError> {
        let _lock = self.lock()?;
        let folder = self.directory.join(INCOMING);
        let begin = || {
            fs::create_dir_all(&folder)?;
            sweep(&folder)?;
            let path = folder.join(Uuid::new_v4().to_string());
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            // Says that somebody is still writing it.
            file.lock()?;
            Ok((path, file))
        };
        let (path, file) = begin().map_err(|source| self.failed(&folder, source))?;
        Ok(Incoming { layout: self, path, file })
    }

    /// Keeps a blob that is at hand.
    pub fn add_blob(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, LayoutError> {
        let descriptor = Descriptor::of(media_type, bytes);
        // One that is damaged is replaced.
        if self.read_blob(&descriptor, descriptor.size).is_err() {
            let mut incoming = self.incoming()?;
            incoming.file.write_all(bytes).map_err(|source| self.failed(&incoming.path, source))?;
            incoming.keep(&descriptor.digest)?;
        }
        Ok(descriptor)
    }

    /// Lists a manifest all of whose blobs are here.
    pub fn add_manifest(
        &self,
        manifest: &Manifest,
        bytes: &[u8],
        tag: Option<&Tag>,
    ) -> Result<Descriptor, LayoutError> {
        for blob in manifest.blobs() {
            self.open_blob(blob)?;
        }
        self.add_blob(media_type::MANIFEST, bytes)?;
        let descriptor = manifest.descriptor(bytes);
        let _lock = self.lock()?;
        let mut index = self.index()?;
        index.add(descriptor.clone(), tag);
        self.write(INDEX_FILE, &index.to_bytes()?)?;
        Ok(descriptor)
    }

    /// The manifests about another, by what they say themselves. One that is damaged says nothing.
    pub fn referrers(&self, subject: &Digest) -> Result<Vec<(Descriptor, Manifest)>, LayoutError> {
        let mut found = Vec::new();
        for entry in self.index()?.manifests {
            let Ok((manifest, _)) = self.manifest(&entry) else { continue };
            if manifest.is_about(subject) {
                found.push((entry, manifest));
            }
        }
        Ok(found)
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn blobs(&self) -> PathBuf {
        self.directory.join("blobs/sha256")
    }

    /// Waits until nobody else changes this layout; makes one where there is none.
    fn lock(&self) -> Result<File, LayoutError> {
        let begin = || {
            fs::create_dir_all(self.blobs())?;
            let lock = File::create(self.directory.join(LOCK))?;
            lock.lock()?;
            Ok(lock)
        };
        let lock = begin().map_err(|source| self.failed(&self.directory, source))?;
        if !self.directory.join(LAYOUT_FILE).exists() {
            self.begin()?;
        }
        Ok(lock)
    }

    /// Makes a layout of the directory; an index that is there already stays.
    fn begin(&self) -> Result<(), LayoutError> {
        if !self.directory.join(INDEX_FILE).exists() {
            self.write(INDEX_FILE, &Index::default().to_bytes()?)?;
        }
        self.write(LAYOUT_FILE, LAYOUT.as_bytes())?;
        // Directories that were made on the way are as durable as what will be in them, up to where we may look.
        for directory in self.blobs().ancestors() {
            let Ok(directory) = File::open(directory) else { break };
            directory.sync_all().map_err(|source| self.failed(&self.directory, source))?;
        }
        Ok(())
    }

    /// Replaces a file whole; only who holds the lock does.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), LayoutError> {
        let (path, new) = (self.directory.join(name), self.directory.join(format!(".{name}.new")));
        let replace = || {
            let mut file = File::create(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        replace().map_err(|source| self.failed(&path, source))
    }

    fn failed(&self, path: &Path, source: io::Error) -> LayoutError {
        LayoutError::File { path: path.to_owned(), source }
    }
}

/// What writers that died left behind, which nobody holds any more.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        match sweep_one(&entry?.path()) {
            // Its writer was done with it in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            swept => swept?,
        }
    }
    Ok(())
}

fn sweep_one(path: &Path) -> io::Result<()> {
    if File::open(path)?.try_lock().is_ok() { fs::remove_file(path) } else { Ok(()) }
}

fn read_at_most(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A blob while it comes.
#[derive(Debug)]
pub struct Incoming<'a> {
    layout: &'a Layout,
    path: PathBuf,
    file: File,
}

impl Incoming<'_> {
    /// What is to be written to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Where it is for now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same file once more.
    pub fn file_again(&self) -> Result<File, LayoutError> {
        self.file.try_clone().map_err(|source| self.layout.failed(&self.path, source))
    }

    /// Puts it into its place, durable; that it has this digest, the caller has seen.
    pub fn keep(self, digest: &Digest) -> Result<(), LayoutError> {
        let blob = self.layout.blob(digest);
        let keep = || {
            self.file.sync_all()?;
            fs::rename(&self.path, &blob)?;
            File::open(self.layout.blobs())?.sync_all()
        };
        keep().map_err(|source| self.layout.failed(&blob, source))
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        // It is not there any more where it was kept.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes on, and knows the digest and length of all that it wrote.
#[derive(Debug)]
pub(super) struct Hashed<W> {
    inner: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> Hashed<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::default(), bytes: 0 }
    }

    /// What was written.
    pub(super) fn descriptor(self, media_type: &str) -> Descriptor {
        Descriptor::new(media_type, self.hasher.finish(), self.bytes)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
