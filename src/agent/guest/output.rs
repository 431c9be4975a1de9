//! A job's output as the host keeps it: a file a stream, stored before it is acknowledged, and bounded.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use sublet_guest_protocol::Stream;
use thiserror::Error;

use crate::domain::id::JobId;

/// Most bytes that are kept of one stream of a job.
pub const STREAM_MAX_BYTES: u64 = 64 << 20;
/// Most bytes that are kept of all jobs of a lease.
pub const LEASE_MAX_BYTES: u64 = 256 << 20;

#[derive(Debug, Error)]
pub enum OutputError {
    #[error("cannot {act} {path:?}")]
    Io { act: &'static str, path: PathBuf, source: io::Error },
    /// The guest does not keep to the protocol.
    #[error("output goes on at byte {got}; byte {expected} is the next")]
    Gap { expected: u64, got: u64 },
}

fn failed(act: &'static str, path: &Path) -> impl Fn(io::Error) -> OutputError {
    move |source| OutputError::Io { act, path: path.to_owned(), source }
}

/// The file of one stream of a job, under `directory`.
pub fn path(directory: &Path, job: JobId, stream: Stream) -> PathBuf {
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    directory.join(format!("{job}.{name}"))
}

/// What is stored of a stream from `offset` on, at most `limit` bytes; nothing while there is more to be stored, and
/// where the stream does not reach so far or is not there.
pub fn read_stored(path: &Path, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Vec::new()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let mut bytes = vec![0; limit];
    let read = file.read_at(&mut bytes, offset)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Stores what an agent before this one may have written and not stored.
pub fn store_all(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        File::open(entry?.path())?.sync_data()?;
    }
    File::open(directory)?.sync_all()
}

/// Bytes that are held of a stream.
pub fn held_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// Both streams of one job, while it runs.
#[derive(Debug)]
pub struct JobOutput {
    stdout: StreamLog,
    stderr: StreamLog,
}

impl JobOutput {
    /// Goes on where the files under `directory` end; they are made where they are missing.
    pub fn open(directory: &Path, job: JobId) -> Result<Self, OutputError> {
        fs::create_dir_all(directory).map_err(failed("make", directory))?;
        let (stdout, stderr) = (path(directory, job, Stream::Stdout), path(directory, job, Stream::Stderr));
        let others = total_bytes(directory)
            .map_err(failed("read", directory))?
            .saturating_sub(held_bytes(&stdout) + held_bytes(&stderr));
        let limit = (LEASE_MAX_BYTES.saturating_sub(others) / 2).min(STREAM_MAX_BYTES);
        let output =
            Self { stdout: StreamLog::open(stdout, limit)?, stderr: StreamLog::open(stderr, limit)? };
        // The files themselves, too, outlast the host.
        File::open(directory).and_then(|files| files.sync_all()).map_err(failed("store", directory))?;
        Ok(output)
    }

