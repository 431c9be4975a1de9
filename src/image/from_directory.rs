//! The directories that `images/build.sh` makes: an `image.json` and the files that it names.

use std::{
    fs, io,
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
    #[serde(default)]
    kernel: Option<PathBuf>,
    #[serde(default)]
    initrd: Option<PathBuf>,
    #[serde(default)]
    command_line: Option<String>,
    /// A raw disk, which has a kernel of its own.
    #[serde(default)]
    disk: Option<PathBuf>,
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
    #[error("{path:?} is longer than {DESCRIPTION_MAX} bytes")]
    TooLong { path: PathBuf },
    #[error("{0:?} has to name a kernel with its command line, or else a disk")]
    Boot(PathBuf),
    #[error("{path:?}: {file:?} leads out of the image's directory")]
    Outside { path: PathBuf, file: PathBuf },
}

pub fn read(directory: &Path) -> Result<Described, DescriptionError> {
    let path = description_of(directory);
    let text = text_of(&path)?;
    let Description { name, os, kernel_release, kernel, initrd, command_line, disk } =
        serde_json::from_slice(&text)
            .map_err(|source| DescriptionError::Description { path: path.clone(), source })?;
    let inside = |file: PathBuf| match is_inside(&file) {
        true => Ok(directory.join(file)),
        false => Err(DescriptionError::Outside { path: path.clone(), file }),
    };
    let source = match (kernel, initrd, command_line, disk) {
        (Some(kernel), initrd, Some(command_line), None) => {
            let (kernel, initrd) = (inside(kernel)?, initrd.map(inside).transpose()?);
            Source::Kernel { kernel, initrd, command_line }
        }
        (None, None, None, Some(disk)) => Source::Disk(inside(disk)?),
        _ => return Err(DescriptionError::Boot(path)),
    };
    Ok(Described { name, os, kernel_release, source })
}

/// Where a directory says what it is.
pub fn description_of(directory: &Path) -> PathBuf {
    directory.join("image.json")
}

fn text_of(path: &Path) -> Result<Vec<u8>, DescriptionError> {
    let failed = |source| DescriptionError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > DESCRIPTION_MAX {
        return Err(DescriptionError::TooLong { path: path.to_owned() });
    }
    fs::read(path).map_err(failed)
}

fn is_inside(file: &Path) -> bool {
    file.components().all(|part| matches!(part, Component::Normal(_))) && file.components().next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of a description with these fields beside those that each has.
    fn read_with(fields: &str) -> (tempfile::TempDir, Result<Described, DescriptionError>) {
        let root = tempfile::tempdir().unwrap();
        let text = format!(r#"{{"name": "a", "os": "Debian 12", "kernel_release": "6.12", {fields}}}"#);
        fs::write(root.path().join("image.json"), text).unwrap();
        let read = read(root.path());
        (root, read)
    }

    #[test]
    fn files_are_taken_from_the_images_own_directory() {
        let (root, described) = read_with(r#""kernel": "vmlinuz", "command_line": "quiet""#);
        let kernel = root.path().join("vmlinuz");
        let source = described.unwrap().source;
        assert!(matches!(source, Source::Kernel { kernel: at, initrd: None, .. } if at == kernel));
        let (root, described) = read_with(r#""disk": "disk.img""#);
        let disk = root.path().join("disk.img");
        assert!(matches!(described.unwrap().source, Source::Disk(at) if at == disk));
        for outside in ["../disk", "/dev/sda", "a/../../b", ".", ""] {
            let (_root, described) = read_with(&format!(r#""disk": "{outside}""#));
            assert!(matches!(described, Err(DescriptionError::Outside { .. })), "{outside}");
        }
    }

    #[test]
    fn a_directory_that_does_not_say_what_to_boot_is_refused() {
        for fields in [
            r#""kernel": "vmlinuz""#,
            r#""command_line": "quiet""#,
            r#""kernel": "vmlinuz", "command_line": "quiet", "disk": "disk.img""#,
            r#""initrd": "initrd", "disk": "disk.img""#,
        ] {
            assert!(matches!(read_with(fields).1, Err(DescriptionError::Boot(_))), "{fields}");
        }
        let (_root, long) = read_with(&format!(r#""disk": "{}""#, "x".repeat(DESCRIPTION_MAX as usize)));
        assert!(matches!(long, Err(DescriptionError::TooLong { .. })));
        let (_root, unknown) = read_with(r#""disk": "disk.img", "more": 1"#);
        assert!(matches!(unknown, Err(DescriptionError::Description { .. })));
        assert!(matches!(read(Path::new("/nonexistent")), Err(DescriptionError::Read { .. })));
    }
}
