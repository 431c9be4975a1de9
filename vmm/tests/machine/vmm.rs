//! A VMM as the agent has it: started as a child, found by its socket.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use sublet_vmm_protocol::{
    BaseFiles, BootFiles, ConsoleConfig, ConsoleLog, Control, ControlError, DiskConfig, Ended, MachineConfig,
    MachineState, PROTOCOL_VERSION, Request, Status,
};

use crate::process::Process;

pub(crate) const PROGRAM: &str = "/usr/lib/sublet/sublet-vmm";
/// Each machine is a user of its own.
const FIRST_USER: u32 = 70_000;
const IMAGES: &str = "/usr/share/sublet/images";
/// A stock kernel reaches init in 4 to 8 s on the lab's emulated CPUs; what takes longer than this never comes.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Kernel and initrd of an OS image.
#[derive(Clone, Copy)]
pub(crate) enum Image {
    /// Debian's 6.12, as an ELF file.
    Elf612,
    /// Debian's 6.1, as a bzImage.
    BzImage61,
}

/// What a machine is to boot.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) command_line: String,
}

/// A machine and the way to its VMM. Dropped, it is released.
pub(crate) struct Vmm {
    pub(crate) config: MachineConfig,
    control: Control,
}

/// A small machine with this many vCPUs, on files of its own.
pub(crate) fn machine(vcpus: u32) -> MachineConfig {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // The tests run in a process each, and what a machine leaves in the file system stays there.
    let name = format!("m{}-{number}", std::process::id());
    let path = |what: &str| PathBuf::from(format!("/run/{name}.{what}"));
    MachineConfig {
        version: PROTOCOL_VERSION,
        user: FIRST_USER + number,
        vcpu_host_cpus: (0..vcpus).collect(),
        shared_cpus: false,
        service_host_cpus: vec![],
        memory_mib: 192,
        huge_pages: false,
        disks: vec![],
        vsock: None,
        network: None,
        rng: None,
        port: None,
        console: ConsoleConfig { path: path("console"), capacity_bytes: 256 * 1024 },
        control_socket: path("control"),
        name,
    }
}

/// A disk of that many bytes, full of zeroes.
pub(crate) fn disk(name: &str, bytes: u64) -> DiskConfig {
    let path = PathBuf::from(format!("/run/{name}.disk"));
    fs::File::create(&path).unwrap().set_len(bytes).unwrap();
    DiskConfig::new(path)
}

/// Runs the VMM's program with that on its standard input, to its end: that of the launcher.
pub(crate) fn launch(config: &MachineConfig) -> Output {
    let mut launcher = Command::new(PROGRAM)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = serde_json::to_vec(config).unwrap();
    launcher.stdin.take().unwrap().write_all(&text).unwrap();
    launcher.wait_with_output().unwrap()
}

impl Image {
    /// How to start it with a shell script in the place of its init.
    pub(crate) fn running(self, script: &str) -> Source {
        let steps =
            format!("mount -t proc p /proc; mount -t devtmpfs d /dev; mount -t sysfs s /sys; {script}");
        self.with_options(&format!("rdinit=/bin/sh -- -c \"{steps}\""))
    }

    /// The same with options for the kernel.
    pub(crate) fn with_options(self, options: &str) -> Source {
        let (name, kernel) = match self {
            Self::Elf612 => ("debian-micro", "vmlinux"),
            Self::BzImage61 => ("debian-micro-6.1", "vmlinuz"),
        };
        let file = |file: &str| PathBuf::from(format!("{IMAGES}/{name}/{file}"));
        Source {
            kernel: file(kernel),
            initrd: file("initrd.img"),
            // With an early console: what a kernel says that ends before it has found its devices is seen as well. It goes
            // by `quiet` from where that stands on.
            command_line: format!("quiet earlyprintk=ttyS0 console=ttyS0 panic=-1 {options}"),
        }
    }
}

/// Loads the image's modules, as its init does.
pub(crate) const MODULES: &str = "modprobe -a $(cat /etc/modules)";

impl Vmm {
    pub(crate) fn prepare(config: MachineConfig) -> Self {
        let output = launch(&config);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let control = Control::connect(&config.control_socket).unwrap();
        Self { config, control }
    }

    pub(crate) fn request(&mut self, request: &Request) -> Result<Status, ControlError> {
        self.control.request(request)
    }

    pub(crate) fn status(&mut self) -> Status {
        self.request(&Request::Status { version: PROTOCOL_VERSION }).unwrap()
    }

    /// The VMM's process.
    pub(crate) fn process(&self) -> Process {
        Process(self.control.process().unwrap())
    }

    pub(crate) fn boot(&mut self, source: Source) -> Status {
        self.try_to_boot(source).unwrap()
    }

    pub(crate) fn try_to_boot(&mut self, source: Source) -> Result<Status, ControlError> {
        self.start(&files_of(&source), &source.command_line)
    }

    /// The same with `bytes` of something under its first disk.
    pub(crate) fn try_to_boot_over(
        &mut self,
        source: Source,
        bytes: u64,
        base: BaseFiles,
    ) -> Result<Status, ControlError> {
        self.start(&files_of(&source).over(0, bytes, base), &source.command_line)
    }

    pub(crate) fn start(&mut self, files: &BootFiles, command_line: &str) -> Result<Status, ControlError> {
        self.control.boot(files, command_line.to_string())
    }

    /// Waits until the guest has ended.
    pub(crate) fn end(&mut self) -> Ended {
        let mut status = self.status();
        loop {
            match status.state {
                MachineState::Off { how } => return how,
                _ => status = self.wait_after(status.generation),
            }
        }
    }

    fn wait_after(&mut self, after: u64) -> Status {
        let request = Request::Wait { version: PROTOCOL_VERSION, after };
        self.control.request_within(&request, Some(LIMIT)).unwrap()
    }

    pub(crate) fn console(&self) -> String {
        let log = ConsoleLog::open(&self.config.console.path).unwrap();
        String::from_utf8_lossy(&log.read_from(0, usize::MAX).unwrap().bytes).into_owned()
    }

    /// Waits until the guest has said that on its console; one that has ended says nothing more.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let said = sublet_lab::until(LIMIT, || {
            // Asked first: what the guest said before it ended is on the console by then.
            let is_over = self.has_ended();
            let said = self.console().contains(text);
            (said || is_over).then_some(said)
        });
        assert!(said == Some(true), "the guest never said {text:?}");
    }

    /// Whether the guest has ended; a VMM that a test has killed cannot be asked.
    fn has_ended(&mut self) -> bool {
        let status = self.request(&Request::Status { version: PROTOCOL_VERSION });
        status.is_ok_and(|status| matches!(status.state, MachineState::Off { .. }))
    }
}

fn files_of(source: &Source) -> BootFiles {
    BootFiles::open(&source.kernel, Some(&source.initrd)).unwrap()
}

impl Drop for Vmm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let state =
                self.request(&Request::Status { version: PROTOCOL_VERSION }).map(|status| status.state);
            eprintln!("{}: {state:?}; its console: {}", self.config.name, self.console());
        }
        // A VMM that a test has killed cannot be asked.
        let _ = self.request(&Request::Release { version: PROTOCOL_VERSION });
    }
}

/// Whether that comes true in time.
pub(crate) fn comes_true(is_so: impl Fn() -> bool) -> bool {
    sublet_lab::until(LIMIT, || is_so().then_some(())).is_some()
}
