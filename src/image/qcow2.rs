//! The header of a qcow2 disk (QEMU, docs/interop/qcow2.txt): what it has to say before anything else looks at the file. A disk
//! that names other files is refused.

use thiserror::Error;

/// How much of a file is looked at, in bytes.
pub(super) const HEADER_BYTES: usize = 104;

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Of the bits that a reader has to understand: the data is in another file.
const EXTERNAL_DATA_FILE: u64 = 1 << 2;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadQcow2 {
    #[error("it is no qcow2 disk, though it was said to be one")]
    NotQcow2,
    #[error("it is qcow2 of version {0}, and only 2 and 3 are known")]
    Version(u32),
    #[error(
        "it has a backing file: only a disk that is whole by itself is taken (qemu-img convert makes one)"
    )]
    BackingFile,
    #[error(
        "its data is in another file: only a disk that is whole by itself is taken (qemu-img convert makes one)"
    )]
    DataFile,
    #[error("it is encrypted")]
    Encrypted,
}

/// Checks the begin of a file, and returns how large the disk in it is, in bytes.
pub(super) fn disk_bytes(header: &[u8]) -> Result<u64, BadQcow2> {
    let field = Fields(header);
    if !header.starts_with(&MAGIC) {
        return Err(BadQcow2::NotQcow2);
    }
    let version = field.u32(4)?;
    if !matches!(version, 2 | 3) {
        return Err(BadQcow2::Version(version));
    }
    if field.u64(8)? != 0 || field.u32(16)? != 0 {
        return Err(BadQcow2::BackingFile);
    }
    if field.u32(32)? != 0 {
        return Err(BadQcow2::Encrypted);
    }
    if version == 3 && field.u64(72)? & EXTERNAL_DATA_FILE != 0 {
        return Err(BadQcow2::DataFile);
    }
    field.u64(24)
}

/// Big-endian numbers by their offsets.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&self, at: usize) -> Result<u32, BadQcow2> {
        self.bytes(at).map(u32::from_be_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, BadQcow2> {
        self.bytes(at).map(u64::from_be_bytes)
    }

    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], BadQcow2> {
        let bytes = self.0.get(at..at + N).and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or(BadQcow2::NotQcow2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Vec<u8> {
        let mut header = vec![0; HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        header[7] = 3;
        header[24..32].copy_from_slice(&(1u64 << 30).to_be_bytes());
        header
    }

    fn with(at: usize, byte: u8) -> Result<u64, BadQcow2> {
        let mut header = header();
        header[at] = byte;
        disk_bytes(&header)
    }

    #[test]
    fn a_disk_that_is_whole_by_itself_says_its_size() {
        assert_eq!(disk_bytes(&header()), Ok(1 << 30));
        assert_eq!(with(7, 2), Ok(1 << 30));
    }

    #[test]
    fn a_disk_that_is_not_is_refused_by_what_it_has() {
        assert_eq!(with(0, 0), Err(BadQcow2::NotQcow2));
        assert_eq!(with(7, 4), Err(BadQcow2::Version(4)));
        assert_eq!(with(15, 1), Err(BadQcow2::BackingFile));
        assert_eq!(with(19, 1), Err(BadQcow2::BackingFile));
        assert_eq!(with(35, 2), Err(BadQcow2::Encrypted));
        assert_eq!(with(79, 4), Err(BadQcow2::DataFile));
        assert_eq!(disk_bytes(&header()[..70]), Err(BadQcow2::NotQcow2));
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_they_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = disk_bytes(&bytes);
        }
    }
}
