//! The console's log, as written by the VMM and read by the agent. A reader trusts nothing that stands in the file.

use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use sublet_vmm_protocol::{ConsoleLog, ConsoleSlice};

use crate::{Seed, files::MemoryFile, steps};

const CAPACITY: u64 = 64;

#[derive(Debug, Serialize, Deserialize)]
enum Step {
    Append(Vec<u8>),
    /// Offset, limit.
    Read(#[serde(with = "postcard::fixint::le")] u64, #[serde(with = "postcard::fixint::le")] u64),
    /// Somebody else writes into the file.
    Scribble(u8, Vec<u8>),
    /// Somebody else makes the file so long.
    Cut(u8),
    /// The reader opens the file once more.
    Open,
}

pub fn run(input: &[u8]) {
    let file = MemoryFile::new(0);
    let mut place = Place {
        writer: ConsoleLog::create(&file.path(), CAPACITY).unwrap(),
        reader: ConsoleLog::open(&file.path()).unwrap(),
        file,
        output: vec![],
        is_sound: true,
    };
    steps::read(input).for_each(|step| place.take(step));
}

struct Place {
    file: MemoryFile,
    writer: ConsoleLog,
    reader: ConsoleLog,
    /// All that was ever appended.
    output: Vec<u8>,
    /// Nobody but the writer has written.
    is_sound: bool,
}

impl Place {
    fn take(&mut self, step: Step) {
        match step {
            Step::Append(bytes) => {
                self.writer.append(&bytes).unwrap();
                self.output.extend(bytes);
            }
            Step::Read(offset, limit) => self.read(offset, limit as usize),
            Step::Scribble(at, bytes) => {
                self.is_sound = false;
                self.file.0.write_all_at(&bytes, at.into()).unwrap();
            }
            Step::Cut(length) => {
                self.is_sound = false;
                self.file.0.set_len(length.into()).unwrap();
            }
            Step::Open => match ConsoleLog::open(&self.file.path()) {
                Ok(reader) => self.reader = reader,
                Err(error) => assert!(!self.is_sound, "{error}"),
            },
        }
    }

    fn read(&self, offset: u64, limit: usize) {
        match self.reader.read_from(offset, limit) {
            Ok(slice) if self.is_sound => self.check(&slice, offset, limit),
            Ok(slice) => assert!(slice.bytes.len() <= limit, "more than was asked for"),
            Err(error) => assert!(!self.is_sound, "{error}"),
        }
    }

    /// A reader gets what was asked for, or the oldest that is left where that is later.
    fn check(&self, slice: &ConsoleSlice, offset: u64, limit: usize) {
        let written = self.output.len() as u64;
        let start = offset.clamp(written.saturating_sub(CAPACITY), written) as usize;
        let end = start.saturating_add(limit).min(self.output.len());
        assert_eq!((slice.offset, slice.bytes.as_slice()), (start as u64, &self.output[start..end]));
    }
}

pub fn seeds() -> Vec<Seed> {
    let all = || Step::Read(0, u64::MAX);
    let append = |bytes: &[u8]| Step::Append(bytes.into());
    let sound = [
        append(b"hello"),
        Step::Read(1, 3),
        append(&[b'x'; 62]),
        all(),
        append(&[b'y'; 150]),
        Step::Read(100, 20),
        Step::Open,
        all(),
    ];
    let unsound = [
        append(b"hello"),
        Step::Scribble(8, vec![0xff; 8]),
        all(),
        Step::Scribble(0, b"SUBLTCON".into()),
        Step::Cut(20),
        Step::Open,
        all(),
        Step::Cut(3),
        Step::Open,
        all(),
    ];
    vec![("sound", steps::written(&sound)), ("unsound", steps::written(&unsound))]
}
