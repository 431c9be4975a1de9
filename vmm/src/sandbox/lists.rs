//! Which system calls each kind of thread may make. What is not here ends the process.
//!
//! No call here names a path, makes a process or a socket, or reaches another process. A call that is added needs a
//! reason that stands beside it.

use libc::*;
use sublet_vmm_protocol::DiskEngine;

use super::{
    ioctl::*,
    seccomp::{Call, Condition, Filter, FilterError},
};

/// What the allocator, locks, signals and the end of a thread take, whatever the thread does.
pub(super) const EVERY_THREAD: &[Call] = &[
    // Memory: ours alone, and never code.
    Call::any(SYS_brk),
    Call::with_both(
        SYS_mmap,
        Condition::Lacks { argument: 2, bits: PROT_EXEC as u32 },
        Condition::Has { argument: 3, bits: (MAP_PRIVATE | MAP_ANONYMOUS) as u32 },
    ),
    Call::with(SYS_mprotect, Condition::Lacks { argument: 2, bits: PROT_EXEC as u32 }),
    Call::any(SYS_mremap),
    Call::any(SYS_munmap),
    Call::any(SYS_madvise),
    // Locks and channels.
    Call::any(SYS_futex),
    Call::any(SYS_sched_yield),
    // Events between threads, interrupts, timers.
    Call::any(SYS_read),
    Call::any(SYS_write),
    Call::any(SYS_close),
    // A debug build looks whether a descriptor is open before it closes it.
    Call::with(SYS_fcntl, Condition::Is { argument: 1, value: F_GETFD as u32 }),
    // The clock, where the host's cannot be read without the kernel.
    Call::any(SYS_clock_gettime),
    // Signals, and calls that one has interrupted.
    Call::any(SYS_rt_sigprocmask),
    Call::any(SYS_rt_sigreturn),
    Call::any(SYS_restart_syscall),
    // The end of a thread.
    Call::any(SYS_sigaltstack),
    Call::any(SYS_exit),
    Call::any(SYS_exit_group),
];

/// The console's log and the timer that has it written.
const CONSOLE: &[Call] = &[Call::any(SYS_pwrite64), Call::any(SYS_timerfd_settime)];

/// The thread that decides.
const EVENT_LOOP: &[Call] = &[
    Call::any(SYS_epoll_wait),
    Call::any(SYS_epoll_ctl),
    // Connections to the control socket, and the descriptors that come over them.
    Call::any(SYS_accept4),
    Call::any(SYS_recvmsg),
    Call::any(SYS_sendto),
    // Kernel and initrd, and what lies under a disk.
    Call::any(SYS_fstat),
    Call::any(SYS_lseek),
    Call::any(SYS_pread64),
    // A vCPU is got out of the guest by a signal (pthread_kill(3)). This process is the first of its namespace.
    Call::any(SYS_getpid),
    Call::with_both(
        SYS_tgkill,
        Condition::Is { argument: 0, value: 1 },
        Condition::Is { argument: 2, value: STOP_SIGNAL },
    ),
    // Devices are stopped when the guest has ended.
    Call::ioctl(VHOST_VSOCK_SET_RUNNING),
    Call::ioctl(VHOST_NET_SET_BACKEND),
];

/// A vCPU runs the guest, and on its own time what the guest asks of its devices.
const VCPU: &[Call] = &[
    Call::ioctl(KVM_RUN),
    // Where the boot CPU starts.
    Call::ioctl(KVM_GET_SREGS),
    Call::ioctl(KVM_SET_SREGS),
    Call::ioctl(KVM_SET_REGS),
    // The guest sets up its message-signalled interrupts.
    Call::ioctl(KVM_SET_GSI_ROUTING),
    Call::ioctl(KVM_IRQFD),
    // The guest asks whether one that it has masked is pending.
    Call::any(SYS_ppoll),
    // A driver starts its device, which gets descriptors of its interrupts.
    Call::with(SYS_fcntl, Condition::Is { argument: 1, value: F_DUPFD_CLOEXEC as u32 }),
    Call::ioctl(VHOST_SET_FEATURES),
    Call::ioctl(VHOST_SET_MEM_TABLE),
    Call::ioctl(VHOST_SET_VRING_NUM),
    Call::ioctl(VHOST_SET_VRING_ADDR),
    Call::ioctl(VHOST_SET_VRING_BASE),
    Call::ioctl(VHOST_SET_VRING_CALL),
    Call::ioctl(VHOST_SET_VRING_KICK),
    Call::ioctl(VHOST_VSOCK_SET_RUNNING),
    Call::ioctl(VHOST_NET_SET_BACKEND),
    // What its driver takes off the host's hands.
    Call::with_both(
        SYS_ioctl,
        Condition::Is { argument: 1, value: TUN_SET_OFFLOAD },
        Condition::Lacks { argument: 2, bits: !OFFLOADS },
    ),
];

