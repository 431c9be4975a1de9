//! How many requests a second a disk carries out: the same program on the host and in a guest.
//!
//! Past the page cache (O_DIRECT), each of as many threads as there are requests in hand waiting for its own.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rustix::{
    fs::OFlags,
    io::{pread, pwrite},
};
use serde::{Deserialize, Serialize};

/// Requests in hand, of each kind.
pub const RANDOM_DEPTH: u32 = 32;
pub const SEQUENTIAL_DEPTH: u32 = 4;
const RANDOM_BYTES: usize = 4 << 10;
const SEQUENTIAL_BYTES: usize = 1 << 20;
/// Not counted, and counted.
const TIMES: Times = Times { warm_up: Duration::from_millis(300), counted: Duration::from_millis(1500) };
/// What disks ask for of a buffer.
const PAGE: usize = 4 << 10;
/// What gives a kernel the chance to back a buffer with one large page, and so with one address.
const LARGE_PAGE: usize = 2 << 20;

/// Requests a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Speeds {
    pub sequential_read: f64,
    pub sequential_write: f64,
    pub random_read_4k: f64,
    pub random_write_4k: f64,
}

#[derive(Clone, Copy)]
struct Times {
    warm_up: Duration,
    counted: Duration,
}

/// Requests of one kind, all over the disk.
struct Work<'a> {
    disk: &'a File,
    is_random: bool,
    is_write: bool,
    request_bytes: usize,
    /// Places on the disk, each as long as a request.
    places: u64,
    /// The next that has not been used, where they are used in order.
    next: AtomicU64,
    begin: Instant,
    end: Instant,
}

/// Reads and writes all over the disk.
pub fn measure(path: &Path) -> io::Result<Speeds> {
    measure_for(path, TIMES)
}

fn measure_for(path: &Path, times: Times) -> io::Result<Speeds> {
    let mut disk =
        File::options().read(true).write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path)?;
    let bytes = disk.seek(SeekFrom::End(0))?;
    let speed = |is_random, is_write| Work::new(&disk, bytes, is_random, is_write, times).speed();
    Ok(Speeds {
        sequential_read: speed(false, false)?,
        sequential_write: speed(false, true)?,
        random_read_4k: speed(true, false)?,
        random_write_4k: speed(true, true)?,
    })
}

impl<'a> Work<'a> {
    fn new(disk: &'a File, bytes: u64, is_random: bool, is_write: bool, times: Times) -> Self {
        let request_bytes = if is_random { RANDOM_BYTES } else { SEQUENTIAL_BYTES };
        let begin = Instant::now() + times.warm_up;
        Self {
            disk,
            is_random,
            is_write,
            request_bytes,
            places: bytes / request_bytes as u64,
            next: AtomicU64::new(0),
            begin,
            end: begin + times.counted,
        }
    }

    fn speed(&self) -> io::Result<f64> {
        let depth = if self.is_random { RANDOM_DEPTH } else { SEQUENTIAL_DEPTH };
        let done = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..depth).map(|number| scope.spawn(move || self.requests(number))).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|done| done.map_err(|_| io::Error::other("a thread panicked"))?)
                .sum::<io::Result<u64>>()
        })?;
        Ok(done as f64 / (self.end - self.begin).as_secs_f64())
    }

    /// One thread's; returns how many of them ended in the time that counts.
    fn requests(&self, number: u32) -> io::Result<u64> {
        let alignment = if self.is_random { PAGE } else { LARGE_PAGE };
        let mut random = StdRng::seed_from_u64(number.into());
        let mut room = vec![0; self.request_bytes.next_multiple_of(alignment) + alignment];
        let start = room.as_ptr().align_offset(alignment);
        let buffer = &mut room[start..start + self.request_bytes];
        let mut done = 0;
        loop {
            self.request(buffer, self.place(&mut random))?;
            let now = Instant::now();
            if now >= self.end {
                return Ok(done);
            }
            done += u64::from(now >= self.begin);
        }
    }

    fn place(&self, random: &mut StdRng) -> u64 {
        match self.is_random {
            true => random.random_range(0..self.places),
            false => self.next.fetch_add(1, Ordering::Relaxed) % self.places,
        }
    }

    fn request(&self, buffer: &mut [u8], place: u64) -> io::Result<()> {
        let at = place * self.request_bytes as u64;
        let moved =
            if self.is_write { pwrite(self.disk, buffer, at)? } else { pread(self.disk, buffer, at)? };
        if moved == self.request_bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_speed_of_each_kind() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        let times = Times { warm_up: Duration::ZERO, counted: Duration::from_millis(50) };
        match measure_for(file.path(), times) {
            Ok(speeds) => assert!(speeds.random_read_4k > 0.0, "{speeds:?}"),
            // Not every file system has O_DIRECT.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}"),
        }
    }
}
