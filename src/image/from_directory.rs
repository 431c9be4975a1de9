//! The directories that `images/build.sh` makes: an `image.json` and the files that it names.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;

use super::build::Source;

/// Longest `image.json` that is read, in bytes.
const DESCRIPTION_MAX: u64 = 64 * 1024;

/// What `image.json` says; the paths are relative to its directory and stay inside it.
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

/// An image in a directory.
#[derive(Debug)]
pub struct Described {
    pub name: String,
    pub os: String,
    pub kernel_release: String,
    pub source: Source,
}

#[derive(Debug, Error)]
pub enum DescriptionError {
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} does not describe an OS image")]
    Description { path: PathBuf, source: serde_json::Error },
    #[error("{path:?}: {file:?} leads out of the image's directory")]
    Outside { path: PathBuf, file: PathBuf },
}

pub fn read(directory: &Path) -> Result<Described, DescriptionError> {
    let path = directory.join("image.json");
    let mut text = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(DESCRIPTION_MAX).read_to_end(&mut text))
        .map_err(|source| DescriptionError::Read { path: path.clone(), source })?;
    let Description { name, os, kernel_release, kernel, initrd, command_line } =
        serde_json::from_slice(&text)
            .map_err(|source| DescriptionError::Description { path: path.clone(), source })?;
    let inside = |file: PathBuf| match file.components().all(|part| matches!(part, Component::Normal(_))) {
        true => Ok(directory.join(file)),
        false => Err(DescriptionError::Outside { path: path.clone(), file }),
    };
    let (kernel, initrd) = (inside(kernel)?, initrd.map(inside).transpose()?);
    Ok(Described { name, os, kernel_release, source: Source::Kernel { kernel, initrd, command_line } })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_are_taken_from_the_images_own_directory() {
        let root = tempfile::tempdir().unwrap();
        let write = |kernel: &str| {
            let text = serde_json::json!({ "name": "a", "os": "Debian 12", "kernel_release": "6.12", "kernel": kernel,
                "command_line": "quiet" });
            fs::write(root.path().join("image.json"), text.to_string()).unwrap();
            read(root.path())
        };
        assert!(matches!(read(root.path()), Err(DescriptionError::Read { .. })));
        let described = write("vmlinuz").unwrap();
        let kernel = root.path().join("vmlinuz");
        assert!(matches!(described.source, Source::Kernel { kernel: at, initrd: None, .. } if at == kernel));
        for outside in ["../vmlinuz", "/boot/vmlinuz"] {
            assert!(matches!(write(outside), Err(DescriptionError::Outside { .. })), "{outside}");
        }
    }
}
