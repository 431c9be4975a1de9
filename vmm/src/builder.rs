//! Builds the machine that a configuration describes: everything that can be done before a kernel is known.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
};

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Kvm, VmFd};
use sublet_vmm_protocol::{DiskConfig, DiskStatus, MachineConfig, config::DISK_QUEUE_MAX};
use thiserror::Error;
use vmm_sys_util::errno;

use crate::{
    arch::{
        layout,
        x86_64::cpuid::{self, TooManyLeaves, Topology},
    },
    block::disk::{Disk, OpenDiskError},
    console::{Console, ConsoleError},
    devices::{
        Bus,
        power::PowerButton,
        serial::SerialPort,
        virtio::{
            VirtioDevice,
            block::{Block, BlockError, BlockOptions},
            rng::{Rng, RngError},
            transport::{Transport, TransportError},
            vsock::{Vsock, VsockError},
        },
    },
    interrupts::{InterruptError, Interrupts},
    kvm::{self, KvmError},
    machine::Machine,
    memory::{self, GuestMemory, MemoryError},
    oom,
    pci::{PciBus, host_bridge::HostBridge},
    threads::{self, PinError},
    vcpu::{self, GuestEnd, Surroundings, Vcpu, VcpuError},
};

#[derive(Debug, Error)]
pub enum BuildError {
    #[error("cannot keep to the CPUs that were set aside")]
    Pin(#[source] PinError),
    #[error("cannot use this host's KVM")]
    Kvm(#[source] KvmError),
    #[error("cannot set the guest's memory aside")]
    Memory(#[source] MemoryError),
    #[error("cannot read which CPU features KVM supports")]
    SupportedCpuid(#[source] errno::Error),
    #[error("cannot describe the guest's CPUs")]
    Cpuid(#[source] TooManyLeaves),
    #[error("cannot make the guest's CPUs")]
    Vcpu(#[source] VcpuError),
    #[error("cannot make an interrupt")]
    Interrupt(#[source] InterruptError),
    #[error("cannot make the console")]
    Console(#[source] ConsoleError),
    #[error("cannot use disks[{number}].path")]
    OpenDisk { number: usize, source: OpenDiskError },
    #[error("cannot make a disk's device")]
    Block(#[source] BlockError),
    #[error("cannot make the source of random bytes")]
    Rng(#[source] RngError),
    #[error("cannot make the vsock card")]
    Vsock(#[source] VsockError),
    #[error("cannot put a device on the PCI bus")]
    Transport(#[source] TransportError),
    #[error("the PCI bus has no slot left")]
    BusFull,
    #[error("cannot make an event descriptor")]
    Event(#[source] io::Error),
}

/// Builds a prepared machine. Threads that it starts, and this one, keep to the CPUs that the configuration names.
pub fn build(config: &MachineConfig) -> Result<Machine, BuildError> {
    let disks = open_disks(config)?;
    let kvm = kvm::open().map_err(BuildError::Kvm)?;
    let memory = build_memory(config)?;
    let vm = kvm::create_vm(&kvm, &memory).map_err(BuildError::Kvm)?;
    let interrupts = Interrupts::new(vm.clone());
    let console = Arc::new(Console::new(&config.console).map_err(BuildError::Console)?);
    let devices = Devices { vm: &vm, interrupts: &interrupts, memory: &memory, bus: PciBus::default() };
    let (pci, disks) = devices.build(config, disks)?;
    let serial_interrupt = interrupts.pin(layout::COM1_GSI).map_err(BuildError::Interrupt)?;
    let bus =
        Arc::new(Bus { serial: SerialPort::new(serial_interrupt, console.clone()), pci: Arc::new(pci) });
    let button_interrupt = interrupts.pin(layout::POWER_BUTTON_GSI).map_err(BuildError::Interrupt)?;
    let end = Arc::new(GuestEnd::new().map_err(BuildError::Event)?);
    let stopping = Arc::new(AtomicBool::new(false));
    let around = Surroundings { bus: bus.clone(), end: end.clone(), stopping: stopping.clone() };
    let vcpus = build_vcpus(config, &kvm, &vm, &around)?;
    Ok(Machine {
        _vm: vm,
        memory,
        bus,
        console,
        power_button: PowerButton::new(button_interrupt),
        disks,
        vcpus,
        end,
        stopping,
    })
}

/// Opens the disks before anything else is made, so that one that is not there costs nothing.
fn open_disks(config: &MachineConfig) -> Result<Vec<Disk>, BuildError> {
    let mut disks = Vec::with_capacity(config.disks.len());
    for (number, disk) in config.disks.iter().enumerate() {
        let disk = Disk::open(disk, &disks).map_err(|source| BuildError::OpenDisk { number, source })?;
        disks.push(disk);
    }
    Ok(disks)
}

/// Builds the memory from a CPU of the guest's, so that it lies near them, and then keeps to the CPUs for service.
fn build_memory(config: &MachineConfig) -> Result<Arc<GuestMemory>, BuildError> {
    threads::pin_current(&config.vcpu_host_cpus).map_err(BuildError::Pin)?;
    let memory = oom::first_to_go_while(|| memory::build(config.memory_mib)).map_err(BuildError::Memory)?;
    if !config.service_host_cpus.is_empty() {
        threads::pin_current(&config.service_host_cpus).map_err(BuildError::Pin)?;
    }
    Ok(memory)
}

fn build_vcpus(
    config: &MachineConfig,
    kvm: &Kvm,
    vm: &VmFd,
    around: &Surroundings,
) -> Result<Vec<Vcpu>, BuildError> {
    vcpu::handle_stop_signal().map_err(BuildError::Vcpu)?;
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(BuildError::SupportedCpuid)?;
    let topology = Topology::of_host_cpus(&config.vcpu_host_cpus);
    let vcpus = config.vcpu_host_cpus.iter().enumerate().map(|(index, host_cpu)| {
        let cpuid = cpuid::of_vcpu(&supported, index as u32, topology).map_err(BuildError::Cpuid)?;
        Vcpu::prepare(vm, index, *host_cpu, &cpuid, around.clone()).map_err(BuildError::Vcpu)
    });
    vcpus.collect()
}

/// The PCI bus while it is being filled.
struct Devices<'a> {
    vm: &'a VmFd,
    interrupts: &'a Arc<Interrupts>,
    memory: &'a Arc<GuestMemory>,
    bus: PciBus,
}

impl Devices<'_> {
    /// Disks come first and in order, so that the guest names them in that order.
    fn build(
        mut self,
        config: &MachineConfig,
        disks: Vec<Disk>,
    ) -> Result<(PciBus, Vec<DiskStatus>), BuildError> {
        self.bus.add(Box::new(HostBridge::new()));
        let mut statuses = Vec::with_capacity(disks.len());
        for (number, (disk, about)) in disks.into_iter().zip(&config.disks).enumerate() {
            let options = block_options(about, number, config.vcpu_host_cpus.len());
            let block =
                Block::new(Arc::new(disk), &options, self.memory.clone()).map_err(BuildError::Block)?;
            statuses.push(block.status().clone());
            self.add(Box::new(block))?;
        }
        if let Some(vsock) = &config.vsock {
            let vsock = Vsock::new(vsock.guest_cid, self.memory.clone()).map_err(BuildError::Vsock)?;
            self.add(Box::new(vsock))?;
        }
        if let Some(rng) = config.rng {
            self.add(Box::new(Rng::new(rng, self.memory.clone()).map_err(BuildError::Rng)?))?;
        }
        Ok((self.bus, statuses))
    }

    fn add(&mut self, device: Box<dyn VirtioDevice>) -> Result<(), BuildError> {
        let slot = self.bus.next_slot().ok_or(BuildError::BusFull)?;
        let transport = Transport::new(device, slot, self.vm, self.interrupts, self.memory.clone());
        self.bus.add(Box::new(transport.map_err(BuildError::Transport)?));
        Ok(())
    }
}

/// How disk `number` is given to the guest; with a queue a vCPU, if nothing else is asked for.
fn block_options(disk: &DiskConfig, number: usize, vcpus: usize) -> BlockOptions {
    BlockOptions {
        number,
        serial: disk.serial.clone().unwrap_or_else(|| format!("sublet-{number}")),
        queues: disk.queues.unwrap_or((vcpus as u16).clamp(1, DISK_QUEUE_MAX)),
        limits: disk.limits,
    }
}
