//! How much of a disk's speed a guest gets.

use super::hosts::{BenchHost, Hosts};
use super::inside::{Guest, Kernel, RANDOM_DEPTH, Reading, SEQUENTIAL_DEPTH, Speeds, Task};
use super::report::{Bar, Report, median};
use super::{BenchError, Options};

const GUEST: Guest = Guest { kernel: Kernel::Elf, vcpus: 1, memory_mib: 256 };
const SEQUENTIAL_BAR_RATIO: f64 = 0.95;
const RANDOM_BAR_RATIO: f64 = 0.80;
/// How long each request takes in the device. To leave a guest and come back takes an emulated CPU some fifty to a
/// hundred times as long as a real one: this is to it what 100 to 200 µs, an SSD's, are to a lender's.
const DELAY_US: u64 = 10_000;
/// Beside it, where a guest is held up by what its host's CPUs can do.
const SHORT_DELAY_US: u64 = 1_000;
/// One for the vCPU, one for the disk's thread.
const HOST_CPUS: u32 = 2;

type Kind = (&'static str, f64, fn(&Speeds) -> f64);

const KINDS: [Kind; 4] = [
    ("sequential_read", SEQUENTIAL_BAR_RATIO, |speeds| speeds.sequential_read),
    ("sequential_write", SEQUENTIAL_BAR_RATIO, |speeds| speeds.sequential_write),
    ("random_read_4k", RANDOM_BAR_RATIO, |speeds| speeds.random_read_4k),
    ("random_write_4k", RANDOM_BAR_RATIO, |speeds| speeds.random_write_4k),
];

pub(super) fn measure(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<(), BenchError> {
    let hosts = Hosts::prepare(options, say)?;
    let host = hosts.up("block", HOST_CPUS, false)?;
    let (mut slow, mut fast) = (Vec::new(), Vec::new());
    for run in 1..=options.runs {
        say(&format!("guest and host, pairs {run} of {}", options.runs));
        slow.push(pair(&host, DELAY_US)?);
        fast.push(pair(&host, SHORT_DELAY_US)?);
    }
    for (name, bar, speed) in KINDS {
        report.add_some(format!("{name}_ratio"), ratio(&slow, speed), Some(Bar::AtLeast(bar)));
    }
    for (name, _, speed) in KINDS {
        report.add_some(format!("{name}_short_delay_ratio"), ratio(&fast, speed), None);
    }
    for (name, _, speed) in KINDS {
        let of = |who: fn(&Pair) -> &Speeds| median(slow.iter().map(|pair| speed(who(pair))).collect());
        report.add_some(format!("{name}_guest_per_s"), of(|pair| &pair.guest), None);
        report.add_some(format!("{name}_host_per_s"), of(|pair| &pair.host), None);
    }
    for (name, pairs) in [("exits_per_request", &slow), ("short_delay_exits_per_request", &fast)] {
        let exits = pairs.iter().map(|pair| pair.exits_per_request).collect();
        report.add_some(name.into(), median(exits), None);
    }
    report.add("delay_us", DELAY_US as f64, None);
    report.add("short_delay_us", SHORT_DELAY_US as f64, None);
    report.add("random_depth_requests", RANDOM_DEPTH.into(), None);
    report.add("sequential_depth_requests", SEQUENTIAL_DEPTH.into(), None);
    report.environment = host.environment()?;
    Ok(())
}

/// What the same disk did in a guest, and then on the host.
struct Pair {
    guest: Speeds,
    host: Speeds,
    /// How often the guest was left for each of its requests that reached the device.
    exits_per_request: f64,
}

fn pair(host: &BenchHost<'_>, delay_us: u64) -> Result<Pair, BenchError> {
    match host.read("a disk", &Task::Block { guest: GUEST, delay_us })? {
        Reading::Block { guest, host, exits_per_request } => Ok(Pair { guest, host, exits_per_request }),
        other => Err(BenchError::Answer("a disk".into(), format!("{other:?}"))),
    }
}

fn ratio(pairs: &[Pair], speed: fn(&Speeds) -> f64) -> Option<f64> {
    median(pairs.iter().map(|pair| speed(&pair.guest) / speed(&pair.host)).collect())
}
