//! A lender's host: the real partition table, reconciliation, admission and clock. Its agent may die and come back; the
//! machines, and what ends them, do not die with it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tempfile::TempDir;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
    time::sleep,
};

use super::{
    doom::Doom,
    driver::{Command, Driver},
    laws::Laws,
    network::{Dice, Network},
    registry::{Ask, Line, at_once},
    spawn,
};
use crate::{
    agent::{
        host::clock::{BootTime, LeaseClock},
        partition::table::{PartitionRow, Reports, Table},
    },
    api::{
        registry::{Heartbeat, HeartbeatReply, HostEnrolled},
        secret::Secret,
    },
    client::ClientError,
    clock::Clock,
    domain::{
        id::{HostId, LeaseId, PartitionId},
        lending_key::IssuerPublicKey,
        resources::AllocationDigest,
    },
};

const BEAT: Duration = Duration::from_millis(700);
const RETRY: Duration = Duration::from_millis(500);
const INBOX: usize = 64;

/// The VMM of a partition, and its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Machine {
    /// Whose guest runs, and the boot time at which the VMM ends it.
    pub(super) guest: Option<(LeaseId, Duration)>,
}

pub(super) struct Host {
    pub(super) id: HostId,
    pub(super) issuer: IssuerPublicKey,
    token: Secret,
    pub(super) line: Line,
    pub(super) laws: Rc<Laws>,
    pub(super) doom: Rc<Doom>,
    /// How often a row was written down.
    pub(super) stored: Cell<u64>,
    pub(super) table: Table,
    directory: TempDir,
    pub(super) boottime: BootTime,
    pub(super) machines: RefCell<BTreeMap<PartitionId, Machine>>,
    /// Of the agent, which dies.
    clock: RefCell<Arc<LeaseClock>>,
    tasks: RefCell<Vec<JoinHandle<()>>>,
    inboxes: RefCell<BTreeMap<PartitionId, mpsc::Sender<Command>>>,
    news: Notify,
}

impl Host {
    pub(super) fn new(enrolled: &HostEnrolled, line: &Line, laws: &Rc<Laws>, speed_ppm: u32) -> Rc<Self> {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let boottime = BootTime::Drifting { begun: line.registry.began(), speed_ppm };
        Rc::new(Self {
            id: enrolled.host,
            issuer: enrolled.issuer.public_key.parse().unwrap(),
            token: enrolled.host_token.clone(),
            line: line.clone(),
            laws: Rc::clone(laws),
            doom: Rc::clone(&line.registry.doom),
            stored: Cell::default(),
            table: Table::open(&directory.path().join("agent.db")).unwrap(),
            machines: RefCell::default(),
            clock: RefCell::new(lease_clock(&boottime, line, directory.path())),
            directory,
            boottime,
            tasks: RefCell::default(),
            inboxes: RefCell::default(),
            news: Notify::new(),
        })
    }

    pub(super) fn dice(&self) -> &Dice {
        &self.line.network.dice
    }

    pub(super) fn clock(&self) -> Arc<LeaseClock> {
        Arc::clone(&self.clock.borrow())
    }

    pub(super) fn carve(&self, rows: impl Iterator<Item = PartitionRow>) {
        rows.for_each(|row| at_once(self.table.insert(row, None)).unwrap());
    }

    /// The agent starts, and finds what it had written down.
    pub(super) fn start(self: &Rc<Self>) {
        *self.clock.borrow_mut() = lease_clock(&self.boottime, &self.line, self.directory.path());
        let mut tasks = Vec::new();
        for row in at_once(self.table.rows()).unwrap() {
            let (commands, inbox) = mpsc::channel(INBOX);
            self.inboxes.borrow_mut().insert(row.id, commands);
            tasks.push(spawn(Driver::new(self, row).run(inbox)));
        }
        tasks.push(spawn(Rc::clone(self).follow_registry()));
        *self.tasks.borrow_mut() = tasks;
    }

    /// The agent dies, between any two steps.
    pub(super) fn kill_agent(&self) {
        self.inboxes.borrow_mut().clear();
        self.tasks.borrow_mut().drain(..).for_each(|task| task.abort());
    }

    /// The agent dies, and its VMMs with it.
    pub(super) fn kill_all(&self) {
        self.kill_agent();
        self.machines.borrow_mut().clear();
    }

