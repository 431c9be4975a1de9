//! The console's bounded log: a ring file that the VMM writes and the agent reads.
//!
//! Layout, little-endian: 16 bytes of header (`magic`, `written`), then `capacity` bytes in which byte number
//! `n` of the console's output stands at `n % capacity`. The writer writes the bytes first and `written` after
//! them, so a reader never takes bytes for new that are not there.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use thiserror::Error;

const MAGIC: u64 = u64::from_le_bytes(*b"SUBLTCON");
pub(crate) const HEADER_BYTES: u64 = 16;

#[derive(Debug, Error)]
pub enum ConsoleLogError {
    #[error("cannot use the console log {path:?}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path:?} is not a console log")]
    NotALog { path: PathBuf },
}

/// The log, open for writing or reading.
#[derive(Debug)]
pub struct ConsoleLog {
    file: File,
    path: PathBuf,
    capacity: u64,
    written: u64,
}

/// Part of the console's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleSlice {
    /// Number of the first byte in `bytes`, counted from the start of the output; greater than what was asked
    /// for where the ring has dropped older bytes.
    pub offset: u64,
    pub bytes: Vec<u8>,
}

impl ConsoleLog {
    /// Makes an empty log that keeps the last `capacity` bytes.
    pub fn create(path: &Path, capacity: u64) -> Result<Self, ConsoleLogError> {
        let failed = |source| ConsoleLogError::Io { path: path.to_owned(), source };
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(path).map_err(failed)?;
        file.set_len(HEADER_BYTES + capacity).map_err(failed)?;
        file.write_all_at(&MAGIC.to_le_bytes(), 0).map_err(failed)?;
        Ok(Self { file, path: path.to_owned(), capacity, written: 0 })
    }

    /// Opens a log that somebody else writes.
    pub fn open(path: &Path) -> Result<Self, ConsoleLogError> {
        let failed = |source| ConsoleLogError::Io { path: path.to_owned(), source };
        let not_a_log = || ConsoleLogError::NotALog { path: path.to_owned() };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut magic = [0; 8];
        file.read_exact_at(&mut magic, 0).map_err(|_| not_a_log())?;
        let capacity = length.checked_sub(HEADER_BYTES).filter(|capacity| *capacity > 0);
        match capacity {
            Some(capacity) if u64::from_le_bytes(magic) == MAGIC => {
                Ok(Self { file, path: path.to_owned(), capacity, written: 0 })
            }
            _ => Err(not_a_log()),
        }
    }

    /// Appends console output, dropping the oldest where the ring is full.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), ConsoleLogError> {
        let skipped = (bytes.len() as u64).saturating_sub(self.capacity);
        let mut rest = &bytes[skipped as usize..];
        let mut at = self.written + skipped;
        while !rest.is_empty() {
            let place = at % self.capacity;
            let fits = rest.len().min((self.capacity - place) as usize);
            self.file.write_all_at(&rest[..fits], HEADER_BYTES + place).map_err(|e| self.failed(e))?;
            rest = &rest[fits..];
            at += fits as u64;
        }
        self.written = at;
        self.file.write_all_at(&at.to_le_bytes(), 8).map_err(|e| self.failed(e))
    }

    /// Reads at most `limit` bytes from byte number `offset` on.
    pub fn read_from(&self, offset: u64, limit: usize) -> Result<ConsoleSlice, ConsoleLogError> {
        let written = self.written_now()?;
        let start = offset.clamp(written.saturating_sub(self.capacity), written);
        let mut bytes = vec![0; limit.min((written - start) as usize)];
        let place = start % self.capacity;
        let first = bytes.len().min((self.capacity - place) as usize);
        let (head, tail) = bytes.split_at_mut(first);
        self.file.read_exact_at(head, HEADER_BYTES + place).map_err(|e| self.failed(e))?;
        self.file.read_exact_at(tail, HEADER_BYTES).map_err(|e| self.failed(e))?;
        Ok(self.without_overwritten(ConsoleSlice { offset: start, bytes }, self.written_now()?))
    }

    /// Drops from `slice` what the writer has overwritten while it was read.
    fn without_overwritten(&self, mut slice: ConsoleSlice, written: u64) -> ConsoleSlice {
        let oldest = written.saturating_sub(self.capacity);
        let lost = oldest.saturating_sub(slice.offset).min(slice.bytes.len() as u64);
        slice.bytes.drain(..lost as usize);
        slice.offset += lost;
        slice
    }

    fn written_now(&self) -> Result<u64, ConsoleLogError> {
        let mut written = [0; 8];
        self.file.read_exact_at(&mut written, 8).map_err(|e| self.failed(e))?;
        Ok(u64::from_le_bytes(written))
    }

    fn failed(&self, source: io::Error) -> ConsoleLogError {
        ConsoleLogError::Io { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(capacity: u64) -> (tempfile::TempDir, ConsoleLog) {
        let directory = tempfile::tempdir().unwrap();
        let log = ConsoleLog::create(&directory.path().join("console"), capacity).unwrap();
        (directory, log)
    }

    #[test]
    fn a_reader_gets_what_was_written() {
        let (directory, mut log) = log(8);
        log.append(b"hello").unwrap();
        let reader = ConsoleLog::open(&directory.path().join("console")).unwrap();
        assert_eq!(reader.read_from(1, 3).unwrap(), ConsoleSlice { offset: 1, bytes: b"ell".into() });
    }

    #[test]
    fn a_full_ring_keeps_the_newest_and_says_where_they_start() {
        let (_directory, mut log) = log(8);
        log.append(b"hello").unwrap();
        log.append(b", world").unwrap();
        assert_eq!(log.read_from(0, 100).unwrap(), ConsoleSlice { offset: 4, bytes: b"o, world".into() });
    }

    #[test]
    fn output_longer_than_the_ring_keeps_its_end() {
        let (_directory, mut log) = log(4);
        log.append(b"abcdefghij").unwrap();
        assert_eq!(log.read_from(0, 100).unwrap(), ConsoleSlice { offset: 6, bytes: b"ghij".into() });
    }

    #[test]
    fn a_reader_past_the_end_gets_nothing() {
        let (_directory, mut log) = log(8);
        log.append(b"abc").unwrap();
        assert_eq!(log.read_from(50, 100).unwrap(), ConsoleSlice { offset: 3, bytes: vec![] });
    }

    #[test]
    fn a_file_that_is_no_log_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other");
        std::fs::write(&path, [7; 64]).unwrap();
        assert!(matches!(ConsoleLog::open(&path), Err(ConsoleLogError::NotALog { .. })));
    }
}
