//! virtio-blk requests (virtio 1.2, 5.2.6): a header, data one way or the other, and a byte for the status.
//!
//! The driver may cut all of this into buffers as it likes. Descriptors, header and ranges are read once.

use std::{io, ops::Range};

use thiserror::Error;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress};

use crate::{
    block::{SECTOR_SIZE, buffers::Segment, disk::Disk},
    memory::GuestMemory,
};

/// Most buffers of data in one request; the device says so, or less, to the driver.
pub const SEGMENTS_LIMIT: usize = 254;
/// Longest buffer of data in one request, in bytes; the device says so, or less, to the driver.
pub const SEGMENT_BYTES_LIMIT: u32 = 128 * 1024;
/// Most ranges in one request to discard or to write zeroes; the device says so to the driver.
pub const ZERO_RANGES_LIMIT: usize = 8;
/// Longest such range, in sectors (32 MiB): with the number of ranges it bounds what a request may take where zeroes
/// have to be written. The device says so to the driver.
pub const ZERO_SECTORS_LIMIT: u32 = 64 * 1024;
/// Buffers of header and status, at most.
const OTHER_SEGMENTS: usize = 2;
/// Bytes of data that one request moves at most, however they are cut.
const DATA_LIMIT: u64 = SEGMENTS_LIMIT as u64 * SEGMENT_BYTES_LIMIT as u64;

const HEADER_BYTES: usize = 16;
const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;
/// A range in a request (virtio 1.2, 5.2.6): sector, number of sectors, flags.
const RANGE_BYTES: usize = 16;

/// Why a chain is no request and cannot even be answered.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
#[error("a chain of descriptors has no place for a status")]
pub struct NoStatus;

/// A request, with the data that it names still in the guest's hands.
#[derive(Debug)]
pub struct Request {
    pub action: Action,
    pub status: GuestAddress,
}

/// What is asked for. Offsets and ranges are in bytes, and not checked against any disk.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Read {
        offset: u64,
        into: Vec<Segment>,
        bytes: u32,
    },
    Write {
        offset: u64,
        from: Vec<Segment>,
        bytes: u32,
    },
    Flush,
    Zero {
        how: Zeroing,
        ranges: Vec<Range<u64>>,
    },
    Identify {
        into: Vec<Segment>,
    },
    Unsupported,
    /// Not a request, but the driver can be told so.
    Malformed,
}

/// Both leave zeroes behind: a driver learns from a discard nothing of what stood there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeroing {
    Discard,
    WriteZeroes,
}

impl Request {
    /// Takes a request from a chain.
    pub fn parse(chain: DescriptorChain<&GuestMemory>, memory: &GuestMemory) -> Result<Self, NoStatus> {
        let Buffers { mut sent, mut wanted, is_bounded } = Buffers::collect(chain);
        let status = take_last_byte(&mut wanted).ok_or(NoStatus)?;
        let header = take_bytes(&mut sent, memory).filter(|_| is_bounded);
        let action = header.and_then(|header| action(&header, sent, wanted, memory));
        Ok(Self { action: action.unwrap_or(Action::Malformed), status })
    }

    /// How many bytes it has the host move.
    pub fn cost(&self, disk: &Disk) -> u64 {
        match &self.action {
            Action::Read { bytes, .. } | Action::Write { bytes, .. } => u64::from(*bytes),
            Action::Zero { ranges, .. } if disk.is_zeroed_by_writing() => {
                ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum()
            }
            _ => 0,
        }
    }
}