    /// Tells the registry that the host lives, and the drivers what the registry says.
    async fn follow_registry(self: Rc<Self>) {
        loop {
            let asked_at = self.boottime.now();
            match self.beat().await {
                Ok(reply) => {
                    self.clock().hear(reply.now, asked_at).unwrap();
                    for (partition, inbox) in self.inboxes.borrow().iter() {
                        let view = reply.partitions.iter().find(|view| view.partition == *partition).cloned();
                        drop(inbox.try_send(Command::Registry(view.map(Box::new))));
                    }
                    tokio::select! {
                        biased;
                        () = self.news.notified() => {}
                        () = sleep(BEAT) => {}
                    }
                }
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    /// One heartbeat, with all that there is to report; what was told is forgotten.
    pub(super) async fn beat(&self) -> Result<HeartbeatReply, ClientError> {
        let reports = at_once(self.table.reports()).unwrap();
        let Reports { ended, cleaned } = reports.clone();
        let beat = Heartbeat { cleaned, ended, ..Heartbeat::default() };
        let reply = self.line.ask(self.question("POST", "heartbeat", &beat)).await?;
        at_once(self.table.told(reports)).unwrap();
        Ok(reply)
    }

    pub(super) fn tell(&self) {
        self.news.notify_one();
    }

    pub(super) fn question(&self, method: &'static str, what: &str, body: &impl serde::Serialize) -> Ask {
        Ask::new(method, format!("/v1/hosts/{}/{what}", self.id), &self.token, body)
    }

    pub(super) fn inbox(&self, partition: PartitionId) -> Option<mpsc::Sender<Command>> {
        self.inboxes.borrow().get(&partition).cloned()
    }

    pub(super) fn rows(&self) -> Vec<PartitionRow> {
        at_once(self.table.rows()).unwrap()
    }

    /// F5, over the network; true: the partition is open.
    pub(super) async fn open(
        self: &Rc<Self>,
        network: &Rc<Network>,
        partition: PartitionId,
        key: &Secret,
        digest: AllocationDigest,
    ) -> bool {
        let key = key.clone();
        self.visit(network, partition, move |reply| Command::Open(key.clone(), digest, reply)).await
    }

    /// The borrower gives the partition back at the host.
    pub(super) async fn take_back(
        self: &Rc<Self>,
        network: &Rc<Network>,
        partition: PartitionId,
        key: &Secret,
    ) -> bool {
        let key = key.clone();
        self.visit(network, partition, move |reply| Command::Return(key.clone(), reply)).await
    }

    async fn visit(
        self: &Rc<Self>,
        network: &Rc<Network>,
        partition: PartitionId,
        command: impl Fn(oneshot::Sender<bool>) -> Command + 'static,
    ) -> bool {
        let host = Rc::clone(self);
        let answered = network.call(move || {
            let (reply, answered) = oneshot::channel();
            let command = command(reply);
            let inbox = host.inbox(partition);
            async move {
                inbox?.send(command).await.ok()?;
                answered.await.ok()
            }
        });
        answered.await.unwrap_or(false)
    }

    /// The VMM ends the guest at the lease's end by itself (law 5).
    pub(super) fn guard(self: &Rc<Self>, partition: PartitionId, lease: LeaseId, stop_at: Duration) {
        let mut machines = self.machines.borrow_mut();
        let Some(machine) = machines.get_mut(&partition) else { return };
        if machine.guest == Some((lease, stop_at)) {
            return;
        }
        machine.guest = Some((lease, stop_at));
        let host = Rc::clone(self);
        spawn(async move {
            while host.boottime.now() < stop_at {
                sleep(stop_at.saturating_sub(host.boottime.now()) / 2 + Duration::from_millis(1)).await;
            }
            let mut machines = host.machines.borrow_mut();
            if let Some(machine) = machines.get_mut(&partition).filter(|m| m.guest == Some((lease, stop_at)))
            {
                machine.guest = None;
            }
        });
    }
}

/// A new agent's clock. Its host's wall clock is wrong by up to a second either way, and by up to an hour once the registry's
/// was heard.
fn lease_clock(boottime: &BootTime, line: &Line, directory: &Path) -> Arc<LeaseClock> {
    let most = if directory.join("clock.json").exists() { 3600 } else { 1 };
    let wrong_by =
        i64::try_from(line.network.dice.roll(2 * most + 1)).unwrap() - i64::try_from(most).unwrap();
    let wall: Timestamp = line.registry.now() + jiff::SignedDuration::from_secs(wrong_by);
    let clock = LeaseClock::of(Clock::held_at(wall), boottime.clone(), directory, "the only one");
    Arc::new(clock.unwrap())
}
