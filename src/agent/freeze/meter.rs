//! The meter of a lease: what became of its vCPUs' time, look by look, until a segment of its receipt is made of it. It
//! counts what it is told and reads nothing itself.

use serde::{Deserialize, Serialize};

use crate::{
    agent::guest::process::ProcessId,
    domain::{
        id::{HostId, LeaseId, PartitionId},
        receipt::{
            guest::GuestWord,
            segment::{
                Cleaned, DiskTime, Moment, Segment, SegmentDigest, SegmentEnd, SetAside, VcpuTime, Violation,
            },
        },
    },
};

/// Longest time between two looks, in nanoseconds, that still counts as watched.
const WATCHED_NS: u64 = 2_000_000_000;
/// Most violations that a segment names.
const VIOLATIONS_MAX: usize = 24;

/// Kept in the partition table now and then: an agent that is started anew goes on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    pub lease: LeaseId,
    set_aside: SetAside,
    /// Told with the first segment.
    cleaned: Option<Cleaned>,
    /// When the segment began that is being counted.
    from: Moment,
    /// When it was looked last.
    last: Moment,
    counted: Counted,
    marks: Option<Marks>,
}

/// What a segment is made of, so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counted {
    unwatched_ns: u64,
    lacking_ns: u64,
    vcpus: Vec<VcpuTime>,
    disks: Vec<DiskTime>,
    guest: Option<GuestWord>,
    violations: Vec<Violation>,
    violations_left_out: u64,
}

/// What the kernel and the machine had counted when it was looked last: they count from their start on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marks {
    process: ProcessId,
    vcpus: Vec<Option<VcpuCount>>,
    throttled_ns: Vec<u64>,
}

/// As the kernel counts it for a vCPU's thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuCount {
    pub ran_ns: u64,
    pub waited_ns: u64,
}

/// What a look has found of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub process: ProcessId,
    /// In vCPU order; none: it has no thread.
    pub vcpus: Vec<Option<VcpuCount>>,
    /// What each disk's requests were held up; none: the machine was not asked.
    pub throttled_ns: Option<Vec<u64>>,
    /// Its process was stopped.
    pub stopped: bool,
    /// Something that was set aside was missing.
    pub lacking: bool,
}

/// Where in its chain a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub host: HostId,
    pub partition: PartitionId,
    pub number: u32,
    pub before: Option<SegmentDigest>,
}

impl Meter {
    pub fn begin(lease: LeaseId, set_aside: SetAside, cleaned: Option<Cleaned>, now: Moment) -> Self {
        let mut meter = Self {
            lease,
            set_aside,
            cleaned,
            from: now,
            last: now,
            counted: Counted::default(),
            marks: None,
        };
        meter.counted = meter.nothing();
        meter
    }

    fn nothing(&self) -> Counted {
        let disks = usize::from(self.set_aside.allocation.disk_mib > 0);
        Counted {
            vcpus: vec![VcpuTime::default(); self.set_aside.cpus.len()],
            disks: vec![DiskTime::default(); disks],
            ..Counted::default()
        }
    }

    pub fn has_disks(&self) -> bool {
        !self.counted.disks.is_empty()
    }

    /// How long the segment is that is being counted, in nanoseconds.
    pub fn age_ns(&self, now: Moment) -> u64 {
        now.boottime_ns.saturating_sub(self.from.boottime_ns)
    }

