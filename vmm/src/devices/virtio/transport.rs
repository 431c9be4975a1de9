//! virtio over PCI (virtio 1.2, 4.1): a function whose capabilities say where in its registers to find what.

use std::{io, sync::Arc, time::Duration};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use thiserror::Error;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Error as QueueError, Queue, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::{errno, eventfd::EventFd};

use super::{
    ActivateError, Activation, ActiveQueue, DeviceFailure, VirtioDevice,
    common_config::{CommonConfig, Effect, QueueConfig},
};
use crate::{
    arch::layout,
    interrupts::{InterruptError, Interrupts},
    memory::GuestMemory,
    pci::{
        PciFunction,
        config_space::{ConfigSpace, Identity},
        msix::{self, Msix},
    },
};

/// virtio's PCI vendor, and where its modern device ids start (virtio 1.2, 4.1.2).
const VENDOR: u16 = 0x1af4;
const DEVICE_BASE: u16 = 0x1040;
const REVISION: u8 = 1;

/// Where things are in the function's registers, each on pages of its own.
const COMMON_START: u64 = 0x0000;
const COMMON_SIZE: u64 = 0x38;
const ISR_START: u64 = 0x1000;
const ISR_SIZE: u64 = 1;
const DEVICE_START: u64 = 0x2000;
const DEVICE_SIZE: u64 = 0x1000;
const NOTIFY_START: u64 = 0x3000;
const NOTIFY_SIZE: u64 = 0x1000;
const TABLE_START: u64 = 0x4000;
const TABLE_SIZE: u64 = 0x1000;
const PENDING_START: u64 = 0x5000;
const PENDING_SIZE: u64 = 0x1000;
/// Bytes between the notification registers of two queues.
const NOTIFY_STEP: u32 = 4;
/// How long a driver's reset keeps its vCPU waiting. What takes longer the driver sees by the status, which it has to
/// read until it is 0 (virtio 1.2, 2.4.2).
const RESET_PATIENCE: Duration = Duration::from_millis(5);

/// Vendor-specific capability, and the kinds that virtio makes of it (virtio 1.2, 4.1.4).
const CAPABILITY_ID: u8 = 0x09;
const KIND_COMMON: u8 = 1;
const KIND_NOTIFY: u8 = 2;
const KIND_ISR: u8 = 3;
const KIND_DEVICE: u8 = 4;
const KIND_CONFIG_ACCESS: u8 = 5;
/// Offsets in the configuration access capability, by which a driver that cannot map registers reads them.
const ACCESS_BAR: usize = 4;
const ACCESS_OFFSET: usize = 8;
const ACCESS_LENGTH: usize = 12;
const ACCESS_DATA: usize = 16;

