//! The agent as a process: what it needs is opened, what it finds again goes on, and then it serves.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;
use tokio::net::TcpListener;

use super::{
    auto_offer,
    config::{Config, ConfigError},
    freeze::{guard::Lookout, receipt::Receipts},
    guest::{
        listener::{self, ListenError},
        process::{VmmError, Vmms},
    },
    host::{
        carve::{HostResources, Lendable, ReserveError},
        cgroup::Cgroups,
        clock::LeaseClock,
        cpus::Cpus,
        disk::{self, DiskError},
        disk_keys::{DiskKeyError, DiskKeys},
        irq::Interrupts,
        network::Networks,
    },
    http::{self, Agent},
    identity::{self, Identity, IdentityError},
    image_cache::ImageCache,
    key_trust::{KeyTrust, KeyTrustError},
    partition::{
        driver::Command,
        error::PartitionError,
        partitions::{Handle, Partitions},
        table::{Table, TableError},
    },
    performance,
    registry_link::{self, LinkError, RegistryLink, Retry},
    services::Services,
    tls::{self, HostTlsError},
};
use crate::{
    api::{
        http::{ServedAt, ServerTls, Shutdown, chain, on_hangup, serve},
        registry::{EndReason, HeartbeatReply, HostContact, LendingState, RegisteredPartition},
    },
    client::ClientError,
    domain::{id::PartitionId, partition::State, tls_key::TlsKey},
    inventory::{Inventory, InventoryError},
};

/// Where interrupts went before any CPU was set aside, for as long as the host is up.
const INTERRUPTS_RECORD: &str = "/run/sublet-interrupts.json";
/// Most milliseconds that a registry may hold a heartbeat's answer.
const WAIT_MAX_MS: u64 = 10_000;