    /// The machine was looked at.
    pub fn look(&mut self, now: Moment, reading: &Reading) {
        let passed_ns = self.pass(now, reading.lacking);
        let marks = self.marks.take().filter(|marks| marks.process == reading.process);
        let stopped_ns = if reading.stopped { passed_ns } else { 0 };
        for (vcpu, time) in self.counted.vcpus.iter_mut().enumerate() {
            time.stopped_ns = time.stopped_ns.saturating_add(stopped_ns);
            let before = marks.as_ref().and_then(|marks| marks.vcpus.get(vcpu).copied().flatten());
            let count = reading.vcpus.get(vcpu).copied().flatten();
            if let (Some(before), Some(count)) = (before, count) {
                add(&mut time.ran_ns, before.ran_ns, count.ran_ns);
                add(&mut time.not_run_ns, before.waited_ns, count.waited_ns);
            }
        }
        let known = marks.map(|marks| marks.throttled_ns);
        let throttled_ns = reading.throttled_ns.clone().or_else(|| known.clone()).unwrap_or_default();
        for (disk, time) in self.counted.disks.iter_mut().enumerate() {
            // A machine that was not asked before counts from its own start.
            let before = known.as_ref().and_then(|known| known.get(disk).copied()).unwrap_or(0);
            add(&mut time.throttled_ns, before, throttled_ns.get(disk).copied().unwrap_or(before));
        }
        self.marks = Some(Marks { process: reading.process, vcpus: reading.vcpus.clone(), throttled_ns });
    }

    /// Time has passed, with or without a machine; how long it was.
    pub fn pass(&mut self, now: Moment, lacking: bool) -> u64 {
        let passed_ns = now.boottime_ns.saturating_sub(self.last.boottime_ns);
        self.last = now;
        if passed_ns > WATCHED_NS {
            self.counted.unwatched_ns = self.counted.unwatched_ns.saturating_add(passed_ns);
        }
        if lacking {
            self.counted.lacking_ns = self.counted.lacking_ns.saturating_add(passed_ns);
        }
        passed_ns
    }

    pub fn violated(&mut self, violation: Violation) {
        if self.counted.violations.len() < VIOLATIONS_MAX {
            self.counted.violations.push(violation);
        } else {
            self.counted.violations_left_out += 1;
        }
    }

    /// What the guest's job runner has measured.
    pub fn heard(&mut self, word: GuestWord) {
        self.counted.guest = Some(word);
    }

    /// The segment that was counted, up to the last look; the next one begins.
    pub fn close(&mut self, link: Link, end: Option<SegmentEnd>) -> Segment {
        let nothing = self.nothing();
        let counted = std::mem::replace(&mut self.counted, nothing);
        let from = std::mem::replace(&mut self.from, self.last);
        let Link { host, partition, number, before } = link;
        let Counted { unwatched_ns, lacking_ns, vcpus, disks, guest, violations, violations_left_out } =
            counted;
        Segment {
            host,
            partition,
            lease: self.lease,
            number,
            before,
            set_aside: self.set_aside.clone(),
            from,
            to: self.last,
            unwatched_ns,
            lacking_ns,
            vcpus,
            disks,
            guest,
            violations,
            violations_left_out,
            cleaned: self.cleaned.filter(|_| number == 0),
            end,
        }
    }
}