#[derive(Debug, Error)]
pub enum TransportError {
    #[error("cannot give a device its interrupts")]
    Interrupts(#[source] InterruptError),
    #[error("cannot let KVM take a device's notifications")]
    Notifications(#[source] errno::Error),
}

/// Why a device could not be started as its driver configured it.
#[derive(Debug, Error)]
enum StartError {
    #[error("the driver's queue {0} lies outside its memory or is misaligned")]
    BadQueue(usize),
    #[error("cannot duplicate an event descriptor")]
    Event(#[source] io::Error),
    #[error(transparent)]
    Device(ActivateError),
}

/// A virtio device in a slot of the PCI bus.
pub struct Transport {
    device: Box<dyn VirtioDevice>,
    memory: Arc<GuestMemory>,
    space: ConfigSpace,
    common: CommonConfig,
    msix: Msix,
    msix_capability: usize,
    access_capability: usize,
    failure: DeviceFailure,
    /// The device still has something of its last driver's in hand.
    is_resetting: bool,
}

impl Transport {
    /// Puts a device behind the registers of `slot`: one interrupt a queue and one for the device itself.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        slot: usize,
        vm: &VmFd,
        interrupts: &Arc<Interrupts>,
        memory: Arc<GuestMemory>,
    ) -> Result<Self, TransportError> {
        let lines = (0..=device.queues().len()).map(|_| interrupts.message_line());
        let msix = Msix::new(lines.collect::<Result<_, _>>().map_err(TransportError::Interrupts)?);
        for (index, queue) in device.queues().iter().enumerate() {
            let address = layout::bar_start(slot) + NOTIFY_START + index as u64 * u64::from(NOTIFY_STEP);
            vm.register_ioevent(&queue.kick, &IoEventAddress::Mmio(address), NoDatamatch)
                .map_err(TransportError::Notifications)?;
        }
        Ok(Self::with_msix(device, slot, msix, memory))
    }

    /// The same with interrupts of another's making, whose notifications only come from the registers.
    pub fn with_msix(
        device: Box<dyn VirtioDevice>,
        slot: usize,
        msix: Msix,
        memory: Arc<GuestMemory>,
    ) -> Self {
        let sizes = device.queues().iter().map(|queue| queue.max_size);
        let common = CommonConfig::new(device.features(), sizes, msix.vectors());
        let identity = device.identity();
        let mut space = ConfigSpace::new(Identity {
            vendor: VENDOR,
            device: DEVICE_BASE + identity.device_type,
            revision: REVISION,
            class: identity.class,
            subsystem_vendor: VENDOR,
            subsystem: DEVICE_BASE + identity.device_type,
        })
        .with_bar(layout::bar_start(slot) as u32, layout::PCI_BAR_SIZE as u32);
        let access_capability = add_virtio_capabilities(&mut space);
        let (body, writable) = msix.capability(TABLE_START as u32, PENDING_START as u32);
        let msix_capability = space.add_capability(msix::CAPABILITY_ID, &body, &writable);
        let failure = DeviceFailure::default();
        Self {
            device,
            memory,
            space,
            common,
            msix,
            msix_capability,
            access_capability,
            failure,
            is_resetting: false,
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Reset => {
                self.is_resetting = true;
                self.go_on_resetting(RESET_PATIENCE);
            }
            Effect::Activate => {
                if self.start().is_err() {
                    self.failure.tell();
                }
            }
        }
    }

    /// Until the device has let go of everything the registers stay as they are.
    fn go_on_resetting(&mut self, patience: Duration) {
        if self.is_resetting && self.device.reset(patience) {
            self.common.reset();
            self.failure = DeviceFailure::default();
            self.is_resetting = false;
        }
    }

    fn start(&mut self) -> Result<(), StartError> {
        let config_changed = self.call(self.common.config_vector())?;
        self.failure = DeviceFailure::new(config_changed);
        let queues = (0..self.common.queues().len()).map(|index| self.active_queue(index));
        let queues = queues.collect::<Result<_, _>>()?;
        let features = self.common.accepted_features();
        let failure = self.failure.clone();
        self.device.activate(Activation { features, queues, failure }).map_err(StartError::Device)
    }

    /// The queue as configured, if it was enabled; every part of it lies in the guest's memory.
    fn active_queue(&self, index: usize) -> Result<Option<ActiveQueue>, StartError> {
        let Some(config) = self.common.queues().get(index).filter(|config| config.enabled) else {
            return Ok(None);
        };
        let event_idx = self.common.accepted_features() & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let queue = queue(config, event_idx)
            .ok()
            // An available ring at address 0 is what virtio-queue takes for "not configured".
            .filter(|queue| config.avail != 0 && queue.is_valid(&*self.memory))
            .ok_or(StartError::BadQueue(index))?;
        Ok(Some(ActiveQueue { queue, call: self.call(config.vector)? }))
    }

    /// What raises this vector; none for a vector that is none.
    fn call(&self, vector: u16) -> Result<Option<EventFd>, StartError> {
        self.msix.event(vector).map(|event| event.try_clone()).transpose().map_err(StartError::Event)
    }

    /// The driver notifies a queue by some way that KVM does not take.
    fn notify(&self, offset: u64) {
        let queue = self.device.queues().get((offset / u64::from(NOTIFY_STEP)) as usize);
        if let Some(queue) = queue {
            // Fails only when the notification is pending already.
            let _ = queue.kick.write(1);
        }
    }

    fn read_device_config(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset as usize..).zip(data) {
            *byte = self.device.config().get(at).copied().unwrap_or(0xff);
        }
    }

    /// What the configuration access capability points to, if `offset` and `length` are its data register's.
    fn accessed(&self, offset: usize, length: usize) -> Option<u64> {
        let at = self.access_capability;
        let word = |offset| {
            let mut bytes = [0; 4];
            self.space.read(at + offset, &mut bytes);
            u32::from_le_bytes(bytes)
        };
        let start = u64::from(word(ACCESS_OFFSET));
        let is_whole = offset == at + ACCESS_DATA
            && matches!(length, 1 | 2 | 4)
            && word(ACCESS_LENGTH) as usize == length;
        let is_inside = word(ACCESS_BAR) & 0xff == 0 && start + length as u64 <= layout::PCI_BAR_SIZE;
        (is_whole && is_inside).then_some(start)
    }

    fn take_msix_control(&mut self) -> Result<(), InterruptError> {
        let mut control = [0; 2];
        self.space.read(self.msix_capability + msix::CONTROL_OFFSET, &mut control);
        self.msix.set_control(u16::from_le_bytes(control))
    }

    /// An interrupt that cannot be connected leaves a device that the driver cannot use.
    fn check(&mut self, result: Result<(), InterruptError>) {
        if result.is_err() {
            self.failure.tell();
        }
    }
}

impl PciFunction for Transport {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        match self.accessed(offset, data.len()) {
            Some(register) => self.read_registers(register, data),
            None => self.space.read(offset, data),
        }
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        if let Some(register) = self.accessed(offset, data.len()) {
            return self.write_registers(register, data);
        }
        self.space.write(offset, data);
        let result = self.take_msix_control();
        self.check(result);
    }

