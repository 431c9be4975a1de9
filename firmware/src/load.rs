//! A kernel and its initrds, read from disk into the places where they start.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use thiserror::Error;

use crate::filesystem::{File, FileError};
use crate::linux::header::{ENTRY_64, Header, HeaderError, START_BYTES};
use crate::linux::placement::{PlacementError, place};
use crate::linux::zero_page::{self, Parameters};
use crate::machine::Machine;
use crate::start::{Piece, Start};
use crate::volumes::Volumes;

/// Between two initrds there are zeroes up to a multiple of this.
const INITRD_ALIGNMENT: u64 = 4;
/// Read at a time: what is large goes straight from the disk to its place.
const READ_BYTES: usize = 8 << 20;
/// Longest command line that there is room for.
pub const COMMAND_LINE_LIMIT: usize = 4095;
/// Room that a kernel's tables take: the zero page and the command line.
pub const TABLES_BYTES: usize = zero_page::BYTES + COMMAND_LINE_LIMIT + 1;

#[derive(Debug, PartialEq, Eq, Error)]
pub enum LoadError {
    #[error("{path}: {error}")]
    File { path: String, error: FileError },
    #[error("{path}: {error}")]
    Header { path: String, error: HeaderError },
    #[error("{0}")]
    Placement(#[from] PlacementError),
    #[error("the command line is {bytes} bytes long, more than the {limit} that the kernel takes")]
    CommandLine { bytes: usize, limit: usize },
    #[error("memory at {0:#x} is out of reach")]
    Memory(u64),
}

/// Memory that can be written.
pub trait Ram {
    /// `bytes` from `start` on; none where they are not all within reach.
    fn region(&mut self, start: u64, bytes: u64) -> Option<&mut [u8]>;
}

/// What of memory is whose.
#[derive(Debug, Clone)]
pub struct Room {
    /// The firmware's own.
    pub firmware: Range<u64>,
    /// Within that, [`TABLES_BYTES`] for what the kernel finds when it starts.
    pub tables: u64,
}

/// A kernel in memory, ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub entry: u64,
    pub zero_page: u64,
    pub kernel_bytes: u64,
    pub initrd_bytes: u64,
    pub command_line: String,
}

/// A file that is open, and which bytes of it count.
struct Opened {
    path: String,
    file: Box<dyn File>,
    range: Range<u64>,
}

impl Opened {
    fn open(volumes: &Volumes, piece: &Piece) -> Result<Self, LoadError> {
        let path = piece.to_string();
        let found = volumes.0.get(piece.volume).ok_or(FileError::NotFound);
        match found.and_then(|volume| volume.files.open(&piece.path)) {
            Ok(file) => {
                let range = piece.range.clone().unwrap_or(0..file.bytes());
                Ok(Self { path, file, range })
            }
            Err(error) => Err(LoadError::File { path, error }),
        }
    }

    fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), LoadError> {
        let mut at = self.range.start + start;
        for part in into.chunks_mut(READ_BYTES) {
            self.file.read(at, part).map_err(|error| LoadError::File { path: self.path.clone(), error })?;
            at += part.len() as u64;
        }
        Ok(())
    }
}

/// Loads it, where all of it fits. The command line is its own options and what the VMM's adds to them.
pub fn load(
    volumes: &Volumes,
    start: &Start,
    machine: &Machine,
    room: &Room,
    ram: &mut dyn Ram,
) -> Result<Loaded, LoadError> {
    let mut kernel = Opened::open(volumes, &start.kernel)?;
    let header = header(&mut kernel)?;
    let command_line = format!("{} {}", start.options, machine.command_line).trim().to_string();
    check_command_line(&command_line, &header)?;
    let opened: Result<Vec<_>, _> = start.initrds.iter().map(|piece| Opened::open(volumes, piece)).collect();
    let mut initrds = opened?;
    let initrd_bytes = initrds.iter().fold(0, |sum: u64, initrd| padded(sum).saturating_add(initrd.bytes()));
    let placement = place(&machine.map, &room.firmware, &header, initrd_bytes)?;

    let system = region(ram, placement.kernel, header.system_bytes)?;
    kernel.read(header.setup_bytes, system)?;
    load_initrds(&mut initrds, placement.initrd, ram)?;
    let parameters = Parameters {
        header: &header,
        map: &machine.map,
        rsdp: machine.rsdp,
        command_line: low(room.tables + zero_page::BYTES as u64)?,
        initrd: low(placement.initrd)?,
        initrd_bytes: low(initrd_bytes)?,
    };
    let tables = region(ram, room.tables, TABLES_BYTES as u64)?;
    tables[..zero_page::BYTES].copy_from_slice(&zero_page::write(&parameters));
    tables[zero_page::BYTES..].fill(0);
    tables[zero_page::BYTES..][..command_line.len()].copy_from_slice(command_line.as_bytes());
    Ok(Loaded {
        entry: placement.kernel + ENTRY_64,
        zero_page: room.tables,
        kernel_bytes: header.system_bytes,
        initrd_bytes,
        command_line,
    })
}

fn header(kernel: &mut Opened) -> Result<Header, LoadError> {
    let mut start = [0; START_BYTES];
    let bytes = kernel.bytes();
    let refused = |path: &str, error| LoadError::Header { path: path.to_string(), error };
    if bytes < START_BYTES as u64 {
        return Err(refused(&kernel.path, HeaderError::NoBzImage));
    }
    kernel.read(0, &mut start)?;
    Header::parse(&start, bytes).map_err(|error| refused(&kernel.path, error))
}

fn check_command_line(line: &str, header: &Header) -> Result<(), LoadError> {
    let limit = header.command_line_limit.min(COMMAND_LINE_LIMIT);
    match line.len() <= limit {
        true => Ok(()),
        false => Err(LoadError::CommandLine { bytes: line.len(), limit }),
    }
}

/// One after the other; each begins at a multiple of four bytes.
fn load_initrds(initrds: &mut [Opened], start: u64, ram: &mut dyn Ram) -> Result<(), LoadError> {
    let mut end = start;
    for initrd in initrds {
        region(ram, end, padded(end) - end)?.fill(0);
        end = padded(end);
        let into = region(ram, end, initrd.bytes())?;
        initrd.read(0, into)?;
        end += initrd.bytes();
    }
    Ok(())
}

fn padded(bytes: u64) -> u64 {
    bytes.saturating_add(INITRD_ALIGNMENT - 1) / INITRD_ALIGNMENT * INITRD_ALIGNMENT
}

fn region(ram: &mut dyn Ram, start: u64, bytes: u64) -> Result<&mut [u8], LoadError> {
    ram.region(start, bytes).ok_or(LoadError::Memory(start))
}

fn low(number: u64) -> Result<u32, LoadError> {
    u32::try_from(number).map_err(|_| LoadError::Memory(number))
}
