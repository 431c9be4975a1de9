//! What must hold whatever happens, looked at by a connection of its own to the registry's database.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Seek as _},
    rc::Rc,
    time::Duration,
};

use jiff::SignedDuration;

use super::{
    borrower::Borrower,
    driver::CLOCK_TOLERANCE_NS,
    host::Host,
    network::PATIENCE,
    registry::{RegistryProcess, at_once},
};
use crate::{
    agent::partition::table::{PartitionRow, Reports},
    api::registry::{Account, Lease, LedgerEntry, LendingState, Recall, RegisteredPartition},
    domain::{
        id::{BorrowerId, HostId, LeaseId, PartitionId},
        ledger::audit::{Auditor, Finding},
        partition::{OpenLease, State},
        terms::{Epoch, TermsVersion},
    },
    registry::resource_db::{Page, ResourceDb, WhichLeases},
};

/// By how much a host's notion of the registry's clock may be wrong: what it heard was on its way for as long as it waits
/// for an answer, its own time goes by a little slower, and a smaller difference is not put right.
const CLOCK_ERROR: Duration =
    PATIENCE.saturating_add(Duration::from_nanos(CLOCK_TOLERANCE_NS)).saturating_add(Duration::from_secs(1));

pub(super) struct Laws {
    registry: Rc<RegistryProcess>,
    db: ResourceDb,
    /// The latest epoch that a key opened each partition with.
    opened: RefCell<BTreeMap<PartitionId, Epoch>>,
    /// What the registry's rows were at last.
    rows: RefCell<BTreeMap<PartitionId, (Epoch, TermsVersion)>>,
    /// What the lender was told.
    recalls: RefCell<BTreeMap<LeaseId, Recall>>,
    pub(super) leases_opened: Cell<u64>,
}

impl Laws {
    pub(super) fn new(registry: &Rc<RegistryProcess>) -> Rc<Self> {
        Rc::new(Self {
            registry: Rc::clone(registry),
            db: registry.another_connection(),
            opened: RefCell::default(),
            rows: RefCell::default(),
            recalls: RefCell::default(),
            leases_opened: Cell::new(0),
        })
    }

    pub(super) fn registered(&self, host: HostId) -> BTreeMap<PartitionId, RegisteredPartition> {
        let register = at_once(self.db.host_register(host)).unwrap();
        register.partitions.into_iter().map(|row| (row.partition, row)).collect()
    }

    fn lease(&self, open: &OpenLease) -> Lease {
        at_once(self.db.lease(open.borrower, open.lease)).unwrap().expect("law 6: the lease is there")
    }

    /// A host has stored a row.
    pub(super) fn stored(&self, host: &Host, before: &PartitionRow, after: &PartitionRow) {
        match (before.partition.lease(), after.partition.lease()) {
            (None, Some(open)) => self.opens(host, after, open),
            (Some(earlier), Some(later)) => {
                let same = OpenLease { expires_at: earlier.expires_at, ..later.clone() };
                assert_eq!(*earlier, same, "law 1: a second lease while one is open");
                self.ends_in_time(later);
                assert_eq!(before.partition.terms, after.partition.terms, "law 3: changed while lent");
                assert_eq!(
                    before.partition.host_cpus, after.partition.host_cpus,
                    "law 3: changed while lent"
                );
            }
            (_, None) => {}
        }
        assert!(after.partition.least_epoch >= before.partition.least_epoch, "law 4: an epoch went back");
    }

    /// Law 5, of what the host is told: no later than was asked for.
    fn ends_in_time(&self, open: &OpenLease) {
        let asked_until = self.lease(open).asked_until;
        assert!(open.expires_at <= asked_until, "law 5: {open:?} was asked for until {asked_until}");
    }

    /// The registry has told the lender that its recall counts.
    pub(super) fn is_recalled(&self, lease: &Lease) {
        let recall = lease.recall.expect("a recall that was granted is there");
        let before = self.recalls.borrow_mut().insert(lease.id, recall);
        assert!(before.is_none_or(|before| before == recall), "the notice that was given counts");
    }

    fn opens(&self, host: &Host, row: &PartitionRow, open: &OpenLease) {
        let latest = self.opened.borrow_mut().insert(row.id, open.epoch);
        assert!(latest < Some(open.epoch), "law 4: {latest:?} was open, then {open:?}");
        self.ends_in_time(open);
        let lease = self.lease(open);
        let (leased, opened) = (lease.terms.allocation, row.partition.terms.allocation);
        assert_eq!(leased, opened, "law 3: the borrower was shown another allocation");
        let registered = self.registered(host.id);
        let state = registered.get(&row.id).map(|view| view.state.clone());
        let is_of = |state| match state {
            LendingState::Lent { lease, .. } | LendingState::AwaitingClean { lease } => lease == open.lease,
            LendingState::Free => false,
        };
        assert!(state.clone().is_some_and(is_of), "law 4: {open:?} opens what is {state:?}");
        self.leases_opened.set(self.leases_opened.get() + 1);
    }

    /// Looks at everything.
    pub(super) fn look(&self, hosts: &[Rc<Host>]) {
        hosts.iter().for_each(|host| self.look_at(host));
    }

