//! A qcow2 disk becomes a raw one: by QEMU's own program, within walls. What the format is, is said by whoever has the file; nothing
//! is ever guessed from what is in it.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

use super::{
    layout::Incoming,
    qcow2::{self, BadQcow2, HEADER_BYTES},
    sandbox::{self, INPUT, OUTPUT, Program, SandboxError},
};
use crate::domain::image::chunks::{BadDiskSize, DiskSize};

const QEMU_IMG: Program = Program { path: "/usr/bin/qemu-img", package: "qemu-utils", fine: &[0] };
/// 3: no more is wrong than that some of the file is not used.
const QEMU_IMG_CHECK: Program = Program { fine: &[0, 3], ..QEMU_IMG };
/// How long a disk may take.
const TIME_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug, Error)]
pub enum ConvertError {
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} is not taken")]
    Qcow2 { path: PathBuf, source: BadQcow2 },
    #[error("{path:?} is no disk")]
    Size { path: PathBuf, source: BadDiskSize },
    #[error("{path:?} would become a disk of {bytes} bytes, and no more than {max} are allowed (--max-size)")]
    TooLarge { path: PathBuf, bytes: u64, max: u64 },
    #[error("{path:?} cannot be converted")]
    Sandbox { path: PathBuf, source: SandboxError },
    #[error("{path:?} became {found} bytes, and says itself that it has {expected}")]
    Became { path: PathBuf, expected: u64, found: u64 },
}

/// Writes the disk in a qcow2 file as a raw one, of at most `max` bytes.
pub async fn qcow2_to_raw(path: &Path, raw: &mut Incoming<'_>, max: u64) -> Result<(), ConvertError> {
    let failed = |source| ConvertError::Read { path: path.to_owned(), source };
    // Within the walls the file is at another place.
    let whole = std::path::absolute(path).map_err(failed)?;
    let mut header = Vec::new();
    let file = File::open(&whole).map_err(failed)?;
    file.take(HEADER_BYTES as u64).read_to_end(&mut header).map_err(failed)?;
    let expected =
        qcow2::disk_bytes(&header).map_err(|source| ConvertError::Qcow2 { path: path.to_owned(), source })?;
    if expected > max {
        return Err(ConvertError::TooLarge { path: path.to_owned(), bytes: expected, max });
    }
    DiskSize::new(expected).map_err(|source| ConvertError::Size { path: path.to_owned(), source })?;
    let files = (whole.as_path(), raw.path());
    let steps: [(Program, &[&str]); 2] = [
        // What is beyond the end of a file that was cut would be read as zeroes otherwise.
        (QEMU_IMG_CHECK, &["check", "-q", "-f", "qcow2", INPUT]),
        (QEMU_IMG, &["convert", "-f", "qcow2", "-O", "raw", INPUT, OUTPUT]),
    ];
    for (program, arguments) in steps {
        sandbox::run(program, arguments, files, expected, TIME_MAX)
            .await
            .map_err(|source| ConvertError::Sandbox { path: path.to_owned(), source })?;
    }
    let found = raw.file().metadata().map_err(failed)?.len();
    if found == expected {
        Ok(())
    } else {
        Err(ConvertError::Became { path: path.to_owned(), expected, found })
    }
}