#[derive(Debug, Error)]
pub enum AgentError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    DiskKey(#[from] DiskKeyError),
    #[error("the reserve cannot be kept on this host")]
    Reserve(#[from] ReserveError),
    #[error("cannot make the directory {path:?}")]
    Directory { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("cannot speak TLS")]
    Tls(#[from] HostTlsError),
    #[error("cannot tell whose lending keys to accept")]
    KeyTrust(#[from] KeyTrustError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("partition {0} is lent: its lease is to end first")]
    Lent(PartitionId),
    #[error(transparent)]
    Vmm(#[from] VmmError),
    #[error("another agent uses the state directory {0:?}")]
    StateInUse(PathBuf),
    #[error("the link to the registry cannot be made")]
    Link(#[from] LinkError),
    #[error("the registry cannot be spoken to")]
    Client(#[from] ClientError),
    #[error("the partitions cannot be found again")]
    Partitions(#[from] PartitionError),
    #[error(transparent)]
    Guests(#[from] ListenError),
    #[error("cannot wait for signals")]
    Signal(#[source] io::Error),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot serve")]
    Serve(#[source] io::Error),
    #[error("cannot count")]
    Metrics(#[from] prometheus::Error),
}

/// Reads the configuration and the host, and says whether they fit; starts nothing.
pub fn check(config: &Config) -> Result<(), AgentError> {
    let inventory = Inventory::read(Path::new("/"))?;
    config.vmm()?;
    for accounts in ["/etc/passwd", "/etc/group"] {
        // A host without such a file has no accounts to be confused with.
        let accounts = std::fs::read_to_string(accounts).unwrap_or_default();
        config.users.validate_against(&accounts).map_err(ConfigError::Users)?;
    }
    let above = config.state_directory.ancestors().find(|directory| directory.exists());
    let disk_mib = disk::available_mib(above.unwrap_or(Path::new("/")))?;
    let resources = HostResources { topology: inventory.topology, disk_mib };
    Lendable::new(&resources, &config.reserve, config.huge_pages)?;
    Ok(())
}

/// Serves until `shutdown`; `listening` is told the address that was bound. Guests go on without the agent.
pub async fn run(
    config: Config,
    shutdown: Shutdown,
    listening: impl FnOnce(ServedAt),
) -> Result<(), AgentError> {
    check(&config)?;
    let _lock = lock(&config.state_directory)?;
    let tls = tls::load(&config)?;
    if tls.is_none() && !config.listen.ip().is_loopback() {
        tracing::warn!(
            "{} is not a loopback address: tokens and keys can be read on their way over plain HTTP, so the network \
             must be trusted",
            config.listen
        );
    }
    // A host that waits for its registry can be told to end.
    let services = tokio::select! {
        services = services(config, tls.as_ref().map(ServerTls::key)) => Arc::new(services?),
        () = shutdown.clone().wait() => return Ok(()),
    };
    renew_at_hangup(&services, tls.clone()).map_err(AgentError::Signal)?;
    services.vmms.steer_interrupts();
    let guests = listener::listen(services.config.vsock_port)?;
    let partitions = Partitions::open(Arc::clone(&services)).await?;
    match guests {
        Some(guests) => drop(tokio::spawn(listener::serve(guests, Arc::clone(&partitions)))),
        None => tracing::warn!("this host has no vsock: guests cannot run jobs"),
    }
    let keeper = Arc::clone(&services);
    tokio::spawn(async move { keeper.networks.keep().await });
    tokio::spawn(follow_registry(Arc::clone(&services), Arc::clone(&partitions)));
    tokio::spawn(auto_offer::follow(Arc::clone(&services), Arc::clone(&partitions)));
    let address = services.config.listen;
    let failed = |source| AgentError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let tls_key = services.tls_key.map(|key| key.to_string());
    tracing::info!(host = %services.identity.host(), tls_key, "serving");
    listening(ServedAt { address: listener.local_addr().map_err(failed)?, tls: tls.is_some() });
    let agent = Agent::new(services, partitions, shutdown.clone())?;
    serve(listener, tls, http::router(agent), shutdown).await.map_err(AgentError::Serve)
}

/// Certificates and keys are read again at SIGHUP; what cannot be used is refused, and what was read before stays.
fn renew_at_hangup(services: &Arc<Services>, tls: Option<ServerTls>) -> io::Result<()> {
    let services = Arc::clone(services);
    on_hangup(move || {
        if let Some((tls, key)) = tls.as_ref().zip(services.tls_key) {
            tls.renew(tls::load_again(&services.config, key));
        }
        let Some(registry) = &services.registry else { return };
        match registry.renew_trust(&services.config.state_directory) {
            Ok(()) => tracing::info!("whom to trust as the registry, and what to show it, was read again"),
            Err(error) => tracing::error!(
                error = chain(&error),
                "whom to trust as the registry, and what to show it, cannot be read again; it stays as it was"
            ),
        }
    })
}

/// Gives back all that is set aside on the host, before the agent is removed from it: offers are withdrawn, machines ended,
/// disks deleted, and nothing is left in control groups or of interrupts' places. Refused while a partition is lent.
pub async fn give_back(config: Config) -> Result<(), AgentError> {
    check(&config)?;
    let _lock = lock(&config.state_directory)?;
    let tls = tls::load(&config)?;
    let services = Arc::new(services(config, tls.as_ref().map(ServerTls::key)).await?);
    let partitions = Partitions::open(Arc::clone(&services)).await?;
    partitions.recovered().await;
    let all = partitions.all();
    if let Some(lent) = all.iter().map(Handle::row).find(|row| row.partition.lease().is_some()) {
        return Err(AgentError::Lent(lent.id));
    }
    for handle in all {
        if !matches!(handle.row().partition.state, State::Carved | State::Withdrawn) {
            handle.ask(Command::Withdraw).await?;
        }
        handle.ask(Command::Release).await?;
    }
    services.disk_keys.close()?;
    Ok(services.vmms.close()?)
}

/// Makes the state directory, and sees to it that it has one agent.
fn lock(directory: &Path) -> Result<std::fs::File, AgentError> {
    let failed = |source| AgentError::Directory { path: directory.to_owned(), source };
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(directory).map_err(failed)?;
    builder.create(directory.join("run")).map_err(failed)?;
    let lock = std::fs::File::create(directory.join("lock")).map_err(failed)?;
    lock.try_lock().map_err(|_| AgentError::StateInUse(directory.to_owned()))?;
    Ok(lock)
}

async fn services(config: Config, tls_key: Option<TlsKey>) -> Result<Services, AgentError> {
    let directory = config.state_directory.clone();
    let inventory = Inventory::read(Path::new("/"))?;
    if !inventory.kernel.has_kvm {
        tracing::warn!("this host has no /dev/kvm: partitions can be carved, but not offered");
    }
    let cgroups = control_groups(&config, &inventory);
    let table = Table::open(&directory.join("agent.db"))?;
    let mut identity = Identity::load(&directory, &config.owner_token_file())?;
    let mut registry = None;
    if let Some(link) = &config.registry {
        let enrolment = registry_link::enrol(link, &config.advertise, &directory).await?;
        identity = identity.enrolled(enrolment);
    }
    let receipts = Receipts::new(table.clone(), identity::receipt_signer(&directory)?, identity.host());
    if let (Some(link), Some(enrolment)) = (&config.registry, identity.enrolment()) {
        let contact =
            HostContact { address: config.advertise.clone(), tls_key, receipt_key: Some(receipts.key()) };
        let records = (table.clone(), receipts.clone());
        registry = Some(RegistryLink::new(link.clone(), contact, enrolment.clone(), records)?);
    }
    let host_cpus = config.reserve.host_cpus(&inventory.topology);
    let interrupts = Interrupts::new(Path::new("/"), PathBuf::from(INTERRUPTS_RECORD));
    Ok(Services {
        lookout: Lookout { cgroups: cgroups.clone(), cpus: Cpus::default() },
        receipts,
        networks: Networks::new(config.network.clone(), config.users, &cgroups, host_cpus),
        vmms: Vmms::new(config.vmm()?, directory.join("run"), cgroups, interrupts),
        ratings: performance::known_or_measured(&inventory, &directory).await?,
        disk_keys: DiskKeys::at(&config.key_directory),
        images: ImageCache::new(config.image_directory.clone()),
        clock: Arc::new(LeaseClock::load(&directory, &inventory.boot_id)?),
        tls_key,
        inventory,
        keys: KeyTrust::load(&directory, identity.trusted_issuer(), identity.issuer().public_key())?,
        identity,
        table,
        registry,
        config,
    })
}

/// The place for partitions' groups, in which CPUs can be kept from others. Where there is none, partitions can be carved
/// all the same.
fn control_groups(config: &Config, inventory: &Inventory) -> Cgroups {
    let opened = inventory.kernel.can_set_aside().map_err(|reason| reason.to_string()).and_then(|()| {
        let cgroups = Cgroups::at(&config.control_group);
        let owner_cpus = config.reserve.host_cpus(&inventory.topology);
        let cpus = inventory.topology.cores.iter().flat_map(|core| core.cpus.iter().copied());
        let lendable = cpus.filter(|cpu| !owner_cpus.contains(cpu)).collect();
        cgroups.open(&lendable).map_err(|error| chain(&error)).map(|()| cgroups)
    });
    opened.unwrap_or_else(|reason| {
        tracing::warn!(reason, "partitions can be carved, but not offered");
        Cgroups::refused(reason)
    })
}

/// Tells the registry that the host lives, and the partitions what the registry says of them.
async fn follow_registry(services: Arc<Services>, partitions: Arc<Partitions>) {
    let Some(registry) = &services.registry else { return };
    introduce(registry).await;
    // Leases that were lost with the host are told with the first heartbeat: the one before it was the last in which
    // they were well.
    partitions.recovered().await;
    let (mut known, mut wait_ms, mut retry) = (None, 0, Retry::default());
    loop {
        let asked_at = services.clock.boottime();
        // What there is to report does not wait for the answer to an earlier heartbeat.
        let answered = tokio::select! {
            answered = registry.beat(known, wait_ms) => answered,
            () = registry.news() => continue,
        };
        match answered {
            Ok(reply) => {
                if let Err(error) = services.clock.hear(reply.now, asked_at) {
                    tracing::error!(error = chain(&error), "the registry's clock cannot be kept");
                }
                if let Err(error) = services.keys.learn(&reply.keys, services.clock.now()) {
                    tracing::error!(
                        error = chain(&error),
                        "what the registry says of lending keys cannot be kept"
                    );
                }
                wait_ms = reply.beat_every_ms.min(WAIT_MAX_MS);
                known = Some(reply.revision);
                retry = Retry::default();
                spread(&services, &partitions, reply).await;
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "no heartbeat: leases that run go on");
                retry.wait().await;
            }
        }
    }
}

/// Until the registry has heard it: a lease is to say where the host is, and by which key it is known.
async fn introduce(registry: &RegistryLink) {
    let mut retry = Retry::default();
    while let Err(error) = registry.introduce().await {
        tracing::warn!(error = chain(&error), "the registry does not know yet where this host is");
        retry.wait().await;
    }
}

async fn spread(services: &Services, partitions: &Partitions, reply: HeartbeatReply) {
    for handle in partitions.all() {
        let id = handle.row().id;
        let view = reply.partitions.iter().find(|view| view.partition == id).cloned();
        // A driver with that much to do hears the next one.
        handle.tell(Command::Registry(view.map(Box::new)));
    }
    for view in reply.partitions.iter().filter(|view| partitions.get(view.partition).is_none()) {
        if let Err(error) = disown(services, view).await {
            tracing::warn!(error = chain(&error), "the registry has a partition that this host has not");
        }
    }
}

/// The registry has a partition that this host has not: whatever it was lent for is over.
async fn disown(services: &Services, view: &RegisteredPartition) -> Result<(), TableError> {
    let Some(registry) = &services.registry else { return Ok(()) };
    match view.state {
        LendingState::Free => drop(registry.withdraw(view.partition, Some(view.version)).await),
        LendingState::Lent { lease, .. } => {
            services.table.report_ended(lease, EndReason::HostLost).await?;
            registry.tell();
        }
        LendingState::AwaitingClean { lease } => {
            services.table.report_cleaned(lease).await?;
            registry.tell();
        }
    }
    Ok(())
}
