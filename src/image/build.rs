//! Images are made: of a kernel with an initial RAM disk, or of a raw disk.

use std::{
    fs::File,
    io::{self, BufWriter, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use thiserror::Error;

use super::{
    layout::{Hashed, Incoming, Layout, LayoutError},
    pack::pack,
};
use crate::domain::image::{
    chunks::{BadDiskSize, DiskSize},
    config::BadConfig,
    contents::{Boot, Disk, FILE_MAX_BYTES, Image},
    descriptor::{CREATED, Descriptor},
    manifest::Manifest,
    media_type,
    reference::Tag,
};

/// How much is written at once, in bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// What is said of an image.
#[derive(Debug, Clone)]
pub struct About {
    pub os: String,
    pub architecture: String,
    pub kernel_release: Option<String>,
    pub title: Option<String>,
    pub created: Timestamp,
}

/// What it is made of.
#[derive(Debug, Clone)]
pub enum Source {
    Kernel {
        kernel: PathBuf,
        initrd: Option<PathBuf>,
        command_line: String,
    },
    /// A raw disk.
    Disk(PathBuf),
}

/// How much of what has been read, in bytes.
pub type Progress<'a> = dyn FnMut(u64, u64) + Send + 'a;

#[derive(Debug, Error)]
pub enum BuildError {
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} has {found} bytes; a kernel or an initial RAM disk has 1 to {FILE_MAX_BYTES}")]
    FileSize { path: PathBuf, found: u64 },
    #[error("{path:?} is no disk")]
    DiskSize { path: PathBuf, source: BadDiskSize },
    #[error("{path:?} cannot be packed")]
    Pack { path: PathBuf, source: io::Error },
    #[error("what is said of the image")]
    About(#[from] BadConfig),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("cannot write as JSON")]
    Json(#[from] serde_json::Error),
}

/// Makes an image and lists it in a layout, under a tag where one is stated.
pub fn build(
    layout: &Layout,
    tag: Option<&Tag>,
    about: About,
    source: &Source,
    progress: &mut Progress<'_>,
) -> Result<Descriptor, BuildError> {
    let boot = match source {
        Source::Kernel { kernel, initrd, command_line } => Boot::Kernel {
            kernel: add_file(layout, media_type::KERNEL, kernel)?,
            initrd: initrd.as_deref().map(|file| add_file(layout, media_type::INITRD, file)).transpose()?,
            command_line: command_line.clone(),
        },
        Source::Disk(path) => Boot::Disk(add_disk(layout, path, progress)?),
    };
    let About { os, architecture, kernel_release, title, created } = about;
    let image = Image { os, architecture, kernel_release, title, boot };
    let manifest = complete(layout, &image, created)?;
    Ok(layout.add_manifest(&manifest, &manifest.to_bytes()?, tag)?)
}

/// The manifest of an image whose layers are stored.
fn complete(layout: &Layout, image: &Image, created: Timestamp) -> Result<Manifest, BuildError> {
    let config = image.config();
    config.check()?;
    let config = layout.add_blob(media_type::CONFIG, &config.to_bytes()?)?;
    let mut manifest = image.manifest(config);
    manifest.annotations.insert(CREATED.to_owned(), format!("{created:.0}"));
    Ok(manifest)
}

fn add_file(layout: &Layout, media_type: &str, path: &Path) -> Result<Descriptor, BuildError> {
    let failed = |source| BuildError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?.len();
    if !(1..=FILE_MAX_BYTES).contains(&found) {
        return Err(BuildError::FileSize { path: path.to_owned(), found });
    }
    let mut incoming = layout.incoming()?;
    let mut hashed = Hashed::new(incoming.file());
    io::copy(&mut file, &mut hashed).map_err(failed)?;
    let descriptor = hashed.descriptor(media_type);
    incoming.keep(&descriptor.digest)?;
    Ok(descriptor)
}

fn add_disk(layout: &Layout, path: &Path, progress: &mut Progress<'_>) -> Result<Disk, BuildError> {
    let failed = |source| BuildError::Read { path: path.to_owned(), source };
    let mut raw = File::open(path).map_err(failed)?;
    // A block device has no length but by its end.
    let size = DiskSize::new(raw.seek(io::SeekFrom::End(0)).map_err(failed)?)
        .map_err(|source| BuildError::DiskSize { path: path.to_owned(), source })?;
    let (mut packed, mut table) = (layout.incoming()?, layout.incoming()?);
    let (mut disk, mut chunks) = (writer(&mut packed), writer(&mut table));
    let root = pack(&raw, size, &mut disk, &mut chunks, &mut |read| progress(read, size.bytes()))
        .and_then(|root| disk.flush().and_then(|()| chunks.flush()).map(|()| root));
    let merkle_root = root.map_err(|source| BuildError::Pack { path: path.to_owned(), source })?;
    let disk = disk.descriptor(media_type::DISK);
    let chunks = chunks.descriptor(media_type::CHUNKS);
    packed.keep(&disk.digest)?;
    table.keep(&chunks.digest)?;
    Ok(Disk { size, merkle_root, disk, chunks })
}

fn writer<'a>(incoming: &'a mut Incoming<'_>) -> Hashed<BufWriter<&'a mut File>> {
    Hashed::new(BufWriter::with_capacity(BUFFER_BYTES, incoming.file()))
}

#[cfg(test)]
mod tests;