    fn look_at(&self, host: &Host) {
        let registered = self.registered(host.id);
        let mut rows = self.rows.borrow_mut();
        for view in registered.values() {
            let now = (view.epoch, view.version);
            let before = rows.insert(view.partition, now).unwrap_or(now);
            assert!(before.0 <= now.0 && before.1 <= now.1, "laws 4 and 6: {before:?} became {now:?}");
        }
        for (partition, machine) in host.machines.borrow().iter() {
            if let Some((lease, _)) = machine.guest {
                self.guest_runs(host, *partition, lease);
            }
        }
    }

    /// Law 5.
    fn guest_runs(&self, host: &Host, partition: PartitionId, lease: LeaseId) {
        let row = host.rows().into_iter().find(|row| row.id == partition);
        let open = row.as_ref().and_then(|row| row.partition.lease()).filter(|open| open.lease == lease);
        // Else its end is stored, and the machine is being discarded.
        let Some(open) = open else { return };
        let late = self.registry.now().duration_since(open.expires_at);
        let allowed = SignedDuration::try_from(CLOCK_ERROR).unwrap();
        assert!(late <= allowed, "law 5: a guest of {open:?} runs {late:?} past its end");
    }

    /// Whether everything has come to rest: each lease settled, each partition on offer again, and host and registry of
    /// one opinion. What is not, where something is not.
    pub(super) fn unrest(&self, hosts: &[Rc<Host>]) -> Option<String> {
        let active = at_once(self.db.active_leases()).unwrap();
        if active > 0 {
            return Some(format!("{active} leases run"));
        }
        hosts.iter().find_map(|host| self.unrest_at(host))
    }

    fn unrest_at(&self, host: &Host) -> Option<String> {
        if at_once(host.table.reports()).unwrap() != Reports::default() {
            return Some("the host has something to tell".to_owned());
        }
        let mut registered = self.registered(host.id);
        for row in host.rows() {
            let view = registered.remove(&row.id);
            let agree = view.as_ref().is_some_and(|view| {
                view.state == LendingState::Free
                    && view.terms == row.partition.terms
                    && Some(view.version) == row.partition.version
                    && view.epoch < row.partition.least_epoch.max(Epoch(1))
            });
            let at_rest = row.partition.state == State::Offered { change: None } && row.effects.is_empty();
            if !(agree && at_rest) {
                return Some(format!("{row:?}\nat the registry: {view:?}"));
            }
        }
        assert!(registered.is_empty(), "the registry has what no host has: {registered:?}");
        None
    }

    /// Laws 1, 6 and 7, when everything has come to rest: all that was told, and nothing that was not.
    pub(super) fn settle(&self, borrowers: &[Rc<Borrower>]) {
        for borrower in borrowers {
            let notebook = borrower.notebook.borrow();
            let Some(id) = notebook.granted.values().next().map(|lease| lease.borrower) else { continue };
            let leases = self.leases(id);
            let (told, kept): (Vec<_>, Vec<_>) =
                (notebook.granted.keys().copied().collect(), leases.keys().copied().collect());
            assert_eq!(told, kept, "law 6: leases that were acknowledged, and those there are");
            for (lease, ended) in &notebook.ended {
                assert_eq!(&leases[lease], ended, "law 6: an end changed");
            }
            self.settle_bill(id, &leases);
            leases.values().for_each(|lease| self.recall_counted(lease));
        }
        assert_eq!(self.audit(), [], "laws 6 and 7");
    }

    /// Law 6 for recalls: the lease ended for it, or before.
    fn recall_counted(&self, lease: &Lease) {
        if let Some(recall) = self.recalls.borrow().get(&lease.id) {
            assert_eq!(lease.recall.as_ref(), Some(recall), "law 6: a recall was lost, or changed");
            let ended = lease.end.as_ref().expect("no lease runs");
            assert!(ended.at <= recall.until, "{lease:?} was billed after its recall");
        }
    }

    fn audit(&self) -> Vec<Finding> {
        let mut export = tempfile::tempfile().unwrap();
        at_once(self.db.export(export.try_clone().unwrap())).unwrap();
        export.rewind().unwrap();
        let mut auditor = Auditor::default();
        for line in BufReader::new(export).lines() {
            auditor.read(serde_json::from_str(&line.unwrap()).unwrap());
        }
        auditor.finish().1
    }

    fn leases(&self, borrower: BorrowerId) -> BTreeMap<LeaseId, Lease> {
        let all = Page { before: None, limit: 10_000 };
        let leases = at_once(self.db.leases(WhichLeases::of(borrower), all)).unwrap();
        leases.into_iter().map(|lease| (lease.id, lease)).collect()
    }

    /// Law 7: each lease is charged once, and what is charged is paid on.
    fn settle_bill(&self, borrower: BorrowerId, leases: &BTreeMap<LeaseId, Lease>) {
        let all = Page { before: None, limit: 10_000 };
        let entries = at_once(self.db.entries(Account::Borrower(borrower), all)).unwrap();
        let mut charged: Vec<_> = entries.iter().filter_map(|charge| charge.entry.occasion.lease()).collect();
        charged.sort();
        assert_eq!(charged, leases.keys().copied().collect::<Vec<_>>(), "law 7: each lease is charged once");
        for LedgerEntry { entry, .. } in entries {
            let lease = entry.occasion.lease().expect("nothing but leases is booked");
            let end = leases[&lease].end.as_ref().expect("no lease runs");
            assert_eq!(-entry.legs.borrower.0, end.charge.0, "law 7");
            assert!(entry.legs.is_balanced(), "law 7");
        }
    }
}
