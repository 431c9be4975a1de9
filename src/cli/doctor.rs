//! Whether this host can lend, and what exactly is missing.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::Serialize;

use super::{
    CliError,
    context::Context,
    report::{Report, size},
};
use crate::inventory::{Inventory, rating, topology::Node};

/// Least memory a host needs, in MiB: the reserve's 512 and one small partition.
const MEMORY_MIN_MIB: u64 = 1024;
/// What partitions with a network need: a program, and Debian's package that has it.
const NETWORK_PROGRAMS: [(&str, &str); 4] =
    [("ip", "iproute2"), ("nft", "nftables"), ("conntrack", "conntrack"), ("dnsmasq", "dnsmasq-base")];

pub(super) fn doctor(context: &Context) -> Result<ExitCode, CliError> {
    let diagnosis = Diagnosis::of(Path::new("/"));
    context.print(&diagnosis)?;
    Ok(if diagnosis.can_lend { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    can_lend: bool,
    checks: Vec<Check>,
}

/// One thing a lender host needs.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    /// What was found.
    found: String,
    /// What to do about it, where something is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
    /// What cannot be lent without it; none: nothing can.
    #[serde(skip_serializing_if = "Option::is_none")]
    only_for: Option<&'static str>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, ok: true, found: found.into(), remedy: None, only_for: None }
    }

    fn missing(name: &'static str, found: impl Into<String>, remedy: &'static str) -> Self {
        Self { name, ok: false, found: found.into(), remedy: Some(remedy), only_for: None }
    }
}

impl Diagnosis {
    /// Looks at the host whose root directory is `root`.
    fn of(root: &Path) -> Self {
        let host = Host { root: root.to_owned() };
        let checks = vec![
            host.virtualization(),
            host.device(
                "KVM",
                "dev/kvm",
                "load the module kvm_amd or kvm_intel, and run as root or in group kvm",
            ),
            host.device("vsock", "dev/vhost-vsock", "load the module vhost_vsock, and run as root"),
            host.setting_aside(),
            host.jail(),
            host.cpus(),
            host.performance(),
            host.memory(),
            Check { only_for: Some("partitions with a network"), ..host.network() },
        ];
        Self { can_lend: checks.iter().all(|check| check.ok || check.only_for.is_some()), checks }
    }
}

struct Host {
    root: PathBuf,
}

