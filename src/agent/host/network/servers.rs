//! DHCP and DNS for guests: a dnsmasq of its own for each partition, so that what a guest does to it no other notices.
//! It lives outside the agent's control group, as VMMs do, and goes on without the agent.

use std::{io, net::Ipv4Addr, path::Path, time::Duration};

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_setaffinity},
};
use thiserror::Error;
use tokio::{io::AsyncWriteExt, task::JoinError};

use super::{
    link::Link,
    programs::{Program, ProgramError},
};
use crate::{
    agent::host::cgroup::{CgroupError, Cgroups},
    domain::id::PartitionId,
};

/// The account that the program's package makes for it.
pub(super) const ACCOUNT: &str = "dnsmasq";
/// How long a server that is killed may take to be gone.
const END_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum ServerError {
    #[error("DHCP and DNS cannot be served")]
    Program(#[from] ProgramError),
    #[error(
        "this host has no account {ACCOUNT:?} for the program that serves DHCP and DNS: install the package dnsmasq-base"
    )]
    NoAccount,
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("cannot keep the server of DHCP and DNS on the owner's CPUs")]
    Cpus(#[source] io::Error),
    #[error("a thread of the agent ended")]
    Thread(#[from] JoinError),
}

/// The servers of all partitions.
#[derive(Debug, Clone)]
pub(super) struct Servers {
    cgroups: Cgroups,
    /// Where they run: no partition's CPU is disturbed.
    cpus: Vec<u32>,
    dns: Vec<Ipv4Addr>,
}

impl Servers {
    pub(super) fn new(cgroups: Cgroups, cpus: Vec<u32>, dns: Vec<Ipv4Addr>) -> Self {
        Self { cgroups, cpus, dns }
    }

    /// Whether the host whose file systems are mounted under `root` has what they need.
    pub(super) fn check(root: &Path) -> Result<(), ServerError> {
        let accounts = std::fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
        let is_there = accounts.lines().any(|line| line.split(':').next() == Some(ACCOUNT));
        if is_there { Ok(()) } else { Err(ServerError::NoAccount) }
    }

    /// Has one serve the partition's guest; the one before it, if there is one, ends.
    pub(super) async fn start(&self, partition: PartitionId, link: &Link) -> Result<(), ServerError> {
        self.stop(partition).await?;
        let failed = |source| ProgramError::Run { program: Program::Dnsmasq, source };
        // It reads its configuration first, and leaves the agent's process tree when it serves.
        let mut launcher = Program::Dnsmasq.command()?.arg("--conf-file=-").spawn().map_err(failed)?;
        if let Some(process) = launcher.id() {
            self.cgroups.adopt(partition, process)?;
            self.pin(process)?;
        }
        if let Some(mut stdin) = launcher.stdin.take() {
            // Where it has ended already, its exit status says why.
            let _ = stdin.write_all(self.configuration(link).as_bytes()).await;
        }
        let output = launcher.wait_with_output().await.map_err(failed)?;
        Ok(Program::Dnsmasq.judge(output.status, &output.stderr)?)
    }

    fn pin(&self, process: u32) -> Result<(), ServerError> {
        let mut set = CpuSet::new();
        self.cpus.iter().for_each(|cpu| set.set(*cpu as usize));
        let process = i32::try_from(process).ok().and_then(Pid::from_raw);
        sched_setaffinity(process, &set).map_err(|error| ServerError::Cpus(error.into()))
    }

    pub(super) fn is_running(&self, partition: PartitionId) -> bool {
        self.cgroups.wait_until_empty(partition, Duration::ZERO).is_err()
    }

    /// Ends the partition's server, if there is one; what it knew of the guest is gone with it.
    pub(super) async fn stop(&self, partition: PartitionId) -> Result<(), ServerError> {
        let cgroups = self.cgroups.clone();
        let stop = move || {
            cgroups.kill(partition)?;
            cgroups.wait_until_empty(partition, END_PATIENCE)?;
            cgroups.remove(partition)
        };
        Ok(tokio::task::spawn_blocking(stop).await??)
    }

    /// As dnsmasq(8) has it. Leases are kept in memory, and nothing is logged: a guest could fill both. Answers are
    /// broadcast, or it would put an entry of its own in the place of the guest's permanent one among the neighbours.
    fn configuration(&self, link: &Link) -> String {
        let Link { tap, mac, guest, .. } = link;
        let upstream = match self.dns.as_slice() {
            [] => String::new(),
            servers => {
                servers.iter().fold("no-resolv\n".into(), |text, server| format!("{text}server={server}\n"))
            }
        };
        format!(
            "interface={tap}\nexcept-interface=lo\nbind-dynamic\nuser={ACCOUNT}\ngroup=nogroup\npid-file=\n\
             log-facility=/dev/null\nquiet-dhcp\n\
             no-hosts\n{upstream}domain-needed\nbogus-priv\nstop-dns-rebind\ncache-size=150\ndns-forward-max=64\n\
             dhcp-range={guest},{guest},255.255.255.252,1h\ndhcp-host={mac},{guest}\ndhcp-ignore=tag:!known\n\
             dhcp-authoritative\ndhcp-broadcast\nleasefile-ro\nno-ping\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn configuration(dns: &[Ipv4Addr]) -> String {
        let range = "10.9.0.0/16".parse().unwrap();
        let link = Link::new(range, PartitionId(Uuid::from_u128(7)), 5000, 0).unwrap();
        let cgroups = Cgroups::at(Path::new("/nonexistent/sublet"));
        Servers::new(cgroups, vec![0], dns.to_vec()).configuration(&link)
    }

    #[test]
    fn a_server_has_one_address_to_give_to_one_card_on_one_interface() {
        let text = configuration(&[]);
        for line in [
            "interface=sl-5000",
            "except-interface=lo",
            "dhcp-range=10.9.0.2,10.9.0.2,255.255.255.252,1h",
            "dhcp-host=02:00:00:00:00:07,10.9.0.2",
            "dhcp-ignore=tag:!known",
            "no-hosts",
            "stop-dns-rebind",
        ] {
            assert!(text.lines().any(|is| is == line), "{line}");
        }
        assert!(!text.contains("server="));
    }

    #[test]
    fn name_servers_that_are_stated_are_the_only_ones() {
        let text = configuration(&[Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(192, 0, 2, 54)]);
        assert!(text.contains("no-resolv\nserver=192.0.2.53\nserver=192.0.2.54\n"), "{text}");
    }

    #[test]
    fn a_host_without_the_servers_account_says_which_package_has_it() {
        let root = tempfile::tempdir().unwrap();
        assert!(Servers::check(root.path()).unwrap_err().to_string().contains("dnsmasq-base"));
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(
            root.path().join("etc/passwd"),
            "root:x:0:0::/:/bin/sh\ndnsmasq:x:9:9::/:/bin/false\n",
        )
        .unwrap();
        assert!(Servers::check(root.path()).is_ok());
    }
}
