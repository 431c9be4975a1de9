//! Virtio disks on PCI, asked without interrupts.

use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::fmt::{self, Write};
use core::hint::spin_loop;
use core::ptr::NonNull;

use sublet_firmware::disk::{Disk, DiskError, SECTOR_BYTES};
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};
use virtio_drivers::transport::pci::bus::{BarInfo, DeviceFunction, PciRoot};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use super::memory::mapped_end;
use super::pci::{ConfigPorts, block_devices};
use super::transport::HalvesTransport;
use crate::stop;

/// What one request reads; so many are under way at once.
const REQUEST_BYTES: usize = 1 << 20;
const REQUESTS: usize = 4;

/// All disks, in the order in which they are on PCI. One that cannot be used is told.
pub(crate) fn disks(out: &mut impl Write) -> Result<Vec<Box<dyn Disk>>, fmt::Error> {
    let mut root = PciRoot::new(ConfigPorts);
    let mut found: Vec<Box<dyn Disk>> = Vec::new();
    for function in block_devices(&mut root) {
        match open(&mut root, function) {
            Ok(disk) => found.push(Box::new(disk)),
            Err(reason) => writeln!(out, "The disk at PCI {function} cannot be used: {reason}.")?,
        }
    }
    if found.is_empty() {
        writeln!(out, "There is no virtio disk on PCI.")?;
    }
    Ok(found)
}

fn open(root: &mut PciRoot<ConfigPorts>, function: DeviceFunction) -> Result<VirtioDisk, &'static str> {
    let bars = root.bars(function).map_err(|_| "its registers' addresses make no sense")?;
    let memory = bars.iter().flatten().filter_map(BarInfo::memory_address_size);
    for (address, size) in memory {
        if address == 0 || address.saturating_add(size) > mapped_end() {
            return Err("its registers are nowhere, or out of reach");
        }
    }
    let transport =
        HalvesTransport::new::<Identity>(root, function).map_err(|_| "it is no virtio 1 device")?;
    VirtIOBlk::new(transport).map(VirtioDisk).map_err(|_| "it refuses its driver")
}

/// The device is reset when this goes out of sight.
struct VirtioDisk(VirtIOBlk<Identity, HalvesTransport>);

/// A request that the device has.
struct UnderWay<'a> {
    token: u16,
    request: Box<BlkReq>,
    response: Box<BlkResp>,
    into: &'a mut [u8],
}

impl VirtioDisk {
    fn ask<'a>(&mut self, sector: u64, into: &'a mut [u8]) -> UnderWay<'a> {
        let (mut request, mut response) = (Box::new(BlkReq::default()), Box::new(BlkResp::default()));
        // SAFETY: the three buffers stay where they are, and nobody looks at them, until `answered` takes them back
        // under the same token; `read` does not return before.
        let token = unsafe { self.0.read_blocks_nb(sector as usize, &mut request, into, &mut response) };
        match token {
            Ok(token) => UnderWay { token, request, response, into },
            Err(error) => stop(format_args!("a disk's queue takes no request: {error}")),
        }
    }

    /// Waits for any of the requests under way, and takes it out.
    fn answered(&mut self, under_way: &mut Vec<UnderWay<'_>>) -> Result<(), usize> {
        let token = loop {
            match self.0.peek_used() {
                Some(token) => break token,
                None => spin_loop(),
            }
        };
        let Some(at) = under_way.iter().position(|one| one.token == token) else {
            stop(format_args!("a disk answers what it was not asked"));
        };
        let UnderWay { token, request, mut response, into } = under_way.swap_remove(at);
        // SAFETY: these are the buffers that were given with this token.
        let done = unsafe { self.0.complete_read_blocks(token, &request, into, &mut response) };
        done.map_err(|_| into.len())
    }
}

impl Disk for VirtioDisk {
    fn bytes(&self) -> u64 {
        self.0.capacity().saturating_mul(SECTOR_BYTES)
    }

    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let (mut under_way, mut result) = (Vec::with_capacity(REQUESTS), Ok(()));
        let mut at = start;
        for part in into.chunks_mut(REQUEST_BYTES) {
            let bytes = part.len() as u64;
            under_way.push(self.ask(at / SECTOR_BYTES, part));
            at += bytes;
            if under_way.len() == REQUESTS {
                result = result.and(self.answered(&mut under_way));
            }
        }
        while !under_way.is_empty() {
            result = result.and(self.answered(&mut under_way));
        }
        result.map_err(|bytes| DiskError::Failed { start, bytes })
    }
}

/// Memory is where it is: physical addresses are the program's own.
struct Identity;

/// Never empty, as the allocator asks.
fn layout(pages: usize) -> Layout {
    let bytes = pages.max(1).saturating_mul(PAGE_SIZE);
    match Layout::from_size_align(bytes, PAGE_SIZE) {
        Ok(layout) => layout,
        Err(error) => stop(format_args!("a disk's queue of {pages} pages: {error}")),
    }
}

// SAFETY: as each function says.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: the layout is not empty. The allocator's memory is whole pages apart from all else, zeroed.
        let memory = unsafe { alloc_zeroed(layout(pages)) };
        match NonNull::new(memory) {
            Some(memory) => (memory.as_ptr() as PhysAddr, memory),
            None => (0, NonNull::dangling()),
        }
    }

    // SAFETY: the trait's: what is given back came from `dma_alloc`.
    unsafe fn dma_dealloc(_address: PhysAddr, memory: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: the caller promises that it comes from `dma_alloc`, with this many pages.
        unsafe { dealloc(memory.as_ptr(), layout(pages)) };
        0
    }

    // SAFETY: the trait's: the registers are a device's. Nothing is done with the address here.
    unsafe fn mmio_phys_to_virt(address: PhysAddr, _size: usize) -> NonNull<u8> {
        match NonNull::new(address as *mut u8) {
            Some(registers) => registers,
            None => stop(format_args!("a disk's registers are at address 0")),
        }
    }

    // SAFETY: the trait's: the buffer is there until `unshare`. Nothing is done with it here.
    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.as_ptr().cast::<u8>() as PhysAddr
    }

    // SAFETY: the trait's; there is nothing to do.
    unsafe fn unshare(_address: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}