impl Host {
    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }

    /// A `/dev/kvm` on a CPU without SVM or VMX is a software KVM for paravirtual kernels: it opens, and
    /// cannot run a stock guest.
    fn virtualization(&self) -> Check {
        const NAME: &str = "CPU virtualization";
        let cpuinfo = self.read("proc/cpuinfo");
        let flags = field(&cpuinfo, "flags").unwrap_or_default();
        match flags.split_whitespace().find(|flag| ["svm", "vmx"].contains(flag)) {
            Some(flag) => Check::ok(NAME, format!("{flag} in /proc/cpuinfo")),
            None => Check::missing(
                NAME,
                "neither svm nor vmx in /proc/cpuinfo: a /dev/kvm here cannot run a stock kernel",
                "turn on SVM or VT-x in the firmware setup; in a virtual machine, turn on nested virtualization",
            ),
        }
    }

    fn device(&self, name: &'static str, path: &str, remedy: &'static str) -> Check {
        match fs::File::options().read(true).write(true).open(self.root.join(path)) {
            Ok(_) => Check::ok(name, format!("/{path} opens")),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Check::missing(name, format!("there is no /{path}"), remedy)
            }
            Err(error) => Check::missing(name, format!("/{path} does not open: {error}"), remedy),
        }
    }

    /// What keeps CPUs and memory from everybody else.
    fn setting_aside(&self) -> Check {
        const NAME: &str = "setting aside";
        const REMEDY: &str =
            "use Linux 6.7 or later with cgroup2 and its controllers cpu, cpuset, io and memory";
        match self.inventory() {
            Ok(Inventory { kernel, .. }) => match kernel.can_set_aside() {
                Ok(()) => {
                    Check::ok(NAME, format!("cgroup2 with cpuset partitions, Linux {}", kernel.release))
                }
                Err(reason) => Check::missing(NAME, reason.to_string(), REMEDY),
            },
            Err(found) => Check::missing(NAME, found, REMEDY),
        }
    }

    /// The host as the agent sees it, or why it cannot be seen.
    fn inventory(&self) -> Result<Inventory, String> {
        Inventory::read(&self.root).map_err(|error| error.to_string())
    }

    /// What a VMM is shut in with.
    fn jail(&self) -> Check {
        const NAME: &str = "jail";
        let namespaces = ["mnt", "net", "ipc", "uts", "pid", "cgroup"];
        let has = |kind: &&str| self.root.join("proc/self/ns").join(kind).symlink_metadata().is_ok();
        if let Some(kind) = namespaces.iter().find(|kind| !has(kind)) {
            let found = format!("this kernel has no {kind} namespaces");
            return Check::missing(NAME, found, "use a kernel with namespaces, as all distributions' are");
        }
        let actions = self.read("proc/sys/kernel/seccomp/actions_avail");
        if !actions.split_whitespace().any(|action| action == "kill_process") {
            let found = "this kernel has no seccomp filters";
            return Check::missing(NAME, found, "use a kernel with CONFIG_SECCOMP_FILTER, 4.14 or later");
        }
        Check::ok(NAME, "namespaces and seccomp filters")
    }

    fn network(&self) -> Check {
        const NAME: &str = "networking";
        const REMEDY: &str = "install the packages iproute2, nftables, conntrack and dnsmasq-base, and load the modules tun and vhost_net";
        let has = |program: &str| {
            let places = ["usr/sbin", "usr/bin", "sbin", "bin"];
            places.iter().any(|place| self.root.join(place).join(program).is_file())
        };
        if let Some((program, package)) = NETWORK_PROGRAMS.iter().find(|(program, _)| !has(program)) {
            return Check::missing(NAME, format!("there is no {program} (package {package})"), REMEDY);
        }
        let devices = ["dev/net/tun", "dev/vhost-net"];
        if let Some(device) = devices.iter().find(|device| !self.root.join(device).exists()) {
            return Check::missing(NAME, format!("there is no /{device}"), REMEDY);
        }
        Check::ok(NAME, "ip, nft, conntrack, dnsmasq, /dev/net/tun and /dev/vhost-net")
    }

    fn cpus(&self) -> Check {
        const NAME: &str = "CPUs";
        const REMEDY: &str = "a host needs one core for its owner and one to lend";
        let topology = match self.inventory() {
            Ok(inventory) => inventory.topology,
            Err(found) => return Check::missing(NAME, found, REMEDY),
        };
        let (cores, sockets) = (topology.cores.len(), topology.socket_count());
        let found = format!("{} online: {cores} cores, {sockets} sockets", topology.cpu_count());
        if cores > 1 { Check::ok(NAME, found) } else { Check::missing(NAME, found, REMEDY) }
    }

    /// Measured now, as an agent does when it is first started.
    fn performance(&self) -> Check {
        const NAME: &str = "performance";
        const REMEDY: &str = "see to it that /proc and /sys are mounted";
        let ratings = self.inventory().map(|inventory| rating::measure(&inventory.topology));
        let kinds = ratings.map(|ratings| {
            ratings
                .into_iter()
                .map(|(kind, rounds)| {
                    let clock = match kind.clock_khz {
                        0 => String::new(),
                        khz => format!(" at {} MHz", khz / 1000),
                    };
                    format!("{rounds} rounds/s a CPU (cores of {} threads{clock})", kind.threads)
                })
                .collect::<Vec<_>>()
        });
        match kinds {
            Ok(kinds) => Check::ok(NAME, kinds.join(", ")),
            Err(found) => Check::missing(NAME, found, REMEDY),
        }
    }

    fn memory(&self) -> Check {
        const NAME: &str = "memory";
        let meminfo = self.read("proc/meminfo");
        let kib: u64 = field(&meminfo, "MemTotal")
            .and_then(|value| value.split_whitespace().next()?.parse().ok())
            .unwrap_or(0);
        let nodes = self.inventory().map(|inventory| inventory.topology.nodes).unwrap_or_default();
        let huge = nodes.iter().map(Node::huge_mib).sum();
        let found =
            format!("{} on {} NUMA nodes, {} in huge pages", size(kib / 1024), nodes.len(), size(huge));
        match kib / 1024 {
            mib if mib >= MEMORY_MIN_MIB => Check::ok(NAME, found),
            _ => Check::missing(NAME, found, "a host needs 512 MiB for its owner and as much to lend"),
        }
    }
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

