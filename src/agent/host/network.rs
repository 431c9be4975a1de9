//! Partitions' networks, the only writer of the host's interfaces, packet filter and forwarding.
//!
//! A partition of network `nat` has a link to its host ([`Link`]): a TAP interface and two addresses. From there
//! packets go to the internet under the host's own address ([`rules`]), and nowhere else: not to the host, to another
//! partition, or into the lender's own networks. DHCP and DNS are served at the link's own end ([`servers`]).
//!
//! A link lives as long as the machine that it is for, and is made before it: nothing of a guest's, neither a
//! connection nor a cached name, is left for the next one.

mod forwarding;
mod interfaces;
mod link;
mod programs;
mod routes;
mod rules;
mod servers;
mod settings;

use std::{collections::BTreeMap, fs::File, io, path::PathBuf, time::Duration};

use ipnet::Ipv4Net;
use sublet_vmm_protocol::NetworkConfig;
use thiserror::Error;
use tokio::sync::{Mutex, MutexGuard};

pub use self::settings::{BadNetwork, NetworkSettings};
use self::{
    forwarding::{Forwarding, ForwardingError},
    interfaces::InterfaceError,
    link::{Link, NoAddress},
    programs::{Program, ProgramError},
    routes::{Routes, RoutesError},
    rules::Surroundings,
    servers::{ServerError, Servers},
};
use super::{
    cgroup::{self, Cgroups},
    users::Users,
};
use crate::{api::http::chain, domain::id::PartitionId};

/// How often the host is looked at: whether its networks are others, and whether somebody took away what is ours.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Held by the one agent of the host that has partitions with a network: rules and interfaces are the host's.
const LOCK: &str = "run/sublet-network.lock";

/// What a guest's card and its interface need, with the module that has it.
const DEVICES: [(&str, &str); 2] = [("dev/net/tun", "tun"), ("dev/vhost-net", "vhost_net")];

