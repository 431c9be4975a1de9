//! The VMM that stands for a partition, as the partition's driver handles it: prepared, found again, guarded, lost,
//! discarded.

use std::{error::Error, time::Duration};

use sublet_guest_protocol::PORT_NAME;
use sublet_vmm_protocol::{
    ConsoleConfig, ControlError, DiskConfig, LayerConfig, MachineConfig, MachineState, NetworkConfig,
    PROTOCOL_VERSION, PortConfig, Request, RngConfig, VsockConfig, config::DISK_QUEUE_MAX,
};

use super::{
    driver::{Command, Driver},
    error::PartitionError,
    machine::{Built, Deadline, LastGuest},
};
use crate::{
    agent::{
        guest::{ports, process::Alive},
        host::{clock::boottime, disk},
    },
    api::{
        agent::{GuestEnd, JobEnd},
        http::chain,
    },
    domain::{
        network::Network,
        partition::{Effect, Event, HostEnd, Partition, State},
    },
};

/// What is kept of a guest's console, in bytes.
const CONSOLE_BYTES: u64 = 1 << 20;
/// Clocks that differ by less are the same, in nanoseconds.
const CLOCK_TOLERANCE_NS: u64 = 2_000_000_000;

impl Driver {
    /// After the agent was started: the VMM of the agent before is found again, or what became of it is told.
    pub(super) async fn recover(&mut self) -> Result<(), PartitionError> {
        if let Err(error) = self.shape().await {
            self.complain("the disk could not be put right", &error);
        }
        if let Err(error) = self.jobs.store_output().await {
            self.complain("output of its jobs could not be stored", &error.into());
        }
        let Some(built) = self.row.machine.built.clone() else { return self.want_machine().await };
        if built.host_boot != self.services.inventory.boot_id {
            return self.host_lost(built).await;
        }
        // A VMM that was stopped while no agent ran answers once it goes on.
        self.freeze.begin(&self.row).await;
        match self.services.vmms.find(self.row.id).await {
            Ok(alive) => self.found(built, alive).await,
            // It was never seen prepared: the effect that was to start it is still to be done.
            Err(_) if built.process.is_none() => self.want_machine().await,
            Err(error) => self.lost(&error).await,
        }
    }

    /// What an interrupted change left of the disk is put right.
    async fn shape(&self) -> Result<(), PartitionError> {
        let Partition { state, .. } = &self.row.partition;
        let wiping = matches!(state, State::Scrubbing { clean: false, .. }) || *state == State::Released;
        if wiping || !self.row.partition.has_disk() { Ok(()) } else { self.shape_disk().await }
    }

    async fn found(&mut self, built: Built, alive: Alive) -> Result<(), PartitionError> {
        let Alive { status, process } = alive;
        let mut row = self.row.clone();
        // An agent from before there were any has found none.
        let baseline =
            built.baseline.clone().or_else(|| process.map(|process| self.freeze.baseline(process)));
        row.machine.built = Some(Built {
            process,
            baseline,
            // The agent before died between writing down the boot and asking for it.
            boot: built.boot.clone().filter(|_| status.state != MachineState::Prepared),
            ..built.clone()
        });
        self.store(row).await?;
        tracing::info!(partition = %self.row.id, state = ?status.state, "found the partition's VMM again");
        if let Some(process) = process
            && let Err(error) =
                self.services.vmms.keep(self.row.id, &self.services.set_aside(&self.row.partition), process)
        {
            self.complain("its CPUs are not kept from others", &error.into());
        }
        self.freeze.begin(&self.row).await;
        // A change of state that was missed is told at once.
        self.watch_machine(built.cid, 0);
        self.guard_end().await
    }

    async fn host_lost(&mut self, built: Built) -> Result<(), PartitionError> {
        self.jobs.end_all(JobEnd::HostLost, self.services.clock.now()).await?;
        let end = GuestEnd::Failed { reason: "the host went down".to_owned() };
        self.forget_machine(built, end, None).await?;
        // A lease whose time goes on, goes on.
        let over =
            self.row.partition.lease().is_some_and(|lease| lease.expires_at <= self.services.clock.now());
        if over { self.commit(Event::End(HostEnd::Lost)).await } else { Ok(()) }
    }

    /// The VMM is gone, and the guest with it.
    pub(super) async fn lost(&mut self, error: &(dyn Error + Send + Sync)) -> Result<(), PartitionError> {
        let Some(built) = self.row.machine.built.clone() else { return Ok(()) };
        tracing::error!(partition = %self.row.id, error = chain(error), "the partition's VMM is lost");
        self.freeze.lost().await;
        self.drain_relay().await;
        let reason = "its VMM ended".to_owned();
        let end = JobEnd::GuestFailed { reason: reason.clone() };
        self.jobs.end_all(end, self.services.clock.now()).await?;
        self.forget_machine(built, GuestEnd::Failed { reason }, None).await
    }