impl Report for Diagnosis {
    fn text(&self) -> String {
        let lines = self.checks.iter().map(|check| {
            let mark = if check.ok { "ok     " } else { "missing" };
            let found = match check.only_for.filter(|_| !check.ok) {
                Some(what) => format!("{}; {what} cannot be lent", check.found),
                None => check.found.clone(),
            };
            let remedy = check.remedy.map(|remedy| format!("\n{:29}→ {remedy}", "")).unwrap_or_default();
            format!("{mark}  {:18}  {found}{remedy}", check.name)
        });
        let verdict = if self.can_lend { "This host can lend." } else { "This host cannot lend." };
        lines.chain([verdict.to_owned()]).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that can lend, as far as files tell.
    fn able_host() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let files = [
            ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu svm sse2\n"),
            ("proc/meminfo", "MemTotal:        4194304 kB\n"),
            ("dev/kvm", ""),
            ("dev/vhost-vsock", ""),
            ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory\n"),
            ("proc/sys/kernel/osrelease", "6.12.9\n"),
            ("proc/sys/kernel/random/boot_id", "b1\n"),
            ("sys/devices/system/cpu/online", "0-3\n"),
            ("proc/sys/kernel/seccomp/actions_avail", "kill_process kill_thread trap errno log allow\n"),
            ("proc/self/ns/mnt", ""),
            ("proc/self/ns/net", ""),
            ("proc/self/ns/ipc", ""),
            ("proc/self/ns/uts", ""),
            ("proc/self/ns/pid", ""),
            ("proc/self/ns/cgroup", ""),
            ("usr/sbin/ip", ""),
            ("usr/sbin/nft", ""),
            ("usr/sbin/conntrack", ""),
            ("sbin/dnsmasq", ""),
            ("dev/net/tun", ""),
            ("dev/vhost-net", ""),
        ];
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn missing(root: &tempfile::TempDir) -> Vec<&'static str> {
        let checks = Diagnosis::of(root.path()).checks;
        checks.into_iter().filter(|check| !check.ok).map(|check| check.name).collect()
    }

    #[test]
    fn a_host_that_has_everything_can_lend() {
        let host = able_host();
        assert_eq!(missing(&host), [""; 0]);
        assert!(Diagnosis::of(host.path()).can_lend);
    }

    #[test]
    fn a_kvm_device_on_a_cpu_without_svm_or_vmx_is_not_fine() {
        let host = able_host();
        fs::write(host.path().join("proc/cpuinfo"), "flags : fpu sse2 svm_lock\n").unwrap();
        assert_eq!(missing(&host), ["CPU virtualization"]);
        assert!(!Diagnosis::of(host.path()).can_lend);
    }

    #[test]
    fn a_kernel_that_cannot_set_cpus_aside_cannot_lend() {
        let host = able_host();
        fs::write(host.path().join("proc/sys/kernel/osrelease"), "6.1.0-28-amd64\n").unwrap();
        assert_eq!(missing(&host), ["setting aside"]);
        let host = able_host();
        fs::rename(
            host.path().join("sys/fs/cgroup/cgroup.controllers"),
            host.path().join("sys/fs/cgroup/tasks"),
        )
        .unwrap();
        assert_eq!(missing(&host), ["setting aside"]);
        assert!(Diagnosis::of(host.path()).text().contains("of version 1"));
    }

    #[test]
    fn a_kernel_that_cannot_jail_cannot_lend() {
        let host = able_host();
        fs::write(host.path().join("proc/sys/kernel/seccomp/actions_avail"), "kill trap\n").unwrap();
        assert_eq!(missing(&host), ["jail"]);
        let host = able_host();
        fs::remove_file(host.path().join("proc/self/ns/pid")).unwrap();
        assert_eq!(missing(&host), ["jail"]);
    }

    #[test]
    fn a_host_without_the_programs_for_networks_can_lend_all_the_same() {
        let host = able_host();
        fs::remove_file(host.path().join("sbin/dnsmasq")).unwrap();
        assert_eq!(missing(&host), ["networking"]);
        let diagnosis = Diagnosis::of(host.path());
        assert!(diagnosis.can_lend);
        let text = diagnosis.text();
        assert!(
            text.contains("no dnsmasq (package dnsmasq-base); partitions with a network cannot"),
            "{text}"
        );
    }

    #[test]
    fn each_missing_thing_is_named_with_a_remedy() {
        let empty = tempfile::tempdir().unwrap();
        let diagnosis = Diagnosis::of(empty.path());
        assert!(diagnosis.checks.iter().all(|check| !check.ok && check.remedy.is_some()), "{diagnosis:?}");
    }
}
