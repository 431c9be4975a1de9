//! What lies under a layered disk: a file of the host's, the same for many machines, that may still be arriving.
//!
//! It is read by way of the page cache, which all machines share, by the thread that serves the disk.

use std::{
    fs::File,
    io,
    ops::Range,
    os::{fd::OwnedFd, unix::fs::FileExt},
    sync::{Mutex, PoisonError},
};

use rustix::{
    fs::{FileType, fstat},
    io::Errno,
};
use sublet_vmm_protocol::config::{BaseSource, CHUNK_BYTES, LAYER_MAX, map_of_arrived_bytes};
use thiserror::Error;

/// The map of what has arrived is read in blocks of so many bytes.
const BLOCK_BYTES: usize = 64;

#[derive(Debug, Error)]
pub enum BaseError {
    #[error("this machine has no disk {0} with a layer, so nothing can lie under it")]
    NoLayer(usize),
    #[error("base.bytes: must be sectors of 512 bytes, 1 to {LAYER_MAX}, is {0}")]
    Bytes(u64),
    #[error("what lies under the disk has {base} bytes, and the disk {disk} alone")]
    Larger { base: u64, disk: u64 },
    #[error("the {what} is not a file")]
    NotAFile { what: &'static str },
    #[error("the {what} has {has} bytes, and must have {needs}")]
    TooShort { what: &'static str, has: u64, needs: u64 },
    #[error("the {what} cannot be used")]
    Unusable { what: &'static str, source: Errno },
    #[error("the disk has something under it already")]
    Again,
}

#[derive(Debug)]
pub struct Base {
    file: File,
    bytes: u64,
    arriving: Option<Arriving>,
}

/// Which chunks are there: a bit each, the first the lowest of its byte. A bit that is set stays so.
#[derive(Debug)]
struct Arriving {
    map: File,
    /// As it was when it was last looked at.
    known: Mutex<Vec<u8>>,
}

impl Base {
    /// Of the file, and where it is still arriving of the map of what has.
    pub fn open(source: &BaseSource, file: OwnedFd, map: Option<OwnedFd>) -> Result<Self, BaseError> {
        let bytes = source.bytes;
        if !(1..=LAYER_MAX).contains(&bytes) || !bytes.is_multiple_of(512) {
            return Err(BaseError::Bytes(bytes));
        }
        let file = regular("base", file, bytes)?;
        let map = map.map(|map| regular("map of what has arrived", map, map_of_arrived_bytes(bytes)));
        let known = Mutex::new(vec![0; map_of_arrived_bytes(bytes) as usize]);
        let arriving = map.transpose()?.map(|map| Arriving { map, known });
        Ok(Self { file, bytes, arriving })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn read(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    /// Those of these chunks that have not arrived.
    pub fn missing(&self, chunks: Range<u64>) -> io::Result<Vec<u64>> {
        let Some(arriving) = &self.arriving else { return Ok(Vec::new()) };
        let chunks = chunks.start..chunks.end.min(self.bytes.div_ceil(CHUNK_BYTES));
        let mut missing = Vec::new();
        for chunk in chunks {
            if !arriving.is_there(chunk)? {
                missing.push(chunk);
            }
        }
        Ok(missing)
    }
}

impl Arriving {
    fn is_there(&self, chunk: u64) -> io::Result<bool> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, bit) = ((chunk / 8) as usize, 1 << (chunk % 8));
        let is_set = |known: &[u8]| known.get(at).is_some_and(|byte| byte & bit != 0);
        if is_set(&known) {
            return Ok(true);
        }
        let from = at - at % BLOCK_BYTES;
        let to = (from + BLOCK_BYTES).min(known.len());
        let block = known.get_mut(from..to).unwrap_or_default();
        self.map.read_exact_at(block, from as u64)?;
        Ok(is_set(&known))
    }
}

/// It was checked to be so long when it came; whoever cuts it short later gets the guest errors.
fn regular(what: &'static str, file: OwnedFd, needs: u64) -> Result<File, BaseError> {
    let about = fstat(&file).map_err(|source| BaseError::Unusable { what, source })?;
    if FileType::from_raw_mode(about.st_mode) != FileType::RegularFile {
        return Err(BaseError::NotAFile { what });
    }
    let has = about.st_size.cast_unsigned();
    if has < needs { Err(BaseError::TooShort { what, has, needs }) } else { Ok(file.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 20 * CHUNK_BYTES + 512;

    fn file(bytes: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        file
    }

    fn source(bytes: u64) -> BaseSource {
        BaseSource { disk: 0, bytes, is_arriving: true }
    }

    #[test]
    fn chunks_are_missing_until_the_map_says_that_they_are_there() {
        let map = file(3);
        let kept = map.try_clone().unwrap();
        let base = Base::open(&source(BYTES), file(BYTES).into(), Some(map.into())).unwrap();
        assert_eq!(base.missing(7..10).unwrap(), [7, 8, 9]);
        kept.write_all_at(&[0x80, 0x01], 0).unwrap();
        assert_eq!(base.missing(7..10).unwrap(), [9]);
        kept.write_all_at(&[0x80, 0x03, 0x10], 0).unwrap();
        assert_eq!(base.missing(7..10).unwrap(), [0; 0]);
        assert_eq!(base.missing(19..1000).unwrap(), [19], "what lies beyond its end is none of it");
    }

    #[test]
    fn of_what_has_arrived_whole_nothing_is_missing() {
        let base = Base::open(&source(BYTES), file(BYTES).into(), None).unwrap();
        assert_eq!(base.missing(0..100).unwrap(), [0; 0]);
        base.read(&mut [1; 512], BYTES - 512).unwrap();
        assert!(base.read(&mut [1; 512], BYTES).is_err());
    }

    #[test]
    fn what_is_too_short_or_no_file_is_refused_by_name() {
        let open =
            |bytes, base: File, map| Base::open(&source(bytes), base.into(), map).unwrap_err().to_string();
        assert_eq!(open(BYTES, file(BYTES - 1), None), "the base has 1311231 bytes, and must have 1311232");
        let short = open(BYTES, file(BYTES), Some(file(2).into()));
        assert_eq!(short, "the map of what has arrived has 2 bytes, and must have 3");
        assert!(open(511, file(BYTES), None).contains("sectors of 512 bytes"));
        assert!(open(0, file(BYTES), None).contains("is 0"));
        assert!(open(512, File::open("/dev/null").unwrap(), None).contains("not a file"));
    }
}
