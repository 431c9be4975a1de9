//! The watch over one partition: it looks several times a second, has the guard put back what was changed, and the meter
//! count. The partition's driver says from when on there is a machine to watch, and when a lease begins and ends; it is not
//! waited for in between.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use sublet_vmm_protocol::{PROTOCOL_VERSION, Request};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, sleep, timeout},
};

use super::{
    guard::{Baseline, Deviation, Expected, ExpectedDisk, Lookout, Seen},
    meter::{Meter, Reading, VcpuCount},
};
use crate::{
    agent::{
        guest::process::ProcessId,
        host::clock::boottime,
        partition::table::{PartitionRow, TableError},
        services::Services,
    },
    api::http::chain,
    domain::{
        id::{LeaseId, PartitionId},
        lease::EndReason,
        receipt::{
            guest::GuestWord,
            segment::{Moment, SegmentEnd, SetAside, Violation, Watched},
        },
    },
};

/// Between two looks: what is changed is to be noticed within a second.
const EVERY: Duration = Duration::from_millis(400);
/// How often what was counted is kept, and the machine asked about its disks.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// How long a segment is at most; one is closed sooner where the lease ends, or somebody asks for the receipt.
const SEGMENT_NS: u64 = 600_000_000_000;
/// How old a segment is at least that is closed because somebody asks.
const ASKED_SEGMENT_NS: u64 = 10_000_000_000;
/// How long a machine may take to say how its disks are.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Watch {
    partition: PartitionId,
    services: Arc<Services>,
    state: Mutex<State>,
    /// What the guest's job runner said last.
    word: std::sync::Mutex<Option<GuestWord>>,
}

#[derive(Debug, Default)]
struct State {
    /// None: there is no machine, or one that is being changed.
    expected: Option<Expected>,
    /// The machine's process ended without being asked to, and there is no other yet.
    lost: bool,
    meter: Option<Meter>,
    /// What is not as it is to be, was told, and could not be put back.
    known: BTreeSet<(Watched, String)>,
    kept: Option<Instant>,
}

/// What a look came to.
struct Checked {
    seen: Seen,
    /// With each, whether it is put back.
    found: Vec<(Deviation, bool)>,
}

impl Watch {
    pub fn new(partition: PartitionId, services: Arc<Services>) -> Arc<Self> {
        let (state, word) = (Mutex::default(), std::sync::Mutex::default());
        Arc::new(Self { partition, services, state, word })
    }

