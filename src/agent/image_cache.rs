//! The OS images that this host can start: a directory each, described by its `image.json`.

use std::{fs, path::PathBuf};

use thiserror::Error;

use crate::{
    api::agent::OsImage,
    domain::terms::{OS_IMAGES_MAX, is_os_image_name},
    image::{
        build::Source,
        from_directory::{self, Described, DescriptionError},
    },
};

/// An image that is complete: what it is called and what it boots with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootableImage {
    pub about: OsImage,
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
    pub command_line: String,
}

#[derive(Debug, Error)]
pub enum ImageError {
    #[error(transparent)]
    Description(#[from] DescriptionError),
    #[error("{directory:?}: the image must be named as its directory, not {name:?}")]
    Name { directory: PathBuf, name: String },
    #[error("{0:?} boots from a disk of its own, which hosts cannot start yet")]
    Disk(PathBuf),
}

/// The directory of images.
#[derive(Debug, Clone)]
pub struct ImageCache {
    directory: PathBuf,
}

impl ImageCache {
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// All images that can be started, by name; one that cannot is left out and said so in the log.
    pub fn list(&self) -> Vec<OsImage> {
        let mut images: Vec<_> = self.names().iter().filter_map(|name| self.usable(name)).collect();
        images.truncate(OS_IMAGES_MAX);
        images
    }

    fn usable(&self, name: &str) -> Option<OsImage> {
        match self.find(name) {
            Ok(image) => image.map(|image| image.about),
            Err(error) => {
                tracing::warn!(
                    image = name,
                    error = crate::api::http::chain(&error),
                    "an OS image is unusable"
                );
                None
            }
        }
    }

    /// The image of this name; none: there is no such image.
    pub fn find(&self, name: &str) -> Result<Option<BootableImage>, ImageError> {
        let directory = self.directory.join(name);
        if !is_os_image_name(name) || !from_directory::description_of(&directory).exists() {
            return Ok(None);
        }
        let Described { name: own, os, kernel_release, source } = from_directory::read(&directory)?;
        if own != name {
            return Err(ImageError::Name { directory, name: own });
        }
        let Source::Kernel { kernel, initrd, command_line } = source else {
            return Err(ImageError::Disk(directory));
        };
        let about = OsImage { name: own, os, kernel_release };
        Ok(Some(BootableImage { about, kernel, initrd, command_line }))
    }

    fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.retain(|name| is_os_image_name(name));
        names.sort();
        names
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn description(name: &str) -> Value {
        json!({ "name": name, "os": "Debian 12 (micro)", "kernel_release": "6.12.1",
                "kernel": "vmlinuz", "initrd": "initrd", "command_line": "console=ttyS0" })
    }

    fn cache(images: &[(&str, Value)]) -> (tempfile::TempDir, ImageCache) {
        let root = tempfile::tempdir().unwrap();
        for (directory, description) in images {
            let directory = root.path().join(directory);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("image.json"), description.to_string()).unwrap();
        }
        let cache = ImageCache::new(root.path().to_owned());
        (root, cache)
    }

    #[test]
    fn an_image_boots_with_files_of_its_own_directory() {
        let (root, cache) = cache(&[("debian-micro", description("debian-micro"))]);
        let image = cache.find("debian-micro").unwrap().unwrap();
        assert_eq!(image.kernel, root.path().join("debian-micro/vmlinuz"));
        assert_eq!(image.initrd, Some(root.path().join("debian-micro/initrd")));
        assert_eq!(image.about.kernel_release, "6.12.1");
    }

    #[test]
    fn a_name_that_is_a_path_finds_nothing() {
        let (_root, cache) = cache(&[("a", description("a"))]);
        for name in ["../a", "a/", "", ".", "b"] {
            assert_eq!(cache.find(name).unwrap(), None, "{name:?}");
        }
    }

    #[test]
    fn only_usable_images_are_listed_by_name() {
        let (_root, cache) = cache(&[
            ("b", description("b")),
            ("a", description("a")),
            ("renamed", description("other")),
            ("broken", json!({ "name": "broken" })),
            ("disk", json!({ "name": "disk", "os": "x", "kernel_release": "x", "disk": "disk.img" })),
        ]);
        let names: Vec<String> = cache.list().into_iter().map(|image| image.name).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn a_missing_directory_has_no_images() {
        assert_eq!(ImageCache::new("/nonexistent".into()).list(), []);
    }
}
