//! What a driver reads of a disk before it sends a request (virtio 1.2, 5.2.3 and 5.2.4).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};

use super::request::{SEGMENT_BYTES_LIMIT, SEGMENTS_LIMIT, ZERO_RANGES_LIMIT, ZERO_SECTORS_LIMIT};
use crate::{
    block::{SECTOR_SIZE, device_limits::DeviceLimits, disk::Disk},
    devices::virtio::{COMMON_FEATURES, DeviceIdentity},
};

/// Disk; PCI class: mass storage, other.
pub const IDENTITY: DeviceIdentity = DeviceIdentity { device_type: 2, class: 0x01_80_00 };
/// Requests that a driver can have waiting in a queue.
pub const QUEUE_SIZE: u16 = 256;
/// Bytes of the configuration up to and with the limits of write zeroes.
pub const CONFIG_BYTES: usize = 60;
/// Largest physical block that is told: what a page cache reads and writes at least.
const PHYSICAL_BLOCK_MAX: u32 = 4096;
/// A guest's page.
const PAGE_BYTES: u32 = 4096;

const BOTH: u64 = COMMON_FEATURES
    | 1 << VIRTIO_BLK_F_SIZE_MAX
    | 1 << VIRTIO_BLK_F_SEG_MAX
    | 1 << VIRTIO_BLK_F_BLK_SIZE
    | 1 << VIRTIO_BLK_F_FLUSH
    | 1 << VIRTIO_BLK_F_TOPOLOGY
    | 1 << VIRTIO_BLK_F_MQ;
const READ_ONLY: u64 = 1 << VIRTIO_BLK_F_RO;
const WRITABLE: u64 = 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;

pub fn features(disk: &Disk) -> u64 {
    BOTH | if disk.is_read_only() { READ_ONLY } else { WRITABLE }
}

/// What the driver reads as `struct virtio_blk_config`. Sizes are in bytes, in sectors of 512 bytes where the name says
/// so, in blocks for minimal and optimal I/O.
pub fn config(disk: &Disk, queues: u16) -> [u8; CONFIG_BYTES] {
    let shape = disk.shape();
    let physical = shape.preferred.min(PHYSICAL_BLOCK_MAX).max(shape.block);
    let blocks = physical / shape.block;
    let mut config = [0; CONFIG_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| config[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &disk.sectors().to_le_bytes());
    let (segments, segment_bytes) = segment_limits(shape.device);
    put(8, &segment_bytes.to_le_bytes());
    put(12, &segments.to_le_bytes());
    // No geometry.
    put(20, &shape.block.to_le_bytes());
    // Physical block as a power of two of blocks, and no misalignment; minimal and optimal I/O.
    put(24, &[blocks.ilog2() as u8, 0]);
    put(26, &(blocks as u16).to_le_bytes());
    put(28, &(shape.preferred / shape.block).to_le_bytes());
    put(34, &queues.to_le_bytes());
    if !disk.is_read_only() {
        // Discard: sectors and ranges of one request, alignment in sectors. Then write zeroes.
        put(36, &ZERO_SECTORS_LIMIT.to_le_bytes());
        put(40, &(ZERO_RANGES_LIMIT as u32).to_le_bytes());
        put(44, &(physical / SECTOR_SIZE as u32).to_le_bytes());
        put(48, &ZERO_SECTORS_LIMIT.to_le_bytes());
        put(52, &(ZERO_RANGES_LIMIT as u32).to_le_bytes());
        // And they never unmap.
    }
    config
}

/// Most buffers of data in one request, and bytes of the longest: what both this device and the one under the disk take,
/// so that no request is cut by the host. A buffer may be a page at least, whatever the disk's device says.
fn segment_limits(device: Option<DeviceLimits>) -> (u32, u32) {
    let own = DeviceLimits { segments: SEGMENTS_LIMIT as u32, segment_bytes: SEGMENT_BYTES_LIMIT };
    let under = device.unwrap_or(own);
    (under.segments.clamp(1, own.segments), under.segment_bytes.clamp(PAGE_BYTES, own.segment_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_told_the_stricter_limits_of_its_disk_and_of_the_device_under_it() {
        let own = (SEGMENTS_LIMIT as u32, SEGMENT_BYTES_LIMIT);
        assert_eq!(segment_limits(None), own);
        for (segments, segment_bytes, told) in
            [(128, 65536, (128, 65536)), (4096, u32::MAX, own), (0, 512, (1, PAGE_BYTES))]
        {
            assert_eq!(segment_limits(Some(DeviceLimits { segments, segment_bytes })), told);
        }
    }
}
