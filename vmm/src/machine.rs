//! A machine that has been built: what can be done to it, in which order, is [`crate::lifecycle`]'s to say.

use std::{
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kvm_ioctls::VmFd;
use sublet_vmm_protocol::{BaseSource, BootSource, DiskStatus, Wanted};

use crate::{
    arch::x86_64::registers::EntryPoint,
    block::layer::{
        Layer,
        base::{Base, BaseError},
    },
    boot::{self, BootError, Files},
    console::Console,
    devices::{Bus, power::PowerButton, virtio::block::DiskService},
    memory::{self, GuestMemory},
    vcpu::{GuestEnd, Vcpu},
};

/// How long a halt waits for requests that the host's disks have in hand.
const DEVICES_PATIENCE: Duration = Duration::from_secs(10);

pub struct Machine {
    /// Kept open: closing the virtual machine would disconnect its interrupts while its vCPUs run on.
    pub(crate) _vm: Arc<VmFd>,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) bus: Arc<Bus>,
    pub(crate) console: Arc<Console>,
    pub(crate) power_button: PowerButton,
    pub(crate) disks: Vec<DiskService>,
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) end: Arc<GuestEnd>,
    pub(crate) stopping: Arc<AtomicBool>,
}

impl Machine {
    /// Fills the memory with an operating system, and puts what comes with it under a disk. If that fails nothing of it is left.
    pub fn load(&self, source: &BootSource, mut files: Files) -> Result<EntryPoint, BootError> {
        let base = files.base.take();
        let loaded = boot::load(&self.memory, source, files, self.vcpus.len() as u8);
        let based = loaded.and_then(|entry| match (&source.base, base) {
            (Some(BaseSource { disk, .. }), Some(base)) => {
                self.put_under(*disk, base).map(|()| entry).map_err(BootError::Base)
            }
            _ => Ok(entry),
        });
        based.inspect_err(|_| self.unload())
    }

    fn put_under(&self, disk: usize, base: Base) -> Result<(), BaseError> {
        let layer = self.disks.get(disk).and_then(DiskService::layer).ok_or(BaseError::NoLayer(disk))?;
        layer.put_over(base)
    }

    /// Forgets an operating system that was loaded and is not to run.
    pub fn unload(&self) {
        // Fails only outside of the guest's memory, and this is that memory.
        let _ = memory::clear(&self.memory);
    }

    /// Lets the vCPUs into the guest.
    pub fn start(&mut self, entry: EntryPoint) {
        let mut vcpus = self.vcpus.iter_mut();
        if let Some(boot_cpu) = vcpus.next() {
            boot_cpu.start(Some(entry));
        }
        vcpus.for_each(|vcpu| vcpu.start(None));
    }

    pub fn press_power_button(&self) {
        self.power_button.press();
    }

    /// Gets every vCPU out of the guest and stops every device. When it returns nothing of the guest runs, and what its
    /// disks had in hand is done, unless the host's disk hangs: then that may still be done, and the guest's memory
    /// stays until it is.
    pub fn halt(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.vcpus.iter().for_each(Vcpu::interrupt);
        self.vcpus.iter_mut().for_each(Vcpu::join);
        self.bus.pci.reset(DEVICES_PATIENCE);
        self.console.flush();
    }

    /// How the guest ended, if it did so by itself.
    pub fn guest_end(&self) -> &GuestEnd {
        &self.end
    }

    /// More of what lies under a disk is there, and these chunks will not be.
    pub fn base_arrived(&self, failed: &[u64]) {
        self.layers().for_each(|layer| layer.arrived(failed));
    }

    /// What the guest waits for of what lies under a disk.
    pub fn wanted_of_base(&self) -> Wanted {
        let nothing = Wanted { generation: 0, chunks: Vec::new() };
        self.layers().find(|layer| layer.has_base()).map_or(nothing, Layer::wanted)
    }

    /// Each becomes readable when more of that is wanted.
    pub fn wanted_events(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.layers().map(Layer::wanted_event)
    }

    /// None of them is readable any more.
    pub fn acknowledge_wanted(&self) {
        self.layers().for_each(Layer::acknowledge_wanted);
    }

    fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.disks.iter().filter_map(DiskService::layer)
    }

    pub fn console(&self) -> &Console {
        &self.console
    }

    /// How its disks are served.
    pub fn disks(&self) -> Vec<DiskStatus> {
        self.disks.iter().map(DiskService::status).collect()
    }
}