/// Tells the driver the disk's serial number, padded with zeroes; returns how many bytes that are.
pub fn identify(serial: &str, into: &[Segment], memory: &GuestMemory) -> io::Result<u32> {
    let mut id = [0; ID_BYTES];
    id.iter_mut().zip(serial.bytes()).for_each(|(byte, new)| *byte = new);
    let mut left = id.as_slice();
    for segment in into {
        let (part, rest) = left.split_at(left.len().min(segment.length as usize));
        memory.write_slice(part, segment.address).map_err(io::Error::other)?;
        left = rest;
    }
    if left.is_empty() { Ok(ID_BYTES as u32) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

fn action(
    header: &[u8; HEADER_BYTES],
    sent: Vec<Segment>,
    wanted: Vec<Segment>,
    memory: &GuestMemory,
) -> Option<Action> {
    let [a, b, c, d, _, _, _, _, e @ ..] = *header;
    let offset = || u64::from_le_bytes(e).checked_mul(SECTOR_SIZE);
    Some(match u32::from_le_bytes([a, b, c, d]) {
        VIRTIO_BLK_T_IN => Action::Read { offset: offset()?, bytes: data_bytes(&wanted)?, into: wanted },
        VIRTIO_BLK_T_OUT => Action::Write { offset: offset()?, bytes: data_bytes(&sent)?, from: sent },
        VIRTIO_BLK_T_FLUSH => Action::Flush,
        VIRTIO_BLK_T_GET_ID => Action::Identify { into: wanted },
        VIRTIO_BLK_T_DISCARD => zero(Zeroing::Discard, sent, memory)?,
        VIRTIO_BLK_T_WRITE_ZEROES => zero(Zeroing::WriteZeroes, sent, memory)?,
        _ => Action::Unsupported,
    })
}

fn zero(how: Zeroing, mut sent: Vec<Segment>, memory: &GuestMemory) -> Option<Action> {
    let known_flags = match how {
        Zeroing::Discard => 0,
        Zeroing::WriteZeroes => VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
    };
    let mut ranges = vec![];
    while sent.iter().any(|segment| segment.length > 0) {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] =
            take_bytes::<RANGE_BYTES>(&mut sent, memory)?;
        if u32::from_le_bytes(flags) & !known_flags != 0 {
            return Some(Action::Unsupported);
        }
        let sectors =
            Some(u32::from_le_bytes([n0, n1, n2, n3])).filter(|count| *count <= ZERO_SECTORS_LIMIT)?;
        let start = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]).checked_mul(SECTOR_SIZE)?;
        ranges.push(start..start.checked_add(u64::from(sectors) * SECTOR_SIZE)?);
        if ranges.len() > ZERO_RANGES_LIMIT {
            return None;
        }
    }
    (!ranges.is_empty()).then_some(Action::Zero { how, ranges })
}

/// A chain's descriptors, sorted by who may write them.
struct Buffers {
    sent: Vec<Segment>,
    wanted: Vec<Segment>,
    /// Not more of them than the device allows, and in order: what the driver sent first.
    is_bounded: bool,
}

impl Buffers {
    fn collect(chain: DescriptorChain<&GuestMemory>) -> Self {
        let mut buffers = Self { sent: vec![], wanted: vec![], is_bounded: true };
        for (count, descriptor) in chain.enumerate() {
            let segment = Segment { address: descriptor.addr(), length: descriptor.len() };
            let is_sent = !descriptor.is_write_only();
            if count == SEGMENTS_LIMIT + OTHER_SEGMENTS || (is_sent && !buffers.wanted.is_empty()) {
                buffers.is_bounded = false;
                break;
            }
            if is_sent { buffers.sent.push(segment) } else { buffers.wanted.push(segment) }
        }
        buffers
    }
}

/// Takes the last byte off the segments.
fn take_last_byte(segments: &mut Vec<Segment>) -> Option<GuestAddress> {
    while segments.pop_if(|last| last.length == 0).is_some() {}
    let last = segments.last_mut()?;
    last.length -= 1;
    let address = last.address.0.checked_add(u64::from(last.length)).map(GuestAddress);
    segments.pop_if(|last| last.length == 0);
    address
}

/// Takes the first bytes off the segments, reading them from the guest's memory.
fn take_bytes<const N: usize>(segments: &mut Vec<Segment>, memory: &GuestMemory) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut left = bytes.as_mut_slice();
    while !left.is_empty() {
        let first = segments.first_mut()?;
        let (part, rest) = left.split_at_mut(left.len().min(first.length as usize));
        memory.read_slice(part, first.address).ok()?;
        first.length -= part.len() as u32;
        first.address = GuestAddress(first.address.0.checked_add(part.len() as u64)?);
        left = rest;
        if first.length == 0 {
            segments.remove(0);
        }
    }
    Some(bytes)
}

/// Bytes of data in all, if they are whole sectors and not too many.
fn data_bytes(segments: &[Segment]) -> Option<u32> {
    let bytes: u64 = segments.iter().map(|segment| u64::from(segment.length)).sum();
    (bytes.is_multiple_of(SECTOR_SIZE) && bytes <= DATA_LIMIT).then_some(bytes as u32)
}
