//! All partitions of the host. Carving and changing go one at a time, so that what is planned is still free when it
//! is taken (law 2).

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::{Mutex, mpsc, oneshot, watch};
use uuid::Uuid;

use super::{
    driver::{Command, Driver, Reply},
    error::PartitionError,
    machine::MachineRecord,
    table::{Earlier, PartitionRow, RequestMark},
};
use crate::{
    agent::{
        freeze::watch::Watch,
        guest::{jobs::Jobs, signals::Signals, tunnels::Tunnels},
        host::{
            carve::{Holding, HostResources, Lendable, VMM_OVERHEAD_MIB, Wanted},
            disk,
        },
        services::Services,
    },
    api::{
        agent::{Capacity, CarvePartition, ChangePartition},
        http::chain,
    },
    domain::{
        id::PartitionId,
        network::Network,
        partition::{Change, Event, Partition, State},
        qualities::Qualities,
        terms::Terms,
    },
};

/// Most commands that wait for one driver.
const COMMANDS_WAITING: usize = 64;

/// One partition, from outside its driver.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    row: watch::Receiver<PartitionRow>,
    pub jobs: Jobs,
    pub tunnels: Arc<Tunnels>,
    pub freeze: Arc<Watch>,
}

impl Handle {
    /// The partition as it was last stored.
    pub fn row(&self) -> PartitionRow {
        self.row.borrow().clone()
    }

    /// Sees every change of it.
    pub fn watch(&self) -> watch::Receiver<PartitionRow> {
        self.row.clone()
    }

    /// Asks the driver, and waits for its answer.
    pub async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, PartitionError> {
        let (reply, answered) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| PartitionError::Gone)?;
        answered.await.map_err(|_| PartitionError::Gone)?
    }

    /// Tells the driver, unless it has more to do than it can remember.
    pub fn tell(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }
}

/// The host's partitions.
#[derive(Debug)]
pub struct Partitions {
    services: Arc<Services>,
    handles: RwLock<BTreeMap<PartitionId, Handle>>,
    /// Held while something is planned and taken.
    planning: Mutex<()>,
    /// Each tells when what became of its machine while no agent ran is known.
    recovering: Mutex<Vec<oneshot::Receiver<()>>>,
}

impl Partitions {
    /// Finds again what an agent before has left, and deletes what nobody knows of.
    pub async fn open(services: Arc<Services>) -> Result<Arc<Self>, PartitionError> {
        let mut rows = services.table.rows().await?;
        give_users(&services, &mut rows).await?;
        resume_networks(&services, &rows).await;
        let partitions = Arc::new(Self {
            services,
            handles: RwLock::default(),
            planning: Mutex::new(()),
            recovering: Mutex::default(),
        });
        partitions.sweep(&rows).map_err(PartitionError::Files)?;
        partitions.know_host(&rows).await?;
        for row in rows {
            let (tell, recovered) = oneshot::channel();
            partitions.recovering.lock().await.push(recovered);
            partitions.drive(row, Some(tell));
        }
        Ok(partitions)
    }

    /// The reserve's row is reckoned from what the host has now.
    async fn know_host(&self, rows: &[PartitionRow]) -> Result<(), PartitionError> {
        let with_disk = rows.iter().filter(|row| row.partition.has_disk());
        let has = self.services.resources(with_disk.map(|row| holding(row).disk_mib).sum())?;
        Ok(self.services.table.know_host(capacity(&has), VMM_OVERHEAD_MIB).await?)
    }

    /// What is the owner's now.
    pub async fn reserve(&self) -> Result<Capacity, PartitionError> {
        Ok(self.services.table.reserve().await?)
    }

    /// Waits until it is known what became of the partitions while no agent ran.
    pub async fn recovered(&self) {
        for recovered in self.recovering.lock().await.drain(..) {
            // A driver that ended knows nothing more.
            let _ = recovered.await;
        }
    }