    fn read_registers(&mut self, offset: u64, data: &mut [u8]) {
        self.go_on_resetting(Duration::ZERO);
        if self.failure.is_told() {
            self.common.need_reset();
        }
        match area(offset) {
            Some((COMMON_START, at)) => self.common.read(at, data),
            // No interrupt here ever needs to be asked after: there is no INTx.
            Some((ISR_START, _)) => data.fill(0),
            Some((DEVICE_START, at)) => self.read_device_config(at, data),
            Some((TABLE_START, at)) => self.msix.read_table(at, data),
            Some((PENDING_START, at)) => self.msix.read_pending(at, data),
            _ => {}
        }
    }

    fn write_registers(&mut self, offset: u64, data: &[u8]) {
        self.go_on_resetting(Duration::ZERO);
        match area(offset) {
            Some((COMMON_START, _)) if self.is_resetting => {}
            Some((COMMON_START, at)) => {
                let effect = self.common.write(at, data);
                self.apply(effect);
            }
            Some((NOTIFY_START, at)) => self.notify(at),
            Some((TABLE_START, at)) => {
                let result = self.msix.write_table(at, data);
                self.check(result);
            }
            _ => {}
        }
    }

    fn reset(&mut self, patience: Duration) -> bool {
        self.device.reset(patience)
    }
}

/// Which part of the registers an offset lies in, and where in it.
fn area(offset: u64) -> Option<(u64, u64)> {
    [
        (COMMON_START, COMMON_SIZE),
        (ISR_START, ISR_SIZE),
        (DEVICE_START, DEVICE_SIZE),
        (NOTIFY_START, NOTIFY_SIZE),
        (TABLE_START, TABLE_SIZE),
        (PENDING_START, PENDING_SIZE),
    ]
    .into_iter()
    .find(|(start, size)| (*start..start + size).contains(&offset))
    .map(|(start, _)| (start, offset - start))
}

/// Returns where the configuration access capability is.
fn add_virtio_capabilities(space: &mut ConfigSpace) -> usize {
    let mut add = |kind, start: u64, size: u64, extra: &[u8], writable: &[u8]| {
        // After id and pointer: length, kind, BAR, id, two bytes of padding, offset, length.
        let mut body = vec![(16 + extra.len()) as u8, kind, 0, 0, 0, 0];
        body.extend((start as u32).to_le_bytes());
        body.extend((size as u32).to_le_bytes());
        body.extend(extra);
        space.add_capability(CAPABILITY_ID, &body, writable)
    };
    add(KIND_COMMON, COMMON_START, COMMON_SIZE, &[], &[]);
    add(KIND_ISR, ISR_START, ISR_SIZE, &[], &[]);
    add(KIND_DEVICE, DEVICE_START, DEVICE_SIZE, &[], &[]);
    add(KIND_NOTIFY, NOTIFY_START, NOTIFY_SIZE, &NOTIFY_STEP.to_le_bytes(), &[]);
    let mut writable = [0; 18];
    writable[ACCESS_BAR - 2] = 0xff;
    writable[ACCESS_OFFSET - 2..].fill(0xff);
    add(KIND_CONFIG_ACCESS, 0, 0, &[0; 4], &writable)
}

fn queue(config: &QueueConfig, event_idx: bool) -> Result<Queue, QueueError> {
    let mut queue = Queue::new(config.max_size)?;
    queue.try_set_size(config.size)?;
    queue.try_set_desc_table_address(GuestAddress(config.desc))?;
    queue.try_set_avail_ring_address(GuestAddress(config.avail))?;
    queue.try_set_used_ring_address(GuestAddress(config.used))?;
    queue.set_event_idx(event_idx);
    queue.set_ready(true);
    Ok(queue)
}

#[cfg(test)]
mod tests;
