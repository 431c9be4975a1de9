//! The host's KVM: opened, checked for what a machine needs, and the virtual machine made in it.

use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Cap, Kvm, VmFd};
use thiserror::Error;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::errno;

use crate::{arch::layout, memory::GuestMemory};

/// The only version of the interface there has been since 2007.
const API_VERSION: i32 = 12;

/// What a machine cannot do without, and its name in the kernel's documentation.
const NEEDED: [(Cap, &str); 9] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    // Without it, and without a PIT, a guest has no timer that it need not calibrate.
    (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
];

#[derive(Debug, Error)]
pub enum KvmError {
    #[error("cannot open /dev/kvm; it must exist and this user must be allowed to read and write it")]
    Open(#[source] errno::Error),
    #[error("/dev/kvm speaks version {0} of its interface, not {API_VERSION}")]
    Version(i32),
    #[error("/dev/kvm lacks {0}")]
    Lacks(&'static str),
    #[error("cannot make a virtual machine")]
    CreateVm(#[source] errno::Error),
    #[error("cannot give the virtual machine {what}")]
    SetUp { what: &'static str, source: errno::Error },
}

/// Opens the host's KVM and checks that it can run a machine.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(KvmError::Open)?;
    match kvm.get_api_version() {
        API_VERSION => {}
        other => return Err(KvmError::Version(other)),
    }
    match NEEDED.into_iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        Some((_, name)) => Err(KvmError::Lacks(name)),
        None => Ok(kvm),
    }
}

/// Makes a virtual machine with its interrupt controllers, on the guest's memory. The memory must be kept for as
/// long as the virtual machine.
pub fn create_vm(kvm: &Kvm, memory: &GuestMemory) -> Result<Arc<VmFd>, KvmError> {
    let vm = kvm.create_vm().map_err(KvmError::CreateVm)?;
    let set_up = |what| move |source| KvmError::SetUp { what, source };
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP_START).map_err(set_up("its identity map page"))?;
    vm.set_tss_address(layout::KVM_TSS_START as usize).map_err(set_up("its task state pages"))?;
    vm.create_irq_chip().map_err(set_up("its interrupt controllers"))?;
    for (slot, region) in memory.iter().enumerate() {
        let description = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is one whole mapping of `memory`, which the caller keeps as long as the VM, and which
        // no Rust reference points into: all access goes through vm-memory's volatile slices.
        unsafe { vm.set_user_memory_region(description) }.map_err(set_up("its memory"))?;
    }
    Ok(Arc::new(vm))
}