    /// A carving that was cut off has left a directory without a row.
    fn sweep(&self, rows: &[PartitionRow]) -> io::Result<()> {
        let directory = self.services.partitions_directory();
        std::fs::create_dir_all(&directory)?;
        for entry in directory.read_dir()? {
            let entry = entry?;
            let is_known = rows.iter().any(|row| entry.file_name() == row.id.to_string().as_str());
            if !is_known {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn drive(self: &Arc<Self>, row: PartitionRow, recovered: Option<oneshot::Sender<()>>) -> Handle {
        let id = row.id;
        let (commands, inbox) = mpsc::channel(COMMANDS_WAITING);
        let (published, seen) = watch::channel(row.clone());
        let table = self.services.table.clone();
        let jobs = Jobs::new(id, table, &self.services.directory(id), Arc::<Signals>::default());
        let tunnels = Arc::<Tunnels>::default();
        let freeze = Watch::new(id, Arc::clone(&self.services));
        freeze.keep();
        let handle = Handle {
            commands: commands.clone(),
            row: seen,
            jobs: jobs.clone(),
            tunnels: Arc::clone(&tunnels),
            freeze: Arc::clone(&freeze),
        };
        self.handles.write().unwrap_or_else(PoisonError::into_inner).insert(id, handle.clone());
        let services = Arc::clone(&self.services);
        let driver = Driver::new(services, row, (jobs, tunnels, freeze), published, commands.downgrade());
        let partitions = Arc::clone(self);
        tokio::spawn(async move {
            driver.run(inbox, recovered).await;
            partitions.handles.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
        handle
    }

    pub fn get(&self, id: PartitionId) -> Option<Handle> {
        self.handles.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub fn all(&self) -> Vec<Handle> {
        self.handles.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// What can be lent in all, and what of it is free.
    pub fn capacity(&self) -> Result<(Capacity, Capacity), PartitionError> {
        let held = self.held_beside(None);
        let resources = self.services.resources(self.disks_mib())?;
        let free = self.services.lendable(&resources)?.free(&held);
        Ok((capacity(&resources), free))
    }

    /// Whether it could be carved now.
    pub fn has_room_for(&self, wanted: &CarvePartition) -> bool {
        let carved = self
            .lendable()
            .ok()
            .map(|lendable| lendable.carve(&what(&self.terms(wanted)), &self.held_beside(None)).is_ok());
        carved.unwrap_or(false)
    }

    /// Sets a new partition's resources aside, of this shape where it is carved by the host itself; asked again with the same mark, it is the same partition.
    pub async fn carve(
        self: &Arc<Self>,
        wanted: CarvePartition,
        mark: Option<RequestMark>,
        shape: Option<String>,
    ) -> Result<PartitionRow, PartitionError> {
        let _planning = self.planning.lock().await;
        if let Some(earlier) = self.carved_earlier(mark.clone()).await? {
            return Ok(earlier);
        }
        let terms = self.terms(&wanted);
        terms.validate()?;
        let held = self.held_beside(None);
        let id = PartitionId(Uuid::new_v4());
        let user = self.services.config.users.free(&self.users())?;
        let holding = self.lendable()?.carve(&what(&terms), &held)?;
        let terms = self.services.with_host_facts(terms, &holding.cpus);
        if terms.network == Network::Nat {
            self.services.networks.check(id, user).await?;
        }
        let row = PartitionRow {
            id,
            shape,
            partition: Partition { kind: wanted.kind, ..Partition::carved(terms, holding.cpus) },
            effects: Vec::new(),
            machine: MachineRecord { user: Some(user), ..MachineRecord::default() },
        };
        let disk_mib = if row.partition.has_disk() { wanted.allocation.disk_mib } else { 0 };
        self.make_disk(row.id, disk_mib).await?;
        self.services.table.insert(row.clone(), mark).await?;
        Ok(self.drive(row, None).row())
    }

    /// What was asked for, at the price that was stated or else is the host's.
    fn terms(&self, wanted: &CarvePartition) -> Terms {
        let qualities = Qualities { cpu_share_percent: wanted.cpu_share_percent, ..Qualities::default() };
        let list = &self.services.config.prices;
        Terms {
            allocation: wanted.allocation,
            price: wanted.price.unwrap_or_else(|| list.of(&wanted.allocation, qualities.cpu_percent())),
            os_images: Default::default(),
            cpu_model: String::new(),
            network: wanted.network,
            qualities,
            lending: Default::default(),
        }
    }

    async fn carved_earlier(
        &self,
        mark: Option<RequestMark>,
    ) -> Result<Option<PartitionRow>, PartitionError> {
        let Some(mark) = mark else { return Ok(None) };
        match self.services.table.carved_by(mark).await? {
            Earlier::None => Ok(None),
            Earlier::Same(id) => self.get(id).map(|handle| Some(handle.row())).ok_or(PartitionError::Gone),
            Earlier::Other => Err(PartitionError::KeyReused),
        }
    }

    async fn make_disk(&self, id: PartitionId, mib: u64) -> Result<(), PartitionError> {
        let (directory, path) = (self.services.directory(id), self.services.disk(id));
        tokio::task::spawn_blocking(move || {
            std::fs::create_dir(&directory).map_err(PartitionError::Files)?;
            disk::shape(&path, mib).or_else(|error| {
                std::fs::remove_dir_all(&directory).map_err(PartitionError::Files)?;
                Err(error.into())
            })
        })
        .await?
    }

    /// Changes a partition's allocation, price or key: here, and before that at the registry where it is on offer (F7).
    pub async fn change(
        &self,
        handle: &Handle,
        wanted: &ChangePartition,
    ) -> Result<PartitionRow, PartitionError> {
        let _planning = self.planning.lock().await;
        let row = handle.row();
        let now = &row.partition;
        let terms = Terms {
            allocation: wanted.allocation.unwrap_or(now.terms.allocation),
            price: wanted.price.unwrap_or(now.terms.price),
            ..now.terms.clone()
        };
        terms.validate()?;
        // What the state does not allow is refused before what the host does not have.
        let same = Change { terms: now.terms.clone(), host_cpus: now.host_cpus.clone(), new_key: false };
        now.clone().apply(Event::Change(same))?;
        let held = self.held_beside(Some(row.id));
        let holding = self.lendable()?.change(&what(&terms), &holding(&row), &held)?;
        let terms = self.services.with_host_facts(terms, &holding.cpus);
        let change = Change { terms, host_cpus: holding.cpus, new_key: wanted.new_key };
        handle.ask(|reply| Command::Change(change, reply)).await
    }

    fn users(&self) -> Vec<u32> {
        self.all().into_iter().filter_map(|handle| handle.row().machine.user).collect()
    }

    fn lendable(&self) -> Result<Lendable, PartitionError> {
        let resources = self.services.resources(self.disks_mib())?;
        Ok(self.services.lendable(&resources)?)
    }

    /// What the disks that are there take of the file system.
    fn disks_mib(&self) -> u64 {
        let rows = self.all().into_iter().map(|handle| handle.row());
        rows.filter(|row| row.partition.has_disk()).map(|row| holding(&row).disk_mib).sum()
    }

    fn held_beside(&self, but: Option<PartitionId>) -> Vec<Holding> {
        let rows = self.all().into_iter().map(|handle| handle.row());
        rows.filter(|row| Some(row.id) != but).map(|row| holding(&row)).collect()
    }
}

/// Partitions that were carved before VMMs had users of their own get one.
async fn give_users(services: &Services, rows: &mut [PartitionRow]) -> Result<(), PartitionError> {
    let mut taken: Vec<u32> = rows.iter().filter_map(|row| row.machine.user).collect();
    for row in rows.iter_mut().filter(|row| row.machine.user.is_none()) {
        let user = services.config.users.free(&taken)?;
        taken.push(user);
        row.machine.user = Some(user);
        services.table.update(row.clone()).await?;
    }
    Ok(())
}

/// Guests that run go on with the networks they have; what cannot be put right now is tried again.
async fn resume_networks(services: &Services, rows: &[PartitionRow]) {
    let connected = rows.iter().filter(|row| row.partition.terms.network == Network::Nat);
    let built = connected.filter(|row| row.machine.built.is_some());
    let links: Vec<_> = built.filter_map(|row| Some((row.id, row.machine.user?))).collect();
    if let Err(error) = services.networks.resume(&links).await {
        tracing::error!(error = chain(&error), "partitions' networks could not be put right");
    }
}

fn capacity(host: &HostResources) -> Capacity {
    Capacity {
        cpus: host.topology.cpu_count(),
        memory_mib: host.topology.memory_mib(),
        disk_mib: host.disk_mib,
    }
}

/// What is to be set aside by these terms.
fn what(terms: &Terms) -> Wanted {
    Wanted { allocation: terms.allocation, cpu_share_percent: terms.qualities.cpu_share_percent }
}

/// What a partition holds, with what a change that was asked for would take.
fn holding(row: &PartitionRow) -> Holding {
    let now = row.partition.terms.allocation;
    let then = match &row.partition.state {
        State::Offered { change: Some(change) } => change.terms.allocation,
        _ => now,
    };
    Holding {
        cpus: row.partition.held_cpus().collect(),
        cpu_share_percent: row.partition.terms.qualities.cpu_share_percent,
        memory_mib: now.memory_mib.max(then.memory_mib),
        disk_mib: now.disk_mib.max(then.disk_mib),
    }
}