#[derive(Debug, Error)]
pub enum NetworkError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("this host's kernel does not take the packet filter's rules")]
    Rules(#[source] ProgramError),
    #[error("this host has no /{device}: load the module {module}")]
    NoDevice { device: &'static str, module: &'static str },
    #[error(transparent)]
    Address(#[from] NoAddress),
    #[error("the partition's user {0} is none of users")]
    User(u32),
    #[error("network.range: {range} is in use on this host ({used}): choose another range")]
    RangeInUse { range: Ipv4Net, used: Ipv4Net },
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    #[error(transparent)]
    Forwarding(#[from] ForwardingError),
    #[error(transparent)]
    Routes(#[from] RoutesError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("connections of the guest before cannot be forgotten: {0} are left")]
    ConnectionsLeft(usize),
    #[error("another agent of this host has partitions with a network, and two cannot")]
    OtherAgent,
    #[error("cannot use {path:?}")]
    Lock { path: PathBuf, source: io::Error },
}

/// The networks of this host's partitions.
#[derive(Debug)]
pub struct Networks {
    root: PathBuf,
    settings: NetworkSettings,
    users: Users,
    servers: Servers,
    forwarding: Forwarding,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    links: BTreeMap<PartitionId, Link>,
    /// The surroundings that the rules were last made for; none: the rules may not be those that should be.
    applied: Option<Surroundings>,
    lock: Option<File>,
}

impl Networks {
    /// `cpus` are the owner's.
    pub fn new(settings: NetworkSettings, users: Users, cgroups: &Cgroups, cpus: Vec<u32>) -> Self {
        let root = PathBuf::from("/");
        let servers = Servers::new(cgroups.below(cgroup::NETWORK), cpus, settings.dns.clone());
        let forwarding = Forwarding::new(root.clone());
        Self { root, settings, users, servers, forwarding, state: Mutex::default() }
    }

    /// Whether a partition of this user can have a network here; changes nothing.
    pub async fn check(&self, partition: PartitionId, user: u32) -> Result<(), NetworkError> {
        Program::ALL.into_iter().try_for_each(|program| program.find().map(drop))?;
        Servers::check(&self.root)?;
        if let Some((device, module)) =
            DEVICES.into_iter().find(|(device, _)| !self.root.join(device).exists())
        {
            return Err(NetworkError::NoDevice { device, module });
        }
        self.require_free_range(&Routes::read(&self.root)?)?;
        // Rules for an interface that is there for certain.
        let link = Link { tap: "lo".into(), ..self.link(partition, user)? };
        let rules = rules::ruleset(&[&link], &Surroundings::default(), &self.settings);
        Program::Nft.run(&["--check", "--file", "-"], &rules).await.map(drop).map_err(NetworkError::Rules)
    }

    /// Finds again what an agent before has left for `partitions`, each with its user; deletes what is nobody's.
    pub async fn resume(&self, partitions: &[(PartitionId, u32)]) -> Result<(), NetworkError> {
        let mut state = self.state.lock().await;
        let ours = interfaces::all(&self.root, |user| self.users.contains(user))?;
        for (partition, user) in partitions {
            match self.link(*partition, *user) {
                Ok(link) if ours.contains(&link.tap) => drop(state.links.insert(*partition, link)),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%partition, error = chain(&error), "the partition's guest is cut off")
                }
            }
        }
        if ours.is_empty() && !self.forwarding.has_record() {
            return Ok(());
        }
        match self.claim(&mut state) {
            // Nothing of it is ours.
            Err(NetworkError::OtherAgent) if ours.is_empty() => return Ok(()),
            claimed => claimed?,
        }
        for tap in ours.iter().filter(|tap| !state.links.values().any(|link| link.tap == **tap)) {
            interfaces::delete(&self.root, tap).await?;
        }
        // An agent of another version may have made other chains of the same names.
        self.apply(&mut state, rules::NONE).await?;
        for (partition, link) in &state.links {
            self.servers.start(*partition, link).await?;
        }
        Ok(())
    }

    /// Makes the partition's link, for a machine that is to be started; anew, if there was one.
    pub async fn up(&self, partition: PartitionId, user: u32) -> Result<NetworkConfig, NetworkError> {
        let link = self.link(partition, user)?;
        let mut state = self.state.lock().await;
        self.claim(&mut state)?;
        match self.make(&mut state, partition, &link).await {
            Ok(()) => Ok(link.card()),
            Err(error) => {
                if let Err(left) = self.unmake(&mut state, partition, &link).await {
                    tracing::warn!(%partition, error = chain(&left), "the partition's network is left half made");
                }
                Err(error)
            }
        }
    }

    /// Deletes the partition's link and all that is known of it, when its machine is gone.
    pub async fn down(&self, partition: PartitionId, user: u32) -> Result<(), NetworkError> {
        // By what the configuration says now it never had one.
        let Ok(link) = self.link(partition, user) else { return Ok(()) };
        let mut state = self.state.lock().await;
        if state.links.contains_key(&partition) || interfaces::is_there(&self.root, &link.tap) {
            self.claim(&mut state)?;
            self.unmake(&mut state, partition, &link).await?;
        }
        Ok(())
    }

    /// Keeps links as they should be, until the agent ends.
    pub async fn keep(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let mut state = self.state.lock().await;
            if let Err(error) = self.look(&mut state).await {
                tracing::warn!(error = chain(&error), "partitions' networks could not be put right");
            }
        }
    }

    async fn make(
        &self,
        state: &mut MutexGuard<'_, State>,
        partition: PartitionId,
        link: &Link,
    ) -> Result<(), NetworkError> {
        self.require_free_range(&Routes::read(&self.root)?)?;
        interfaces::make(&self.root, link).await?;
        state.links.insert(partition, link.clone());
        self.apply(state, "").await?;
        Ok(self.servers.start(partition, link).await?)
    }

    /// The interface goes last: as long as it is there, so may be all else.
    async fn unmake(
        &self,
        state: &mut MutexGuard<'_, State>,
        partition: PartitionId,
        link: &Link,
    ) -> Result<(), NetworkError> {
        self.servers.stop(partition).await?;
        forget_connections(link).await?;
        interfaces::delete(&self.root, &link.tap).await?;
        state.links.remove(&partition);
        self.apply(state, "").await
    }

    /// Has the kernel take the rules for the partitions that there are, after `before` and in one step with it, and
    /// forward for them; for none, nothing is left.
    async fn apply(&self, state: &mut MutexGuard<'_, State>, before: &str) -> Result<(), NetworkError> {
        state.applied = None;
        if state.links.is_empty() {
            self.forwarding.close()?;
            nft(rules::NONE).await?;
            self.forwarding.forget()?;
            state.lock = None;
            return Ok(());
        }
        let surroundings = self.surroundings()?;
        let links: Vec<&Link> = state.links.values().collect();
        nft(&format!("{before}{}", rules::ruleset(&links, &surroundings, &self.settings))).await?;
        self.forwarding.open(&surroundings.opened)?;
        state.applied = Some(surroundings);
        Ok(())
    }

    async fn look(&self, state: &mut MutexGuard<'_, State>) -> Result<(), NetworkError> {
        if state.links.is_empty() {
            return Ok(());
        }
        if state.applied != Some(self.surroundings()?) || !rules_are_there().await? {
            self.apply(state, "").await?;
        }
        for (partition, link) in state.links.iter().filter(|(id, _)| !self.servers.is_running(**id)) {
            tracing::warn!(%partition, "the partition's DHCP and DNS server ended, and is started again");
            self.servers.start(*partition, link).await?;
        }
        Ok(())
    }

    fn surroundings(&self) -> Result<Surroundings, NetworkError> {
        let Routes { on_link, uplinks } = Routes::read(&self.root)?;
        Ok(Surroundings { on_link, opened: self.forwarding.claim(&uplinks)? })
    }

    fn require_free_range(&self, routes: &Routes) -> Result<(), NetworkError> {
        let range = self.settings.range;
        let used = routes.on_link.iter().find(|used| used.contains(&range) || range.contains(*used));
        used.map_or(Ok(()), |used| Err(NetworkError::RangeInUse { range, used: *used }))
    }

    fn link(&self, partition: PartitionId, user: u32) -> Result<Link, NetworkError> {
        let number = self.users.number(user).ok_or(NetworkError::User(user))?;
        Ok(Link::new(self.settings.range, partition, user, number)?)
    }

    /// Makes this the one agent of the host that has networks.
    fn claim(&self, state: &mut MutexGuard<'_, State>) -> Result<(), NetworkError> {
        if state.lock.is_some() {
            return Ok(());
        }
        let path = self.root.join(LOCK);
        let failed = |source| NetworkError::Lock { path: path.clone(), source };
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let lock = options.open(&path).map_err(failed)?;
        lock.try_lock().map_err(|_| NetworkError::OtherAgent)?;
        state.lock = Some(lock);
        Ok(())
    }
}

async fn nft(text: &str) -> Result<(), NetworkError> {
    Program::Nft.run(&["--file", "-"], text).await.map(drop).map_err(NetworkError::Rules)
}

/// Whether nobody has taken the rules away, as a reloaded firewall does.
async fn rules_are_there() -> Result<bool, NetworkError> {
    let tables = Program::Nft.run(&["list", "tables"], "").await.map_err(NetworkError::Rules)?;
    Ok(rules::TABLES.iter().all(|table| tables.lines().any(|line| line == *table)))
}

/// Nothing that answers the guest before reaches the next one, which has its address.
async fn forget_connections(link: &Link) -> Result<(), NetworkError> {
    let guest = link.guest.to_string();
    let of_guest = |act| [act, "--family", "ipv4", "--orig-src", guest.as_str()];
    // It fails where there are none: what counts is what is left.
    let _ = Program::Conntrack.run(&of_guest("--delete"), "").await;
    match Program::Conntrack.run(&of_guest("--dump"), "").await?.lines().count() {
        0 => Ok(()),
        left => Err(NetworkError::ConnectionsLeft(left)),
    }
}
