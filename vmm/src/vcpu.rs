//! A virtual CPU: a host thread of its own, pinned to the host CPU that was set aside for it.
//!
//! The thread exists from preparation on and waits; started, it runs the guest until the guest ends or the VMM
//! wants it out. To get it out, a flag is set and the thread is signalled; the signal's handler makes KVM return
//! at once even if the signal comes just before the guest is entered, so no end is ever missed or late.

use std::{
    cell::Cell,
    io,
    ptr::null_mut,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use kvm_bindings::{CpuId, kvm_run};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use sublet_vmm_protocol::Ended;
use thiserror::Error;
use vmm_sys_util::{
    errno,
    eventfd::EventFd,
    signal::{Killable, SIGRTMIN, register_signal_handler},
};

use crate::{
    arch::x86_64::{
        cpuid::{self, TooManyLeaves},
        msr,
        registers::{self, EntryPoint},
    },
    devices::Bus,
    sandbox::seccomp::Filter,
    threads::{Plan, SpawnError},
};

#[derive(Debug, Error)]
pub enum VcpuError {
    #[error("cannot create vCPU {index}")]
    Create { index: usize, source: errno::Error },
    #[error("cannot set {what} of vCPU {index}")]
    SetUp { index: usize, what: &'static str, source: errno::Error },
    #[error("cannot describe vCPU {index}")]
    Cpuid { index: usize, source: TooManyLeaves },
    #[error("vCPU {index} lacks a register that KVM does not know")]
    UnknownRegister { index: usize },
    #[error("cannot give vCPU {index} a thread")]
    Thread { index: usize, source: SpawnError },
    #[error("cannot handle the signal that stops vCPUs")]
    Signal(#[source] errno::Error),
}

/// How the guest ended, told once by whoever sees it first.
#[derive(Debug)]
pub struct GuestEnd {
    first: Mutex<Option<Ended>>,
    event: EventFd,
}

impl GuestEnd {
    pub fn new() -> io::Result<Self> {
        let event = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?;
        Ok(Self { first: Mutex::new(None), event })
    }

    pub fn tell(&self, how: Ended) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(how);
        // Fails only when the counter is full, and then the descriptor is readable anyway.
        let _ = self.event.write(1);
    }

    pub fn how(&self) -> Option<Ended> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Readable once the guest has ended.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

/// What all vCPUs of a machine share.
#[derive(Clone)]
pub struct Surroundings {
    pub bus: Arc<Bus>,
    pub end: Arc<GuestEnd>,
    pub stopping: Arc<AtomicBool>,
    /// What a vCPU's thread may do.
    pub filter: Filter,
}

/// A vCPU's thread, from outside.
#[derive(Debug)]
pub struct Vcpu {
    start: Option<SyncSender<Option<EntryPoint>>>,
    thread: Option<JoinHandle<()>>,
}

/// Installs the handler of the signal that gets vCPU threads out of the guest; once a process.
pub fn handle_stop_signal() -> Result<(), VcpuError> {
    register_signal_handler(SIGRTMIN(), on_stop_signal).map_err(VcpuError::Signal)
}

impl Vcpu {
    /// Makes vCPU `index` and its thread, which then waits on host CPU `host_cpu` to be started.
    pub fn prepare(
        vm: &VmFd,
        index: usize,
        host_cpu: u32,
        cpuid: &CpuId,
        surroundings: Surroundings,
    ) -> Result<Self, VcpuError> {
        let fd = create(vm, index, cpuid)?;
        let (start, started) = sync_channel(1);
        let end = surroundings.end.clone();
        let plan = Plan { name: format!("vcpu{index}"), cpus: Some(vec![host_cpu]) };
        let filter = surroundings.filter.clone();
        let run = move || wait_and_run(fd, index, &started, &surroundings);
        let broken = move || end.tell(failed(format!("the thread of vCPU {index} has a fault")));
        let thread = plan.spawn(filter, run, broken).map_err(|source| VcpuError::Thread { index, source })?;
        Ok(Self { start: Some(start), thread: Some(thread) })
    }

    /// Lets the vCPU into the guest: the boot CPU at its entry point, the others to wait for the boot CPU.
    pub fn start(&mut self, entry: Option<EntryPoint>) {
        if let Some(start) = self.start.take() {
            // A thread that is gone has told why.
            let _ = start.send(entry);
        }
    }

    /// Makes the vCPU leave the guest; [`Surroundings::stopping`] must be set.
    pub fn interrupt(&self) {
        if let Some(thread) = &self.thread {
            // Fails only for a thread that has ended already.
            let _ = thread.kill(SIGRTMIN());
        }
    }

    /// Waits until the thread has ended. A vCPU that was never started ends at once.
    pub fn join(&mut self) {
        self.start = None;
        if let Some(thread) = self.thread.take() {
            // Panics are caught and told inside the thread.
            let _ = thread.join();
        }
    }
}

fn create(vm: &VmFd, index: usize, cpuid: &CpuId) -> Result<VcpuFd, VcpuError> {
    let set_up = |what| move |source| VcpuError::SetUp { index, what, source };
    let fd = vm.create_vcpu(index as u64).map_err(|source| VcpuError::Create { index, source })?;
    let tsc_khz = fd.get_tsc_khz().map_err(set_up("the TSC's frequency"))?;
    let cpuid =
        cpuid::tell_frequencies(cpuid, tsc_khz).map_err(|source| VcpuError::Cpuid { index, source })?;
    fd.set_cpuid2(&cpuid).map_err(set_up("CPUID"))?;
    let msrs = msr::at_start().ok_or(VcpuError::UnknownRegister { index })?;
    let written = fd.set_msrs(&msrs).map_err(set_up("the model-specific registers"))?;
    if written != msrs.as_slice().len() {
        return Err(VcpuError::UnknownRegister { index });
    }
    fd.set_fpu(&registers::floating_point()).map_err(set_up("the floating point unit"))?;
    let mut lapic = fd.get_lapic().map_err(set_up("the local APIC"))?;
    registers::wire_local_interrupts(&mut lapic);
    fd.set_lapic(&lapic).map_err(set_up("the local APIC"))?;
    Ok(fd)
}

fn wait_and_run(mut fd: VcpuFd, index: usize, started: &Receiver<Option<EntryPoint>>, around: &Surroundings) {
    // The sender is dropped when the machine is given up before it was started.
    let Ok(entry) = started.recv() else { return };
    let guard = Interruptible::enter(&mut fd);
    let end = match entry.map_or(Ok(()), |entry| set_entry(&fd, entry)) {
        Ok(()) => run(&mut fd, index, around),
        Err(error) => Some(failed(format!("cannot set the registers of vCPU {index}: {error}"))),
    };
    drop(guard);
    if let Some(how) = end {
        around.end.tell(how);
    }
}

fn set_entry(fd: &VcpuFd, entry: EntryPoint) -> Result<(), errno::Error> {
    fd.set_sregs(&registers::enter_long_mode(fd.get_sregs()?))?;
    fd.set_regs(&registers::general(entry))
}

/// Runs the guest. Returns how it ended, or nothing if the VMM stopped it.
fn run(fd: &mut VcpuFd, index: usize, around: &Surroundings) -> Option<Ended> {
    while !around.stopping.load(Ordering::SeqCst) {
        let end = match fd.run() {
            Ok(exit) => handle(exit, index, &around.bus),
            Err(error) => match error.errno() {
                // A signal: ours to stop, or the kernel's business.
                libc::EINTR => {
                    fd.set_kvm_immediate_exit(0);
                    None
                }
                // A vCPU that was waiting for the boot CPU has been woken.
                libc::EAGAIN => None,
                _ => Some(failed(format!("KVM cannot run vCPU {index}: {error}"))),
            },
        };
        if end.is_some() {
            return end;
        }
    }
    None
}

fn handle(exit: VcpuExit<'_>, index: usize, bus: &Bus) -> Option<Ended> {
    match exit {
        VcpuExit::IoIn(port, data) => bus.port_in(port, data),
        VcpuExit::IoOut(port, data) => return bus.port_out(port, data),
        VcpuExit::MmioRead(address, data) => bus.read(address, data),
        VcpuExit::MmioWrite(address, data) => bus.write(address, data),
        VcpuExit::Shutdown => return Some(Ended::TripleFault),
        VcpuExit::Intr => {}
        VcpuExit::FailEntry(reason, cpu) => {
            return Some(failed(format!(
                "host CPU {cpu} could not enter the guest on vCPU {index}: hardware reason {reason:#x}"
            )));
        }
        other => {
            return Some(failed(format!("vCPU {index} stopped on what this VMM does not know: {other:?}")));
        }
    }
    None
}

fn failed(reason: String) -> Ended {
    Ended::Failed { reason }
}

thread_local! {
    /// What this thread shares with KVM while it runs a vCPU; null on every other thread.
    static RUN: Cell<*mut kvm_run> = const { Cell::new(null_mut()) };
}

/// While it exists, the stop signal reaches this thread's vCPU.
struct Interruptible;

impl Interruptible {
    fn enter(fd: &mut VcpuFd) -> Self {
        RUN.set(fd.get_kvm_run());
        Self
    }
}

impl Drop for Interruptible {
    fn drop(&mut self) {
        RUN.set(null_mut());
    }
}

/// Makes the vCPU of the signalled thread leave the guest, or not enter it.
extern "C" fn on_stop_signal(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let run = RUN.get();
    if !run.is_null() {
        // SAFETY: the pointer is this thread's own vCPU's, set by `Interruptible` and cleared before the mapping
        // goes; one byte is written, volatile, as KVM reads it from another place. A thread-local `Cell` with a
        // constant start and no destructor is plain memory, so reading it in a signal handler is sound.
        unsafe { (&raw mut (*run).immediate_exit).write_volatile(1) };
    }
}
