//! All images of this machine: a directory in which each repository is a layout at its name's path, as `sublet-images` serves it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::layout::{LAYOUT_FILE, Layout, LayoutError};
use crate::domain::image::{
    config::CONFIG_MAX_BYTES,
    contents::{BadImage, Image},
    descriptor::Descriptor,
    digest::Digest,
    manifest::Manifest,
    reference::{RepositoryName, Version},
};

/// How many parts of a name are looked through.
const DEPTH_MAX: usize = 16;

#[derive(Debug, Clone)]
pub struct ImageStore {
    root: PathBuf,
}

/// An image that is here.
#[derive(Debug, Clone)]
pub struct StoredImage {
    pub manifest: Manifest,
    pub descriptor: Descriptor,
    pub image: Image,
}

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("cannot look through {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("the manifest {digest}")]
    Image { digest: Digest, source: Box<BadImage> },
}

impl ImageStore {
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn layout(&self, name: &RepositoryName) -> Layout {
        Layout::at(self.root.join(name.as_str()))
    }

    /// An image, with all that its manifest and config say of it.
    pub fn image(&self, name: &RepositoryName, version: &Version) -> Result<StoredImage, StoreError> {
        let layout = self.layout(name);
        read_image(&layout, layout.find(version)?)
    }

    /// All repositories that there are, by name.
    pub fn repositories(&self) -> Result<Vec<RepositoryName>, StoreError> {
        let mut found = Vec::new();
        look_through(&self.root, "", 0, &mut found)?;
        found.sort();
        Ok(found)
    }
}

/// Reads a layout's manifest, and its config, as an image.
pub fn read_image(layout: &Layout, descriptor: Descriptor) -> Result<StoredImage, StoreError> {
    let (manifest, _) = layout.manifest(&descriptor)?;
    let failed = |source| StoreError::Image { digest: descriptor.digest, source: Box::new(source) };
    let config = layout.read_blob(Image::expects_config(&manifest).map_err(failed)?, CONFIG_MAX_BYTES)?;
    let image = Image::read(&manifest, &config).map_err(failed)?;
    Ok(StoredImage { manifest, descriptor, image })
}

fn look_through(
    directory: &Path,
    name: &str,
    depth: usize,
    found: &mut Vec<RepositoryName>,
) -> Result<(), StoreError> {
    let failed = |source| StoreError::Read { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Ok(part) = entry.file_name().into_string() else { continue };
        let name = if name.is_empty() { part } else { format!("{name}/{part}") };
        // A link is not followed: what lies elsewhere is not of this store.
        let is_directory = entry.file_type().map_err(failed)?.is_dir();
        let Some(repository) = is_directory.then(|| name.parse().ok()).flatten() else { continue };
        if entry.path().join(LAYOUT_FILE).is_file() {
            found.push(repository);
        }
        if depth < DEPTH_MAX {
            look_through(&entry.path(), &name, depth + 1, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::image::media_type;

    #[test]
    fn repositories_are_found_at_any_depth_and_nothing_else_is() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::at(root.path().to_owned());
        assert_eq!(ImageStore::at(root.path().join("none")).repositories().unwrap(), []);
        for name in ["debian", "debian/12", "a/b/c"] {
            store.layout(&name.parse().unwrap()).add_blob(media_type::CONFIG, b"").unwrap();
        }
        fs::create_dir(root.path().join("empty")).unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink(root.path().join("debian"), root.path().join("link")).unwrap();
        let names = store.repositories().unwrap();
        assert_eq!(
            names.iter().map(RepositoryName::as_str).collect::<Vec<_>>(),
            ["a/b/c", "debian", "debian/12"]
        );
    }
}
