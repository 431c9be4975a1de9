//! The OS images that this host can start: a directory each, described by its `image.json`.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;

use crate::{
    api::agent::OsImage,
    domain::terms::{OS_IMAGES_MAX, is_os_image_name},
};

/// Longest description that is read, in bytes.
const DESCRIPTION_MAX: u64 = 64 * 1024;

/// An image that is complete: what it is called and what it boots with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootableImage {
    pub about: OsImage,
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
    pub command_line: String,
}

/// `image.json`; the paths are relative to its directory and stay inside it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    name: String,
    os: String,
    kernel_release: String,
    kernel: PathBuf,
    #[serde(default)]
    initrd: Option<PathBuf>,
    command_line: String,
}

#[derive(Debug, Error)]
pub enum ImageError {
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} does not describe an OS image")]
    Description { path: PathBuf, source: serde_json::Error },
    #[error("{path:?} is longer than {DESCRIPTION_MAX} bytes")]
    TooLong { path: PathBuf },
    #[error("{path:?}: the image must be named as its directory, not {name:?}")]
    Name { path: PathBuf, name: String },
    #[error("{path:?}: {file:?} leads out of the image's directory")]
    Outside { path: PathBuf, file: PathBuf },
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
        let path = self.directory.join(name).join("image.json");
        if !is_os_image_name(name) || !path.exists() {
            return Ok(None);
        }
        let description = read(&path)?;
        if description.name != name {
            return Err(ImageError::Name { path, name: description.name });
        }
        let directory = self.directory.join(name);
        let inside = |file: &Path| match is_inside(file) {
            true => Ok(directory.join(file)),
            false => Err(ImageError::Outside { path: path.clone(), file: file.to_owned() }),
        };
        let Description { name, os, kernel_release, kernel, initrd, command_line } = description;
        Ok(Some(BootableImage {
            about: OsImage { name, os, kernel_release },
            kernel: inside(&kernel)?,
            initrd: initrd.as_deref().map(inside).transpose()?,
            command_line,
        }))
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

fn read(path: &Path) -> Result<Description, ImageError> {
    let failed = |source| ImageError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > DESCRIPTION_MAX {
        return Err(ImageError::TooLong { path: path.to_owned() });
    }
    let text = fs::read(path).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|source| ImageError::Description { path: path.to_owned(), source })
}

fn is_inside(file: &Path) -> bool {
    file.components().all(|part| matches!(part, Component::Normal(_))) && file.components().next().is_some()
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
    fn a_file_outside_the_images_directory_is_refused() {
        for file in ["../other/vmlinuz", "/boot/vmlinuz", "a/../../b", ".", ""] {
            let mut image = description("a");
            image["kernel"] = file.into();
            let (_root, cache) = cache(&[("a", image)]);
            assert!(matches!(cache.find("a"), Err(ImageError::Outside { .. })), "{file:?}");
        }
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
        ]);
        let names: Vec<String> = cache.list().into_iter().map(|image| image.name).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn a_missing_directory_has_no_images() {
        assert_eq!(ImageCache::new("/nonexistent".into()).list(), []);
    }
}