    /// Watches for as long as anybody else has it.
    pub fn keep(self: &Arc<Self>) {
        let watch = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(watch) = Weak::upgrade(&watch) {
                watch.look().await;
                drop(watch);
                sleep(EVERY).await;
            }
        });
    }

    /// Goes on with the meter of an agent before.
    pub async fn resume(&self) -> Result<(), TableError> {
        let meter = self.services.receipts.open_meter(self.partition).await?;
        self.state.lock().await.meter = meter;
        Ok(())
    }

    /// How the machine is now is how it is to be, where nothing else says so.
    pub fn baseline(&self, process: ProcessId) -> Baseline {
        Baseline::of(self.partition, process, &self.services.lookout)
    }

    /// From now on the partition's machine is to stay as it is.
    pub async fn begin(&self, row: &PartitionRow) {
        let mut state = self.state.lock().await;
        let now = self.now();
        let lost = std::mem::take(&mut state.lost);
        if let Some(meter) = &mut state.meter {
            meter.pass(now, lost);
        }
        state.known.clear();
        state.expected = self.expected(row);
    }

    fn expected(&self, row: &PartitionRow) -> Option<Expected> {
        let built = row.machine.built.as_ref()?;
        let (process, baseline) = (built.process?, built.baseline.clone()?);
        let mib = row.partition.terms.allocation.disk_mib;
        let path = self.services.disk(self.partition);
        Some(Expected {
            partition: self.partition,
            process,
            aside: self.services.set_aside(&row.partition),
            vcpu_cpus: self.services.vcpu_cpus(&row.partition),
            service_cpus: self.services.service_cpus(&row.partition),
            baseline,
            disk: (mib > 0).then_some(ExpectedDisk { path, mib }),
        })
    }

    /// The agent itself is about to change the machine or its disk. When this returns nobody looks at it.
    pub async fn pause(&self) {
        let mut state = self.state.lock().await;
        if state.expected.is_some() {
            // The last look at a machine is worth having: its counts end with it.
            self.look_at(&mut state, true).await;
        }
        state.expected = None;
    }

    /// The machine's process has ended without being asked to.
    pub async fn lost(&self) {
        let mut state = self.state.lock().await;
        state.expected = None;
        state.lost = true;
        let text = str::to_owned;
        let (subject, before, after) = (text("the machine"), text("there"), text("gone"));
        let at = self.services.clock.now();
        let violation = Violation { at, what: Watched::Gone, subject, before, after, restored: false };
        self.violated(&mut state, vec![violation]).await;
    }

    /// A borrower has opened the partition: what is counted from now on is its lease's.
    pub async fn open(&self, lease: LeaseId, row: &PartitionRow) -> Result<(), TableError> {
        let mut state = self.state.lock().await;
        let known = self.services.receipts.is_of(self.partition, lease).await?;
        if known || state.meter.as_ref().is_some_and(|meter| meter.lease == lease) {
            return Ok(());
        }
        *self.word.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let cpus = self.services.vcpu_cpus(&row.partition).into_iter();
        let cpus = cpus.map(|cpu| self.services.lookout.cpus.describe(cpu));
        let set_aside = SetAside {
            allocation: row.partition.terms.allocation,
            cpus: cpus.collect(),
            huge_pages: self.services.config.huge_pages,
            cpu_share_percent: row.partition.terms.qualities.cpu_share_percent,
        };
        let meter = Meter::begin(lease, set_aside, row.machine.cleaned, self.now());
        // The first segment says at once what was set aside, and how the partition was cleaned before.
        state.meter = Some(self.services.receipts.append(self.partition, meter, None).await?);
        self.tell();
        Ok(())
    }

    /// The lease has ended: its last segment is signed.
    pub async fn close(&self, lease: LeaseId, reason: Option<EndReason>) -> Result<(), TableError> {
        let mut state = self.state.lock().await;
        self.look_at(&mut state, true).await;
        let Some(mut meter) = state.meter.clone().filter(|meter| meter.lease == lease) else { return Ok(()) };
        let now = self.now();
        meter.pass(now, state.lost);
        self.add_word(&mut meter);
        let end = SegmentEnd { at: now.at, reason };
        self.services.receipts.append(self.partition, meter, Some(end)).await?;
        state.meter = None;
        self.tell();
        Ok(())
    }

    /// Somebody asks for the receipt: what was counted so far becomes a segment of it, unless one was made a moment ago.
    pub async fn asked(&self) -> Result<(), TableError> {
        let mut state = self.state.lock().await;
        let now = self.now();
        if state.meter.as_ref().is_some_and(|meter| meter.age_ns(now) >= ASKED_SEGMENT_NS) {
            self.look_at(&mut state, true).await;
            self.append(&mut state).await?;
        }
        Ok(())
    }

    /// What the guest's job runner has measured.
    pub fn heard(&self, word: GuestWord) {
        *self.word.lock().unwrap_or_else(PoisonError::into_inner) = Some(word);
    }

    async fn look(&self) {
        let mut state = self.state.lock().await;
        let due = state.kept.is_none_or(|kept| kept.elapsed() >= KEEP_EVERY);
        self.look_at(&mut state, due).await;
        let now = self.now();
        let Some(meter) = &state.meter else { return };
        if meter.age_ns(now) >= SEGMENT_NS {
            if let Err(error) = self.append(&mut state).await {
                self.complain(&error);
            }
        } else if due {
            self.keep_meter(&mut state).await;
        }
    }

    /// One look; `thorough`: the machine is asked as well.
    async fn look_at(&self, state: &mut MutexGuard<'_, State>, thorough: bool) {
        let checked = match state.expected.clone() {
            Some(expected) => self.check(expected).await,
            None => None,
        };
        let now = self.now();
        let Some(Checked { seen, found }) = checked else {
            // A machine whose process is gone is lost, which its driver finds out as well.
            let lacking = state.lost || state.expected.is_some();
            if let Some(meter) = &mut state.meter {
                meter.pass(now, lacking);
            }
            return;
        };
        if let (Some(meter), Some(expected)) = (&state.meter, &state.expected) {
            let throttled_ns = if thorough && meter.has_disks() { self.throttled().await } else { None };
            let reading = reading(expected, &seen, &found, throttled_ns);
            if let Some(meter) = &mut state.meter {
                meter.look(now, &reading);
            }
        }
        let known = std::mem::take(&mut state.known);
        let lasting = found.iter().filter(|(_, restored)| !restored).map(|(deviation, _)| deviation.place());
        state.known = lasting.collect();
        let news = found.iter().filter(|(deviation, _)| !known.contains(&deviation.place()));
        let news: Vec<Violation> =
            news.map(|(deviation, restored)| deviation.noticed(now.at, *restored)).collect();
        self.violated(state, news).await;
    }

    /// Looks, and puts back what is not as it is to be; none: the process has ended.
    async fn check(&self, expected: Expected) -> Option<Checked> {
        let (partition, lookout) = (self.partition, self.services.lookout.clone());
        let checked = tokio::task::spawn_blocking(move || check(partition, &expected, &lookout));
        // A look that panicked has seen nothing.
        checked.await.ok().flatten()
    }

    /// How long each disk's requests were held up, as the machine says; none: it does not say.
    async fn throttled(&self) -> Option<Vec<u64>> {
        let status = Request::Status { version: PROTOCOL_VERSION };
        let asked = timeout(ANSWER_PATIENCE, self.services.vmms.ask(self.partition, status)).await;
        let status = asked.ok()?.ok()?;
        Some(status.disks.iter().map(|disk| disk.throttled_ns).collect())
    }

    async fn violated(&self, state: &mut MutexGuard<'_, State>, violations: Vec<Violation>) {
        if violations.is_empty() {
            return;
        }
        let lease = state.meter.as_ref().map(|meter| meter.lease);
        for violation in violations {
            tracing::warn!(partition = %self.partition, ?lease, %violation, "changed behind the agent's back");
            if let Some(meter) = &mut state.meter {
                meter.violated(violation.clone());
            }
            let kept = self.services.receipts.violated(self.partition, lease, violation).await;
            if let Err(error) = kept {
                self.complain(&error);
            }
        }
        self.keep_meter(state).await;
        self.tell();
    }

    async fn keep_meter(&self, state: &mut MutexGuard<'_, State>) {
        state.kept = Some(Instant::now());
        let Some(meter) = state.meter.clone() else { return };
        if let Err(error) = self.services.receipts.keep(self.partition, meter).await {
            self.complain(&error);
        }
    }

    async fn append(&self, state: &mut MutexGuard<'_, State>) -> Result<(), TableError> {
        let Some(mut meter) = state.meter.clone() else { return Ok(()) };
        self.add_word(&mut meter);
        state.meter = Some(self.services.receipts.append(self.partition, meter, None).await?);
        self.tell();
        Ok(())
    }

    fn add_word(&self, meter: &mut Meter) {
        if let Some(word) = self.word.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            meter.heard(word);
        }
    }

    fn now(&self) -> Moment {
        let boottime_ns = u64::try_from(boottime().as_nanos()).unwrap_or(u64::MAX);
        Moment { boottime_ns, at: self.services.clock.now() }
    }

    fn tell(&self) {
        if let Some(registry) = &self.services.registry {
            registry.tell();
        }
    }

    fn complain(&self, error: &TableError) {
        let error = chain(error);
        tracing::error!(partition = %self.partition, error, "what was counted of a lease could not be kept");
    }
}