    /// A guest has ended in this way; whatever is left of its VMM is ended, and the next machine prepared, for what is to
    /// be done `then`.
    pub(super) async fn forget_machine(
        &mut self,
        built: Built,
        end: GuestEnd,
        then: Option<Effect>,
    ) -> Result<(), PartitionError> {
        let mut row = self.row.clone();
        if built.boot.is_some() {
            row.machine.last = Some(LastGuest { end, cid: built.cid });
        }
        row.machine.built = Some(Built { boot: None, ..built });
        row.effects.retain(|effect| !matches!(effect, Effect::BootAgain { .. }));
        if self.row.partition.needs_machine().is_ok() && !row.effects.contains(&Effect::DiscardMachine) {
            let next = [Effect::DiscardMachine, Effect::PrepareMachine].into_iter().chain(then);
            row.effects.splice(0..0, next);
        }
        self.store(row).await
    }

    /// The machine is to be there; it will be prepared with what else is to be done.
    async fn want_machine(&mut self) -> Result<(), PartitionError> {
        let mut row = self.row.clone();
        if self.row.partition.needs_machine().is_ok() && !row.effects.contains(&Effect::PrepareMachine) {
            row.effects.insert(0, Effect::PrepareMachine);
            self.store(row).await?;
        }
        Ok(())
    }

    /// Has a VMM stand for the partition, its memory built and locked.
    pub(super) async fn prepare_machine(&mut self) -> Result<(), PartitionError> {
        let running = self.row.machine.built.as_ref().is_some_and(|built| built.process.is_some());
        if running && self.services.vmms.find(self.row.id).await.is_ok() {
            return Ok(());
        }
        self.discard_machine().await?;
        let cid = self.services.table.next_cid().await?;
        let host_boot = self.services.inventory.boot_id.clone();
        self.build(Some(Built { cid, host_boot, process: None, baseline: None, boot: None })).await?;
        let network = match self.network_user()? {
            Some(user) => Some(self.services.networks.up(self.row.id, user).await?),
            None => None,
        };
        let (disk, aside) = (self.disk().await?, self.services.set_aside(&self.row.partition));
        let config = self.machine_config(cid, network, disk)?;
        let Alive { status, process } = self.services.vmms.start(self.row.id, &config, &aside).await?;
        let built = self.row.machine.built.clone();
        let baseline = process.map(|process| self.freeze.baseline(process));
        self.build(built.map(|built| Built { process, baseline, ..built })).await?;
        self.freeze.begin(&self.row).await;
        self.watch_machine(cid, status.generation);
        self.guard_end().await
    }

    /// The partition's user, where it has a network.
    fn network_user(&self) -> Result<Option<u32>, PartitionError> {
        match self.row.partition.terms.network {
            Network::None => Ok(None),
            Network::Nat => self.row.machine.user.map(Some).ok_or(PartitionError::NoUser),
        }
    }

    /// The partition's disk, with its key; none where it has none. A disk whose key is lost, as all are when the host's
    /// power was cut, is an empty one again.
    async fn disk(&self) -> Result<Option<DiskConfig>, PartitionError> {
        let (id, mib) = (self.row.id, self.row.partition.terms.allocation.disk_mib);
        if mib == 0 {
            return Ok(None);
        }
        let (keys, path) = (self.services.disk_keys.clone(), self.services.disk(id));
        let key = tokio::task::spawn_blocking(move || match keys.find(id)? {
            Some(key) => Ok::<_, PartitionError>(key),
            None => {
                disk::wipe(&path, mib)?;
                Ok(keys.make(id)?)
            }
        });
        let layer = LayerConfig { bytes: mib << 20, key: key.await?? };
        let vcpus = self.row.partition.host_cpus.len().min(DISK_QUEUE_MAX.into()) as u16;
        let limits = self.services.config.disk.limits();
        let disk = DiskConfig::new(self.services.disk(id));
        Ok(Some(DiskConfig { queues: Some(vcpus), limits, layer: Some(layer), ..disk }))
    }

    fn machine_config(
        &self,
        cid: u32,
        network: Option<NetworkConfig>,
        disk: Option<DiskConfig>,
    ) -> Result<MachineConfig, PartitionError> {
        let (id, allocation) = (self.row.id, self.row.partition.terms.allocation);
        Ok(MachineConfig {
            version: PROTOCOL_VERSION,
            name: id.to_string(),
            user: self.row.machine.user.ok_or(PartitionError::NoUser)?,
            vcpu_host_cpus: self.services.vcpu_cpus(&self.row.partition),
            service_host_cpus: self.services.service_cpus(&self.row.partition),
            shared_cpus: self.row.partition.terms.qualities.cpu_share_percent.is_some(),
            memory_mib: allocation.memory_mib,
            huge_pages: self.services.config.huge_pages,
            disks: disk.into_iter().collect(),
            vsock: Some(VsockConfig { guest_cid: cid }),
            network,
            rng: Some(RngConfig::default()),
            port: Some(PortConfig { name: PORT_NAME.to_owned(), socket: self.services.vmms.port(id) }),
            console: ConsoleConfig { path: self.services.console(id, cid), capacity_bytes: CONSOLE_BYTES },
            control_socket: self.services.vmms.socket(id),
        })
    }

    pub(super) async fn build(&mut self, built: Option<Built>) -> Result<(), PartitionError> {
        let mut row = self.row.clone();
        row.machine.built = built;
        self.store(row).await
    }

