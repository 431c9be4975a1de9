//! Builds the machine that a configuration describes, inside the jail: everything that can be done before a kernel is
//! known.

use std::{
    io,
    os::unix::net::UnixListener,
    sync::{Arc, atomic::AtomicBool},
};

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Kvm, VmFd};
use sublet_vmm_protocol::{
    DiskConfig, MacAddress, MachineConfig, PortConfig, RngConfig, config::DISK_QUEUE_MAX,
};
use thiserror::Error;
use vmm_sys_util::errno;

use crate::{
    arch::{
        layout,
        x86_64::cpuid::{self, TooManyLeaves, Topology},
    },
    block::disk::Disk,
    devices::{
        Bus,
        power::PowerButton,
        rtc::Rtc,
        serial::SerialPort,
        virtio::{
            VirtioDevice,
            block::{Block, BlockError, BlockOptions, DiskService},
            console::{PortCard, PortError},
            net::{KernelNet, NetCard, NetError},
            rng::{Rng, RngError},
            transport::{Transport, TransportError},
            vsock::{KernelVsock, VsockCard, VsockError},
        },
    },
    interrupts::{InterruptError, Interrupts},
    kvm::{self, KvmError},
    machine::Machine,
    memory::GuestMemory,
    pci::{PciBus, host_bridge::HostBridge},
    resources::Resources,
    sandbox::{DiskFilters, Lists, seccomp::Filter},
    tap::Tap,
    vcpu::{self, GuestEnd, Surroundings, Vcpu, VcpuError},
};

#[derive(Debug, Error)]
pub enum BuildError {
    #[error("cannot use this host's KVM")]
    Kvm(#[source] KvmError),
    #[error("cannot read which CPU features KVM supports")]
    SupportedCpuid(#[source] errno::Error),
    #[error("cannot describe the guest's CPUs")]
    Cpuid(#[source] TooManyLeaves),
    #[error("cannot make the guest's CPUs")]
    Vcpu(#[source] VcpuError),
    #[error("cannot make an interrupt")]
    Interrupt(#[source] InterruptError),
    #[error("cannot make a disk's device")]
    Block(#[source] BlockError),
    #[error("cannot make the source of random bytes")]
    Rng(#[source] RngError),
    #[error("cannot make the vsock card")]
    Vsock(#[source] VsockError),
    #[error("cannot make the port")]
    Port(#[source] PortError),
    #[error("cannot make the network card")]
    Net(#[source] NetError),
    #[error("cannot put a device on the PCI bus")]
    Transport(#[source] TransportError),
    #[error("the PCI bus has no slot left")]
    BusFull,
    #[error("cannot make an event descriptor")]
    Event(#[source] io::Error),
}

/// Builds a prepared machine from what was taken of the host. Its threads keep to the CPUs that the configuration
/// names, and to their lists of system calls.
pub fn build(config: &MachineConfig, resources: Resources, lists: &Lists) -> Result<Machine, BuildError> {
    let Resources { kvm, memory, console, disks, vsock, network, port } = resources;
    let vm = kvm::create_vm(&kvm, &memory).map_err(BuildError::Kvm)?;
    let interrupts = Interrupts::new(vm.clone()).map_err(BuildError::Interrupt)?;
    let console = Arc::new(console);
    let mut devices = Devices { vm: &vm, interrupts: &interrupts, memory: &memory, bus: PciBus::default() };
    devices.bus.add(Box::new(HostBridge::new()));
    // Disks come first and in order, so that the guest names them in that order.
    let disks = devices.add_disks(config, disks, &lists.disks)?;
    devices.add_vsock(vsock)?;
    devices.add_network(network)?;
    devices.add_rng(config.rng, &lists.rng)?;
    devices.add_port(port, &lists.port)?;
    let pci = devices.bus;
    let serial_interrupt = interrupts.pin(layout::COM1_GSI).map_err(BuildError::Interrupt)?;
    let serial = SerialPort::new(serial_interrupt, console.clone());
    let bus = Arc::new(Bus { serial, rtc: Rtc::default(), pci: Arc::new(pci) });
    let button_interrupt = interrupts.pin(layout::POWER_BUTTON_GSI).map_err(BuildError::Interrupt)?;
    let end = Arc::new(GuestEnd::new().map_err(BuildError::Event)?);
    let stopping = Arc::new(AtomicBool::new(false));
    let filter = lists.vcpu.clone();
    let around = Surroundings { bus: bus.clone(), end: end.clone(), stopping: stopping.clone(), filter };
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

fn build_vcpus(
    config: &MachineConfig,
    kvm: &Kvm,
    vm: &VmFd,
    around: &Surroundings,
) -> Result<Vec<Vcpu>, BuildError> {
    vcpu::handle_stop_signal().map_err(BuildError::Vcpu)?;
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(BuildError::SupportedCpuid)?;
    let topology = Topology::of_host_cpus(&config.vcpu_host_cpus, !config.shared_cpus);
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
    fn add_disks(
        &mut self,
        config: &MachineConfig,
        disks: Vec<Disk>,
        filters: &DiskFilters,
    ) -> Result<Vec<DiskService>, BuildError> {
        let add = |(number, (disk, about))| {
            let options = block_options(about, number, config.vcpu_host_cpus.len());
            let (disk, memory) = (Arc::new(disk), self.memory.clone());
            let block = Block::new(disk, &options, memory, filters.clone()).map_err(BuildError::Block)?;
            let service = block.service().clone();
            self.add(Box::new(block)).map(|()| service)
        };
        disks.into_iter().zip(&config.disks).enumerate().map(add).collect()
    }

    fn add_vsock(&mut self, vsock: Option<(KernelVsock, u32)>) -> Result<(), BuildError> {
        let Some((kernel, cid)) = vsock else { return Ok(()) };
        let card = VsockCard::new(kernel, cid, self.memory.clone()).map_err(BuildError::Vsock)?;
        self.add(Box::new(card))
    }

    fn add_network(&mut self, network: Option<(KernelNet, Tap, MacAddress)>) -> Result<(), BuildError> {
        let Some((kernel, tap, mac)) = network else { return Ok(()) };
        let card = NetCard::new(kernel, tap, mac, self.memory.clone()).map_err(BuildError::Net)?;
        self.add(Box::new(card))
    }

    fn add_rng(&mut self, rng: Option<RngConfig>, filter: &Filter) -> Result<(), BuildError> {
        let Some(rng) = rng else { return Ok(()) };
        let rng = Rng::new(rng, self.memory.clone(), filter.clone()).map_err(BuildError::Rng)?;
        self.add(Box::new(rng))
    }

    fn add_port(
        &mut self,
        port: Option<(PortConfig, UnixListener)>,
        filter: &Filter,
    ) -> Result<(), BuildError> {
        let Some((PortConfig { name, .. }, listener)) = port else { return Ok(()) };
        let card = PortCard::new(name, listener, self.memory.clone(), filter.clone());
        self.add(Box::new(card.map_err(BuildError::Port)?))
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
