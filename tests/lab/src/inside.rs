//! Where things are inside a lab host.

/// The agent's port.
pub const AGENT_PORT: u16 = 7180;
/// Port of `sublet-lab-host`.
pub const EXEC_PORT: u16 = 7181;
/// The secret that `sublet-lab-host` shares with this lab.
pub const EXEC_SECRET: &str = "/etc/sublet/exec.secret";
/// The machine that runs QEMU, as its user-mode network shows it to the host.
pub const MACHINE_ADDRESS: &str = "10.0.2.2";

pub const STATE_DIRECTORY: &str = "/var/lib/sublet";
pub const IMAGE_DIRECTORY: &str = "/usr/share/sublet/images";
/// Serves commands in the host, and measures in it and in its guests.
pub const HOST_PROGRAM: &str = "/usr/lib/sublet/sublet-lab-host";
pub const VMM: &str = "/usr/lib/sublet/sublet-vmm";
pub const OWNER_TOKEN: &str = "/etc/sublet/owner.token";
pub const ENROLMENT_TOKEN: &str = "/etc/sublet/enrolment.token";
/// Where a host that speaks TLS finds whom to take for its registry, and what it shows there.
pub const REGISTRY_AUTHORITY: &str = "/etc/sublet/registry-ca.crt";
pub const HOST_CERTIFICATE: &str = "/etc/sublet/host.crt";
pub const HOST_KEY: &str = "/etc/sublet/host.key";
/// Where partitions' control groups are under systemd: that of `examples/systemd/sublet-partitions.service`.
pub const DELEGATED_GROUP: &str = "/sys/fs/cgroup/sublet-partitions.service";
/// What a host's console says last while it comes up.
pub const UP_MARKER: &str = "lab: up after";
/// Name of the virtio port through which the agent's log leaves the host.
pub const AGENT_LOG_PORT: &str = "org.sublet.agent-log";
/// Below this name QEMU's fw_cfg device hands files over to the host.
pub const FW_CFG_PREFIX: &str = "opt/org.sublet";
