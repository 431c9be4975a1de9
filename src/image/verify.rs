//! An image is verified: every byte of every blob, and every chunk of a disk by itself.

use std::{
    fs::File,
    io::{self, Read},
};

use thiserror::Error;

use super::{
    build::Progress,
    disk::{DiskError, PackedDisk},
    layout::{Layout, LayoutError},
    store::StoredImage,
};
use crate::domain::image::{
    chunks::Place,
    contents::{Boot, Disk},
    descriptor::Descriptor,
    digest::{Digest, Hasher},
};

#[derive(Debug, Error)]
pub enum VerifyError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("the blob {digest} cannot be read")]
    Read { digest: Digest, source: io::Error },
}

/// Reads all that an image has. `progress` is told how much of it was read.
pub fn verify(layout: &Layout, stored: &StoredImage, progress: &mut Progress<'_>) -> Result<(), VerifyError> {
    let whole: u64 = stored.manifest.blobs().map(|blob| blob.size).sum();
    let mut read = 0;
    for blob in stored.manifest.blobs() {
        verify_blob(layout, blob, &mut |more| {
            read += more;
            progress(read, whole);
        })?;
    }
    match &stored.image.boot {
        Boot::Disk(disk) => verify_disk(layout, disk, progress),
        Boot::Kernel { .. } => Ok(()),
    }
}

/// Reads a blob, and checks its digest. `progress` is told how much more was read.
pub fn verify_blob(
    layout: &Layout,
    blob: &Descriptor,
    progress: &mut dyn FnMut(u64),
) -> Result<(), VerifyError> {
    let (digest, mut file) = (blob.digest, layout.open_blob(blob)?);
    let found = digest_of(&mut file, progress).map_err(|source| VerifyError::Read { digest, source })?;
    if found == digest {
        return Ok(());
    }
    Err(LayoutError::Damaged { expected: digest, found }.into())
}

fn digest_of(file: &mut File, progress: &mut dyn FnMut(u64)) -> io::Result<Digest> {
    let (mut hasher, mut piece) = (Hasher::default(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finish()),
            read => {
                hasher.update(&piece[..read]);
                progress(read as u64);
            }
        }
    }
}

fn verify_disk(layout: &Layout, disk: &Disk, progress: &mut Progress<'_>) -> Result<(), VerifyError> {
    let packed = PackedDisk::open(layout, disk)?;
    for chunk in 0..disk.size.chunks() {
        if let Some(Place::Stored { offset, bytes }) = packed.map().place(chunk) {
            packed.chunk(chunk)?;
            progress(offset + u64::from(bytes), disk.disk.size);
        }
    }
    Ok(())
}