/// Adds what a counter has grown by.
fn add(sum: &mut u64, before: u64, now: u64) {
    *sum = sum.saturating_add(now.saturating_sub(before));
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::domain::{
        receipt::segment::{SetAsideCpu, Watched},
        resources::Allocation,
    };

    const MS: u64 = 1_000_000;

    fn moment(ms: u64) -> Moment {
        let at = Timestamp::from_millisecond(i64::try_from(ms).unwrap()).unwrap();
        Moment { boottime_ns: ms * MS, at }
    }

    fn meter() -> Meter {
        let set_aside = SetAside {
            allocation: Allocation { cpus: 1, memory_mib: 64, disk_mib: 1 },
            cpus: vec![SetAsideCpu { cpu: 1, siblings: vec![1], node: None }],
            huge_pages: false,
            cpu_share_percent: None,
        };
        Meter::begin(LeaseId(Uuid::nil()), set_aside, None, moment(0))
    }

    fn reading(ran_ms: u64, waited_ms: u64) -> Reading {
        Reading {
            process: ProcessId::of(std::process::id()).unwrap(),
            vcpus: vec![Some(VcpuCount { ran_ns: ran_ms * MS, waited_ns: waited_ms * MS })],
            throttled_ns: None,
            stopped: false,
            lacking: false,
        }
    }

    fn link(number: u32) -> Link {
        let (host, partition) = (HostId(Uuid::nil()), PartitionId(Uuid::nil()));
        Link { host, partition, number, before: None }
    }

    #[test]
    fn a_segment_has_what_the_kernel_counted_between_its_looks() {
        let mut meter = meter();
        for (ms, reading) in [(100, reading(5000, 70)), (500, reading(5300, 71)), (900, reading(5650, 75))] {
            meter.look(moment(ms), &reading);
        }
        let segment = meter.close(link(0), None);
        assert_eq!(segment.vcpus, [VcpuTime { ran_ns: 650 * MS, not_run_ns: 5 * MS, stopped_ns: 0 }]);
        assert_eq!((segment.from, segment.to), (moment(0), moment(900)));
        assert_eq!((segment.unwatched_ns, segment.lacking_ns), (0, 0));
        meter.look(moment(1000), &reading(5651, 75));
        let next = meter.close(link(1), None);
        assert_eq!((next.from, next.vcpus[0].ran_ns), (moment(900), MS), "nothing is lost between two");
    }

    #[test]
    fn a_stop_and_a_lack_count_from_the_look_that_saw_the_machine_well() {
        let mut meter = meter();
        meter.look(moment(400), &reading(0, 0));
        meter.look(moment(800), &Reading { stopped: true, ..reading(0, 0) });
        meter.look(moment(1200), &Reading { lacking: true, ..reading(0, 0) });
        meter.look(moment(1600), &reading(0, 0));
        let segment = meter.close(link(0), None);
        assert_eq!((segment.vcpus[0].stopped_ns, segment.lacking_ns), (400 * MS, 400 * MS));
    }

    #[test]
    fn another_process_counts_from_its_own_start_and_takes_nothing_back() {
        let mut meter = meter();
        meter.look(moment(400), &reading(9000, 9));
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        meter.look(moment(800), &Reading { process, ..reading(10, 0) });
        meter.look(moment(1200), &Reading { process, ..reading(17, 0) });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(meter.close(link(0), None).vcpus[0].ran_ns, 7 * MS);
    }

    #[test]
    fn what_disks_were_held_up_counts_whenever_the_machine_is_asked() {
        let mut meter = meter();
        let asked = |ns: u64| Reading { throttled_ns: Some(vec![ns]), ..reading(0, 0) };
        meter.look(moment(400), &asked(3));
        meter.look(moment(800), &reading(0, 0));
        meter.look(moment(1200), &asked(10));
        assert_eq!(meter.close(link(0), None).disks, [DiskTime { throttled_ns: 10 }]);
        meter.look(moment(1600), &asked(11));
        assert_eq!(meter.close(link(1), None).disks, [DiskTime { throttled_ns: 1 }]);
    }

    #[test]
    fn time_without_a_look_is_said_to_be_unwatched_and_the_kernels_counts_of_it_are_kept() {
        let mut meter = meter();
        meter.look(moment(100), &reading(0, 0));
        let text = serde_json::to_string(&meter).unwrap();
        let mut later: Meter = serde_json::from_str(&text).unwrap();
        later.look(moment(60_100), &reading(50_000, 2_000));
        let segment = later.close(link(0), None);
        assert_eq!(segment.unwatched_ns, 60_000 * MS);
        assert_eq!(segment.vcpus[0].not_run_ns, 2_000 * MS);
    }

    #[test]
    fn violations_are_bounded_and_those_beyond_are_counted() {
        let mut meter = meter();
        let text = |text: &str| text.to_owned();
        for _ in 0..VIOLATIONS_MAX + 3 {
            let (subject, before, after) = (text("the process"), text("running"), text("stopped"));
            let what = Watched::Stopped;
            let at = Timestamp::UNIX_EPOCH;
            meter.violated(Violation { at, what, subject, before, after, restored: true });
        }
        let segment = meter.close(link(0), None);
        assert_eq!((segment.violations.len(), segment.violations_left_out), (VIOLATIONS_MAX, 3));
        assert!(serde_json::to_string(&segment).unwrap().len() < crate::domain::receipt::chain::SEGMENT_MAX);
    }
}
