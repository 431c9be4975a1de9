//! Virtio over PCI as `virtio-drivers` has it, but for one thing: that writes 64-bit registers at once, where virtio 1.2,
//! 4.1.3.1, has drivers write their halves, and devices may ignore anything else. Sublet's do.

use core::ptr::NonNull;

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, VIRTIO_PCI_CAP_COMMON_CFG, VirtioPciError};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, Hal, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::pci::ConfigPorts;

/// A capability that a vendor defines, here virtio's, and its fields (virtio 1.2, 4.1.4).
const VENDOR_CAPABILITY: u8 = 0x09;
const CAPABILITY_BAR: u8 = 4;
const CAPABILITY_OFFSET: u8 = 8;

/// Registers of the common configuration (virtio 1.2, 4.1.4.3).
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_ENABLE: usize = 0x1c;
const QUEUE_DESCRIPTORS: usize = 0x20;
const QUEUE_DRIVER: usize = 0x28;
const QUEUE_DEVICE: usize = 0x30;

pub(super) struct HalvesTransport {
    inner: PciTransport,
    /// The common configuration.
    common: NonNull<u8>,
}

impl HalvesTransport {
    pub(super) fn new<H: Hal>(
        root: &mut PciRoot<ConfigPorts>,
        function: DeviceFunction,
    ) -> Result<Self, VirtioPciError> {
        let inner = PciTransport::new::<H, _>(root, function)?;
        let common = common(root, function).ok_or(VirtioPciError::MissingCommonConfig)?;
        Ok(Self { inner, common })
    }

    fn write<T>(&mut self, register: usize, value: T) {
        // SAFETY: the registers are there, apart from all memory, for as long as the transport is; and `register` is one of
        // this size.
        unsafe { self.common.as_ptr().add(register).cast::<T>().write_volatile(value) };
    }

    fn write_halves(&mut self, register: usize, value: u64) {
        self.write(register, value as u32);
        self.write(register + 4, (value >> 32) as u32);
    }
}

/// Where the common configuration is; the transport that was made before has looked at it already.
fn common(root: &mut PciRoot<ConfigPorts>, function: DeviceFunction) -> Option<NonNull<u8>> {
    let is_common = |kind: u16| (kind >> 8) as u8 == VIRTIO_PCI_CAP_COMMON_CFG;
    let capability = root
        .capabilities(function)
        .find(|found| found.id == VENDOR_CAPABILITY && is_common(found.private_header))?;
    let bar = ConfigPorts.read_word(function, capability.offset + CAPABILITY_BAR) as u8;
    let offset = ConfigPorts.read_word(function, capability.offset + CAPABILITY_OFFSET);
    let (address, _) = root.bar_info(function, bar).ok()??.memory_address_size()?;
    NonNull::new((address + u64::from(offset)) as *mut u8)
}

impl Transport for HalvesTransport {
    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.write(QUEUE_SELECT, queue);
        self.write(QUEUE_SIZE, size as u16);
        self.write_halves(QUEUE_DESCRIPTORS, descriptors);
        self.write_halves(QUEUE_DRIVER, driver_area);
        self.write_halves(QUEUE_DEVICE, device_area);
        self.write(QUEUE_ENABLE, 1_u16);
    }

    fn device_type(&self) -> DeviceType {
        self.inner.device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        self.inner.read_device_features()
    }

    fn write_driver_features(&mut self, features: u64) {
        self.inner.write_driver_features(features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.inner.max_queue_size(queue)
    }

    fn notify(&mut self, queue: u16) {
        self.inner.notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.inner.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.inner.set_status(status);
    }

    fn set_guest_page_size(&mut self, bytes: u32) {
        self.inner.set_guest_page_size(bytes);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.inner.requires_legacy_layout()
    }

    fn queue_unset(&mut self, queue: u16) {
        self.inner.queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.inner.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.inner.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.inner.read_config_generation()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T, Error> {
        self.inner.read_config_space(offset)
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Result<(), Error> {
        self.inner.write_config_space(offset, value)
    }
}
