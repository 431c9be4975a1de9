//! What a machine takes of its host into its jail: devices and files opened, memory locked, a log and a socket made.
//! In there nothing can be opened.

use std::{os::unix::net::UnixListener, sync::Arc};

use kvm_ioctls::Kvm;
use sublet_vmm_protocol::{MacAddress, MachineConfig, PortConfig};
use thiserror::Error;

use crate::{
    block::{
        disk::{Disk, OpenDiskError},
        engine,
    },
    console::{Console, ConsoleError},
    devices::virtio::{net::KernelNet, vsock::KernelVsock},
    kvm::{self, KvmError},
    memory::{self, GuestMemory, MemoryError, Pages},
    oom,
    sandbox::Limits,
    socket::{self, ListenError},
    tap::{OpenTapError, Tap},
    threads::{self, PinError},
};

#[derive(Debug, Error)]
pub enum ResourceError {
    #[error("cannot keep to the CPUs that were set aside")]
    Pin(#[source] PinError),
    #[error("cannot use this host's KVM")]
    Kvm(#[source] KvmError),
    #[error("cannot set the guest's memory aside")]
    Memory(#[source] MemoryError),
    #[error("cannot make the console")]
    Console(#[source] ConsoleError),
    #[error("cannot use disks[{number}].path")]
    Disk { number: usize, source: OpenDiskError },
    #[error("cannot open /dev/vhost-vsock; it must exist and this user must be allowed to read and write it")]
    Vsock(#[source] vhost::Error),
    #[error("cannot make port.socket")]
    Port(#[source] ListenError),
    #[error("cannot use network.tap")]
    Tap(#[source] OpenTapError),
    #[error("cannot open /dev/vhost-net; it must exist and this user must be allowed to read and write it")]
    Net(#[source] vhost::Error),
}

pub struct Resources {
    pub(crate) kvm: Kvm,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) console: Console,
    pub(crate) disks: Vec<Disk>,
    /// With the guest's context id.
    pub(crate) vsock: Option<(KernelVsock, u32)>,
    /// With its socket.
    pub(crate) port: Option<(PortConfig, UnixListener)>,
    /// With the card's address.
    pub(crate) network: Option<(KernelNet, Tap, MacAddress)>,
}

impl Resources {
    /// Takes what the configuration names. This thread then keeps to the CPUs for service.
    pub fn take(config: &MachineConfig) -> Result<Self, ResourceError> {
        let disks = open_disks(config)?;
        let tap = config.network.as_ref().map(|network| Tap::open(&network.tap)).transpose();
        let tap = tap.map_err(ResourceError::Tap)?;
        let kvm = kvm::open().map_err(ResourceError::Kvm)?;
        let memory = build_memory(config)?;
        let console = Console::new(&config.console).map_err(ResourceError::Console)?;
        let open_vsock = || KernelVsock::new(memory.clone()).map_err(ResourceError::Vsock);
        let vsock = config.vsock.as_ref().map(|vsock| Ok((open_vsock()?, vsock.guest_cid))).transpose()?;
        let open_net = || KernelNet::new(memory.clone()).map_err(ResourceError::Net);
        let card = config.network.as_ref().zip(tap);
        let network = card.map(|(config, tap)| Ok((open_net()?, tap, config.mac))).transpose()?;
        let port = config.port.as_ref().map(listen).transpose()?;
        Ok(Self { kvm, console, disks, vsock, network, port, memory })
    }

    /// What the machine will need of the process that it runs in.
    pub fn limits(&self, config: &MachineConfig) -> Limits {
        let disks = self.disks.iter().map(Disk::file_bytes);
        let of_disks = self.disks.len() * (1 + engine::KERNEL_THREADS as usize);
        let others = usize::from(config.rng.is_some()) + usize::from(config.port.is_some());
        Limits {
            threads: (1 + config.vcpu_host_cpus.len() + of_disks + others) as u64,
            largest_file_bytes: disks.chain([config.console.file_bytes()]).max().unwrap_or(0),
        }
    }
}

fn listen(port: &PortConfig) -> Result<(PortConfig, UnixListener), ResourceError> {
    let listener = socket::listen(&port.socket).map_err(ResourceError::Port)?;
    Ok((port.clone(), listener))
}

/// Opens the disks before anything else is made, so that one that is not there costs nothing.
fn open_disks(config: &MachineConfig) -> Result<Vec<Disk>, ResourceError> {
    let mut disks = Vec::with_capacity(config.disks.len());
    for (number, disk) in config.disks.iter().enumerate() {
        let disk = Disk::open(disk, &disks).map_err(|source| ResourceError::Disk { number, source })?;
        disks.push(disk);
    }
    Ok(disks)
}

/// Builds the memory on the guest's CPUs and near them, and then keeps to the CPUs for service.
fn build_memory(config: &MachineConfig) -> Result<Arc<GuestMemory>, ResourceError> {
    threads::pin_current(&config.vcpu_host_cpus).map_err(ResourceError::Pin)?;
    let pages = if config.huge_pages { Pages::Huge } else { Pages::Any };
    let build = || memory::build(config.memory_mib, pages, &config.vcpu_host_cpus);
    let memory = oom::first_to_go_while(build).map_err(ResourceError::Memory)?;
    if !config.service_host_cpus.is_empty() {
        threads::pin_current(&config.service_host_cpus).map_err(ResourceError::Pin)?;
    }
    Ok(memory)
}