    pub fn stream(&mut self, stream: Stream) -> &mut StreamLog {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Bytes of stdout and stderr that were taken, kept or not.
    pub fn taken(&self) -> (u64, u64) {
        (self.stdout.taken(), self.stderr.taken())
    }

    /// Bytes of stdout and stderr that were more than the host keeps.
    pub fn dropped(&self) -> (u64, u64) {
        (self.stdout.dropped, self.stderr.dropped)
    }
}

/// Output that is kept under `directory`, of whatever job.
fn total_bytes(directory: &Path) -> io::Result<u64> {
    fs::read_dir(directory)?.map(|entry| entry?.metadata().map(|file| file.len())).sum()
}

/// One stream.
#[derive(Debug)]
pub struct StreamLog {
    path: PathBuf,
    file: File,
    held: u64,
    dropped: u64,
    limit: u64,
}

impl StreamLog {
    fn open(path: PathBuf, limit: u64) -> Result<Self, OutputError> {
        let mut options = File::options();
        options.create(true).append(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(failed("open", &path))?;
        let held = file.metadata().map_err(failed("read", &path))?.len();
        Ok(Self { path, file, held, dropped: 0, limit })
    }

    /// The first byte that was not taken yet: what the guest is told.
    pub fn taken(&self) -> u64 {
        self.held + self.dropped
    }

    /// The guest has nothing before `first` any more: an agent before this one took it, and did not keep it all.
    pub fn resume(&mut self, first: u64) {
        self.dropped += first.saturating_sub(self.taken());
    }

    /// Takes output from byte number `offset` on, all of it stored when this returns. Bytes that were taken before
    /// are passed over.
    pub fn append(&mut self, offset: u64, bytes: &[u8]) -> Result<(), OutputError> {
        let expected = self.taken();
        let Some(known) = expected.checked_sub(offset) else {
            return Err(OutputError::Gap { expected, got: offset });
        };
        let fresh = usize::try_from(known).ok().and_then(|known| bytes.get(known..)).unwrap_or_default();
        let room = usize::try_from(self.limit.saturating_sub(self.held)).unwrap_or(usize::MAX);
        let (kept, dropped) = fresh.split_at(fresh.len().min(room));
        if !kept.is_empty() {
            self.store(kept)?;
        }
        self.dropped += dropped.len() as u64;
        Ok(())
    }

    /// Nobody reads what is not stored yet: it must not be told and then be lost with the host.
    fn store(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        self.file.lock().map_err(failed("lock", &self.path))?;
        let stored = self.write_and_sync(bytes);
        self.file.unlock().map_err(failed("unlock", &self.path))?;
        stored
    }

    fn write_and_sync(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        self.file.write_all(bytes).map_err(failed("write", &self.path))?;
        self.held += bytes.len() as u64;
        self.file.sync_data().map_err(failed("store", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const JOB: JobId = JobId(Uuid::from_u128(1));

    fn output(directory: &tempfile::TempDir) -> JobOutput {
        JobOutput::open(directory.path(), JOB).unwrap()
    }

    fn stored(directory: &tempfile::TempDir, stream: Stream) -> Vec<u8> {
        fs::read(path(directory.path(), JOB, stream)).unwrap()
    }

    #[test]
    fn output_sent_twice_is_stored_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut output = output(&directory);
        let log = output.stream(Stream::Stdout);
        log.append(0, b"hello").unwrap();
        log.append(3, b"lo, ").unwrap();
        log.append(0, b"he").unwrap();
        log.append(7, b"world").unwrap();
        assert_eq!(stored(&directory, Stream::Stdout), b"hello, world");
        assert_eq!(stored(&directory, Stream::Stderr), b"");
        assert_eq!(output.taken(), (12, 0));
    }

    #[test]
    fn output_that_is_not_stored_yet_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let mut output = output(&directory);
        let log = output.stream(Stream::Stdout);
        log.append(0, b"stored").unwrap();
        log.file.lock().unwrap();
        log.write_and_sync(b" and more").unwrap();
        let path = path(directory.path(), JOB, Stream::Stdout);
        assert_eq!(read_stored(&path, 0, 100).unwrap(), b"");
        output.stream(Stream::Stdout).file.unlock().unwrap();
        assert_eq!(read_stored(&path, 3, 100).unwrap(), b"red and more");
        assert_eq!(read_stored(&path, 0, 4).unwrap(), b"stor");
        assert_eq!(read_stored(&path, 100, 4).unwrap(), b"");
        store_all(directory.path()).unwrap();
        store_all(&directory.path().join("none")).unwrap();
    }

    #[test]
    fn output_with_a_gap_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut output = output(&directory);
        let gap = output.stream(Stream::Stderr).append(1, b"x");
        assert!(matches!(gap, Err(OutputError::Gap { expected: 0, got: 1 })));
        assert_eq!(output.taken(), (0, 0));
    }

    #[test]
    fn an_agent_that_comes_back_goes_on_where_the_file_ends() {
        let directory = tempfile::tempdir().unwrap();
        output(&directory).stream(Stream::Stdout).append(0, b"before ").unwrap();
        let mut again = output(&directory);
        assert_eq!(again.taken(), (7, 0));
        again.stream(Stream::Stdout).append(7, b"after").unwrap();
        assert_eq!(stored(&directory, Stream::Stdout), b"before after");
    }

    #[test]
    fn output_beyond_the_limit_is_taken_counted_and_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = StreamLog::open(directory.path().join("x"), 4).unwrap();
        log.append(0, b"abcdef").unwrap();
        log.append(6, b"gh").unwrap();
        assert_eq!((log.held, log.dropped, log.taken()), (4, 4, 8));
        let mut again = StreamLog::open(directory.path().join("x"), 4).unwrap();
        again.resume(8);
        again.append(8, b"i").unwrap();
        assert_eq!((again.held, again.dropped, again.taken()), (4, 5, 9));
    }

    #[test]
    fn the_jobs_of_a_lease_share_one_bound() {
        let directory = tempfile::tempdir().unwrap();
        let other = File::create(directory.path().join("other.stdout")).unwrap();
        other.set_len(LEASE_MAX_BYTES - 100).unwrap();
        assert_eq!(output(&directory).stdout.limit, 50);
    }
}