/// What lies under a disk, and the map of what of it has arrived.
const BASE: &[Call] = &[Call::any(SYS_pread64)];

/// A thread that serves a device's queues.
const WORKER: &[Call] = &[Call::any(SYS_epoll_wait)];

/// A disk's requests through a ring, which is made and restricted before; see [`crate::block::engine`].
const RING: &[Call] =
    &[Call::with(SYS_io_uring_enter, Condition::Lacks { argument: 3, bits: !IORING_ENTER_GETEVENTS })];

/// A disk's requests without one.
const BLOCKING: &[Call] = &[
    Call::any(SYS_preadv),
    Call::any(SYS_pwritev),
    Call::any(SYS_fdatasync),
    Call::with(SYS_fallocate, Condition::Is { argument: 1, value: ZERO_RANGE }),
];

/// The source of random bytes.
const RNG: &[Call] = &[Call::any(SYS_getrandom)];

/// The named port's connection.
const PORT: &[Call] =
    &[Call::any(SYS_epoll_ctl), Call::any(SYS_accept4), Call::any(SYS_recvfrom), Call::any(SYS_sendto)];

/// To give the kernel work and to see what is done of it (linux/io_uring.h); nothing else is asked of a ring.
const IORING_ENTER_GETEVENTS: u32 = 1;

/// Sums of frames, and large segments.
const OFFLOADS: u32 = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;

/// A range is zeroed, and no file grows by it.
const ZERO_RANGE: u32 = (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE) as u32;

/// `SIGRTMIN` of the C library, which keeps the two before it to itself.
const STOP_SIGNAL: u32 = 34;

/// The lists of all kinds of threads, compiled.
#[derive(Debug, Clone)]
pub struct Lists {
    pub event_loop: Filter,
    pub vcpu: Filter,
    pub disks: DiskFilters,
    pub rng: Filter,
    pub port: Filter,
}

/// One for each way in which a disk's requests are carried out.
#[derive(Debug, Clone)]
pub struct DiskFilters {
    ring: Filter,
    blocking: Filter,
}

impl DiskFilters {
    pub fn of(&self, engine: &DiskEngine) -> &Filter {
        match engine {
            DiskEngine::IoUring => &self.ring,
            DiskEngine::Blocking { .. } => &self.blocking,
        }
    }
}

impl Lists {
    pub fn compile() -> Result<Self, FilterError> {
        Ok(Self {
            event_loop: Filter::compile(&[EVERY_THREAD, CONSOLE, EVENT_LOOP])?,
            vcpu: Filter::compile(&[EVERY_THREAD, CONSOLE, VCPU])?,
            disks: DiskFilters {
                ring: Filter::compile(&[EVERY_THREAD, WORKER, BASE, RING])?,
                blocking: Filter::compile(&[EVERY_THREAD, WORKER, BASE, BLOCKING])?,
            },
            rng: Filter::compile(&[EVERY_THREAD, WORKER, RNG])?,
            port: Filter::compile(&[EVERY_THREAD, WORKER, PORT])?,
        })
    }

    /// For threads within a test's process, which then allocates as the VMM does.
    #[cfg(test)]
    pub fn for_tests() -> Self {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            std::thread::spawn(shrink_a_heap).join().unwrap();
            crate::threads::share_one_heap();
        });
        Self::compile().unwrap()
    }
}

/// Tests' threads have heaps already. The first time that one of several shrinks, the C library opens a file to learn whether
/// it may: it is not to be by a thread with a list.
#[cfg(test)]
fn shrink_a_heap() {
    drop((0..64).map(|_| vec![1_u8; 64 << 10]).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_compiles() {
        Lists::compile().unwrap();
    }

    #[test]
    fn the_stop_signal_is_the_c_librarys() {
        assert_eq!(STOP_SIGNAL, SIGRTMIN() as u32);
    }
}