    fn watch_machine(&mut self, cid: u32, generation: u64) {
        self.answer_port(cid);
        let Some(commands) = self.to_self.upgrade() else { return };
        let commands = commands.downgrade();
        self.services.vmms.watch(self.row.id, generation, move |status| {
            let goes_on = matches!(&status, Ok(status) if !matches!(status.state, MachineState::Off { .. }));
            let told = commands
                .upgrade()
                .is_some_and(|commands| commands.blocking_send(Command::Machine(cid, status)).is_ok());
            goes_on && told
        });
    }

    /// Listens to a guest that can call through its port only.
    fn answer_port(&mut self, cid: u32) {
        let (row, commands) = (self.published.subscribe(), self.to_self.clone());
        let boot = move || {
            let machine = &row.borrow().machine;
            machine.boot().filter(|_| machine.built.as_ref().is_some_and(|built| built.cid == cid)).cloned()
        };
        let tell = move |runner| {
            if let Some(commands) = commands.upgrade() {
                // With more to do than it can remember the driver hears it when it calls again.
                drop(commands.try_send(Command::Runner(runner)));
            }
        };
        let answering = tokio::spawn(ports::answer(self.services.vmms.port(self.row.id), boot, tell));
        if let Some(before) = self.port.replace(answering.abort_handle()) {
            before.abort();
        }
    }

    /// Ends the guest and its VMM; when this returns their memory is free, and nothing of their network is left.
    pub(super) async fn discard_machine(&mut self) -> Result<(), PartitionError> {
        self.hang_up();
        self.freeze.pause().await;
        let process = self.row.machine.built.as_ref().and_then(|built| built.process);
        self.services.vmms.end(self.row.id, process).await?;
        if let Some(user) = self.network_user()? {
            self.services.networks.down(self.row.id, user).await?;
        }
        if self.row.machine.built.is_some() {
            self.build(None).await?;
        }
        self.stopped();
        Ok(())
    }

    /// Law 5: the VMM itself ends the guest at the end of the lease. The end is put on the host's boot time once, so
    /// that no change of a wall clock moves it.
    pub(super) async fn guard_end(&mut self) -> Result<(), PartitionError> {
        let Some(lease) = self.row.partition.lease() else { return Ok(()) };
        let host_boot = self.services.inventory.boot_id.clone();
        let known = self.row.machine.deadline.clone().filter(|known| known.host_boot == host_boot);
        let boottime_ns = self.services.clock.boottime_ns_at(lease.expires_at);
        self.guard(known.unwrap_or(Deadline { host_boot, boottime_ns })).await
    }

    /// The lease was renewed or recalled: its end is reckoned anew.
    pub(super) async fn move_end(&mut self) -> Result<(), PartitionError> {
        let Some(lease) = self.row.partition.lease() else { return Ok(()) };
        let boottime_ns = self.services.clock.boottime_ns_at(lease.expires_at);
        let host_boot = self.services.inventory.boot_id.clone();
        self.guard(Deadline { host_boot, boottime_ns }).await
    }

    /// The registry's clock was heard: an end that was reckoned by another one is put right.
    pub(super) async fn follow_clock(&mut self) -> Result<(), PartitionError> {
        let (Some(lease), Some(known)) = (self.row.partition.lease(), &self.row.machine.deadline) else {
            return Ok(());
        };
        let boottime_ns = self.services.clock.boottime_ns_at(lease.expires_at);
        if boottime_ns.abs_diff(known.boottime_ns) < CLOCK_TOLERANCE_NS {
            return Ok(());
        }
        self.guard(Deadline { boottime_ns, ..known.clone() }).await
    }

    async fn guard(&mut self, deadline: Deadline) -> Result<(), PartitionError> {
        let boottime_ns = Some(deadline.boottime_ns);
        if self.row.machine.deadline.as_ref() != Some(&deadline) {
            let mut row = self.row.clone();
            row.machine.deadline = Some(deadline);
            self.store(row).await?;
        }
        if self.row.machine.built.is_some() {
            let stop_at = Request::StopAt { version: PROTOCOL_VERSION, boottime_ns };
            self.services.vmms.ask(self.row.id, stop_at).await?;
        }
        Ok(())
    }

    /// How long the lease that is open still goes.
    pub(super) fn lease_left(&self) -> Option<Duration> {
        let lease = self.row.partition.lease()?;
        let host_boot = &self.services.inventory.boot_id;
        let deadline = self.row.machine.deadline.as_ref().filter(|known| known.host_boot == *host_boot);
        let left =
            deadline.map(|deadline| Duration::from_nanos(deadline.boottime_ns).saturating_sub(boottime()));
        Some(left.unwrap_or_else(|| self.services.clock.until(lease.expires_at)))
    }

    pub(super) async fn unreachable(
        &mut self,
        built: Built,
        error: &ControlError,
    ) -> Result<(), PartitionError> {
        if self.services.vmms.find(self.row.id).await.is_ok() {
            self.watch_machine(built.cid, 0);
            return Ok(());
        }
        self.lost(error).await
    }
}