fn check(partition: PartitionId, expected: &Expected, lookout: &Lookout) -> Option<Checked> {
    let seen = Seen::look(expected, lookout)?;
    if let Err(error) = expected.place_kernels(&seen, lookout) {
        tracing::warn!(%partition, error = chain(&error), "a thread of the kernel's stays beside a vCPU");
    }
    let deviations = expected.compare(&seen, lookout);
    for deviation in &deviations {
        if let Err(error) = expected.restore(deviation, lookout) {
            tracing::warn!(%partition, what = deviation.what.as_str(), error = chain(&error), "it could not be put back");
        }
    }
    let left: BTreeSet<_> = match deviations.is_empty() {
        true => BTreeSet::new(),
        false => {
            let after = Seen::look(expected, lookout)?;
            expected.compare(&after, lookout).iter().map(Deviation::place).collect()
        }
    };
    let put_back = |deviation: Deviation| {
        let restored = !left.contains(&deviation.place());
        (deviation, restored)
    };
    Some(Checked { seen, found: deviations.into_iter().map(put_back).collect() })
}

fn reading(
    expected: &Expected,
    seen: &Seen,
    found: &[(Deviation, bool)],
    throttled_ns: Option<Vec<u64>>,
) -> Reading {
    let mut vcpus = vec![None; expected.vcpu_cpus.len()];
    for (vcpu, thread) in seen.vcpus() {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let count = VcpuCount { ran_ns: nanoseconds(thread.ran), waited_ns: nanoseconds(thread.waited) };
        if let Some(place) = vcpus.get_mut(vcpu) {
            *place = Some(count);
        }
    }
    Reading {
        process: expected.process,
        vcpus,
        throttled_ns,
        stopped: found.iter().any(|(deviation, _)| deviation.what == Watched::Stopped),
        lacking: found.iter().any(|(deviation, _)| deviation.is_lack()),
    }
}
