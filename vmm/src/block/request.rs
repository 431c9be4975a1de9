//! virtio-blk requests (virtio 1.2, 5.2.6): a header, data one way or the other, and a byte for the status.
//!
//! The driver may cut all of this into buffers as it likes. Each descriptor and the header are read once.

use std::io;

use thiserror::Error;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress};

use super::{SECTOR_SIZE, disk::Disk};
use crate::memory::GuestMemory;

/// Most buffers of data in one request; the device says so to the driver.
pub const SEGMENTS_LIMIT: usize = 254;
/// Longest buffer of data in one request, in bytes; the device says so to the driver.
pub const SEGMENT_BYTES_LIMIT: u32 = 128 * 1024;
/// Buffers of header and status, at most.
const OTHER_SEGMENTS: usize = 2;
/// Bytes of data that one request moves at most, however they are cut.
const DATA_LIMIT: u64 = SEGMENTS_LIMIT as u64 * SEGMENT_BYTES_LIMIT as u64;

const HEADER_BYTES: usize = 16;
const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;

/// A piece of the guest's memory, as a descriptor names it: not checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub address: GuestAddress,
    pub length: u32,
}

/// Why a chain is no request and cannot even be answered.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
#[error("a chain of descriptors has no place for a status")]
pub struct NoStatus;

/// A request, with all that it names still in the guest's hands.
#[derive(Debug)]
pub struct Request {
    kind: Kind,
    sector: u64,
    /// What the driver wrote after the header.
    sent: Vec<Segment>,
    /// What the device is to fill, without the status.
    wanted: Vec<Segment>,
    status: GuestAddress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
    Identify,
    Unsupported,
    /// Not a request, but the driver can be told so.
    Malformed,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// This many bytes of the guest's memory were filled.
    Done(u32),
    Failed,
    Unsupported,
}

impl Request {
    /// Takes a request from a chain.
    pub fn parse(chain: DescriptorChain<&GuestMemory>, memory: &GuestMemory) -> Result<Self, NoStatus> {
        let Buffers { mut sent, mut wanted, is_bounded } = Buffers::collect(chain);
        let status = take_last_byte(&mut wanted).ok_or(NoStatus)?;
        let header = take_header(&mut sent, memory).filter(|_| is_bounded);
        let (kind, sector) = header.map_or((Kind::Malformed, 0), |header| (kind(&header), sector(&header)));
        Ok(Self { kind, sector, sent, wanted, status })
    }

    /// Carries it out, tells the driver its status, and returns how many bytes of the guest's memory were written.
    pub fn execute(self, disk: &Disk, id: &str, memory: &GuestMemory) -> u32 {
        let outcome = match self.kind {
            Kind::Read => self.read(disk, memory),
            Kind::Write => self.write(disk, memory),
            Kind::Flush => disk.flush().map(|()| Outcome::Done(0)),
            Kind::Identify => self.identify(id, memory),
            Kind::Unsupported => Ok(Outcome::Unsupported),
            Kind::Malformed => Ok(Outcome::Failed),
        };
        let (status, filled) = match outcome.unwrap_or(Outcome::Failed) {
            Outcome::Done(filled) => (VIRTIO_BLK_S_OK, filled),
            Outcome::Failed => (VIRTIO_BLK_S_IOERR, 0),
            Outcome::Unsupported => (VIRTIO_BLK_S_UNSUPP, 0),
        };
        match memory.write_obj(status as u8, self.status) {
            Ok(()) => filled + 1,
            // The driver put its status outside its memory and will not learn of it.
            Err(_) => 0,
        }
    }

    fn read(&self, disk: &Disk, memory: &GuestMemory) -> io::Result<Outcome> {
        let (Some(offset), Some(bytes)) = (self.offset(), data_bytes(&self.wanted)) else {
            return Ok(Outcome::Failed);
        };
        disk.read(memory, &self.wanted, offset).map(|()| Outcome::Done(bytes))
    }

    fn write(&self, disk: &Disk, memory: &GuestMemory) -> io::Result<Outcome> {
        let (Some(offset), Some(_)) = (self.offset(), data_bytes(&self.sent)) else {
            return Ok(Outcome::Failed);
        };
        if disk.is_read_only() {
            return Ok(Outcome::Failed);
        }
        disk.write(memory, &self.sent, offset).map(|()| Outcome::Done(0))
    }

    fn identify(&self, id: &str, memory: &GuestMemory) -> io::Result<Outcome> {
        let mut bytes = [0; ID_BYTES];
        bytes.iter_mut().zip(id.bytes()).for_each(|(byte, new)| *byte = new);
        match self.wanted.first() {
            Some(segment) if segment.length as usize >= ID_BYTES => {
                memory.write_slice(&bytes, segment.address).map_err(io::Error::other)?;
                Ok(Outcome::Done(ID_BYTES as u32))
            }
            _ => Ok(Outcome::Failed),
        }
    }

    fn offset(&self) -> Option<u64> {
        self.sector.checked_mul(SECTOR_SIZE)
    }
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

/// Takes the header off the segments, reading it from the guest's memory.
fn take_header(segments: &mut Vec<Segment>, memory: &GuestMemory) -> Option<[u8; HEADER_BYTES]> {
    let mut header = [0; HEADER_BYTES];
    let mut filled = 0;
    while filled < HEADER_BYTES {
        let first = segments.first_mut()?;
        let length = (first.length as usize).min(HEADER_BYTES - filled);
        memory.read_slice(&mut header[filled..filled + length], first.address).ok()?;
        filled += length;
        first.length -= length as u32;
        first.address = GuestAddress(first.address.0.checked_add(length as u64)?);
        if first.length == 0 {
            segments.remove(0);
        }
    }
    Some(header)
}

fn kind(header: &[u8; HEADER_BYTES]) -> Kind {
    let [a, b, c, d, ..] = *header;
    match u32::from_le_bytes([a, b, c, d]) {
        VIRTIO_BLK_T_IN => Kind::Read,
        VIRTIO_BLK_T_OUT => Kind::Write,
        VIRTIO_BLK_T_FLUSH => Kind::Flush,
        VIRTIO_BLK_T_GET_ID => Kind::Identify,
        _ => Kind::Unsupported,
    }
}

fn sector(header: &[u8; HEADER_BYTES]) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = *header;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Bytes of data in all, if they are whole sectors and not too many.
fn data_bytes(segments: &[Segment]) -> Option<u32> {
    let bytes: u64 = segments.iter().map(|segment| u64::from(segment.length)).sum();
    (bytes.is_multiple_of(SECTOR_SIZE) && bytes <= DATA_LIMIT).then_some(bytes as u32)
}
