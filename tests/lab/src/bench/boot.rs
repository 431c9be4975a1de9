//! From the start of a VMM to the end of a guest that ends as soon as its init runs.

use super::hosts::Hosts;
use super::inside::{Guest, Kernel, Peer, Prepared, Reading, Task};
use super::report::{Bar, Report, median};
use super::{BenchError, Options, PeerKind};

/// The case that is compared with others (DESIGN §9).
const CASE: Guest = Guest { kernel: Kernel::Elf, vcpus: 1, memory_mib: 256 };
const BAR_S: f64 = 2.4;
/// Most CPU time of the host's between the request to boot and the guest's first instruction, by counted time.
const CALL_CPU_BAR_MS: f64 = 20.0;
/// What an image of ours asks of its kernel beside that (ADR 31).
const IMAGE_OPTIONS: &str = "cryptomgr.notests";
/// Sizes beside it, by counted time.
const COUNTED: [Guest; 4] = [
    Guest { memory_mib: 128, ..CASE },
    Guest { memory_mib: 1024, ..CASE },
    Guest { memory_mib: 4096, ..CASE },
    Guest { kernel: Kernel::BzImage, ..CASE },
];
/// CPUs of the host for guests with several, and how many.
const HOST_CPUS: u32 = 4;
const SEVERAL: [u32; 3] = [1, 2, 4];

struct Times {
    cold_s: f64,
    prepared: Option<Prepared>,
}

impl Times {
    fn of(name: &str, reading: Reading) -> Result<Self, BenchError> {
        match reading {
            Reading::Boot { cold_s, prepared } => Ok(Self { cold_s, prepared }),
            other => Err(BenchError::Answer(name.into(), format!("{other:?}"))),
        }
    }

    fn prepared_s(&self) -> Option<f64> {
        self.prepared.map(|prepared| prepared.exit_s)
    }
}

fn name(guest: &Guest) -> String {
    let kernel = match guest.kernel {
        Kernel::Elf => "elf",
        Kernel::BzImage => "bzimage",
    };
    format!("{kernel}_{}vcpu_{}mib", guest.vcpus, guest.memory_mib)
}

pub(super) fn measure(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<(), BenchError> {
    let hosts = Hosts::prepare(options, say)?;
    compared(&hosts, report, say)?;
    as_an_image(&hosts, report, say)?;
    for guest in COUNTED {
        say(&format!("{}, counted time", name(&guest)));
        if let Some(times) = counted(&hosts, &guest, None, "")? {
            report.add_some(format!("{}_prepared_s", name(&guest)), times.prepared_s(), None);
            report.add(format!("{}_cold_s", name(&guest)), times.cold_s, None);
        }
    }
    by_the_clock(&hosts, options, report, say)
}

/// The compared case, ours and the peers'.
fn compared(hosts: &Hosts<'_>, report: &mut Report, say: &dyn Fn(&str)) -> Result<(), BenchError> {
    say("the compared case, counted time");
    let mut fastest_peer_s = f64::INFINITY;
    for (kind, _) in hosts.peers() {
        say(&format!("the same under {}", kind.name()));
        if let Some(times) = counted(hosts, &CASE, Some(*kind), "")? {
            report.add(format!("{}_start_to_exit_s", kind.name()), times.cold_s, None);
            fastest_peer_s = fastest_peer_s.min(times.cold_s);
        }
    }
    if let Some(times) = counted(hosts, &CASE, None, "")? {
        report.add_some("start_to_exit_s".into(), times.prepared_s(), Some(Bar::AtMost(BAR_S)));
        let call_cpu_ms = times.prepared.map(|prepared| prepared.call_cpu_s * 1e3);
        report.add_some("call_cpu_ms".into(), call_cpu_ms, Some(Bar::AtMost(CALL_CPU_BAR_MS)));
        let bar = fastest_peer_s.is_finite().then_some(Bar::AtMost(fastest_peer_s));
        report.add("start_to_exit_cold_s", times.cold_s, bar);
    }
    Ok(())
}

/// The compared case with an image's options, ours and the peers'.
fn as_an_image(hosts: &Hosts<'_>, report: &mut Report, say: &dyn Fn(&str)) -> Result<(), BenchError> {
    say("the compared case with an image's options, counted time");
    for kind in hosts.peers().iter().map(|(kind, _)| *kind) {
        if let Some(times) = counted(hosts, &CASE, Some(kind), IMAGE_OPTIONS)? {
            report.add(format!("{}_image_start_to_exit_s", kind.name()), times.cold_s, None);
        }
    }
    if let Some(times) = counted(hosts, &CASE, None, IMAGE_OPTIONS)? {
        report.add_some("image_start_to_exit_s".into(), times.prepared_s(), None);
        report.add("image_start_to_exit_cold_s", times.cold_s, None);
    }
    Ok(())
}

fn counted(
    hosts: &Hosts<'_>,
    guest: &Guest,
    peer: Option<PeerKind>,
    options: &str,
) -> Result<Option<Times>, BenchError> {
    let name = name(guest);
    let reading = hosts.counted("counted", |host| {
        let peer = match peer {
            None => None,
            Some(kind) => Some(host.peers.iter().find(|peer| peer.kind == kind)?.clone()),
        };
        Some(Task::Boot { guest: guest.clone(), peer, options: options.into() })
    })?;
    reading.map(|reading| Times::of(&name, reading)).transpose()
}

/// Guests with several vCPUs, each run of ours beside one of each peer.
fn by_the_clock(
    hosts: &Hosts<'_>,
    options: &Options,
    report: &mut Report,
    say: &dyn Fn(&str),
) -> Result<(), BenchError> {
    let host = hosts.up("clock", HOST_CPUS, false)?;
    for vcpus in SEVERAL {
        let guest = Guest { vcpus, ..CASE };
        say(&format!("{}, {} runs by the clock", name(&guest), options.runs));
        let who: Vec<Option<Peer>> =
            std::iter::once(None).chain(host.peers.iter().cloned().map(Some)).collect();
        let mut times: Vec<Vec<Times>> = who.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.runs {
            for (peer, times) in who.iter().zip(&mut times) {
                let task = Task::Boot { guest: guest.clone(), peer: peer.clone(), options: String::new() };
                times.push(Times::of(&name(&guest), host.read(&name(&guest), &task)?)?);
            }
        }
        let Some((ours, peers)) = times.split_first() else { continue };
        let prepared = ours.iter().filter_map(Times::prepared_s).collect();
        let prefix = format!("clock_{}", name(&guest));
        report.add_some(format!("{prefix}_prepared_s"), median(prepared), None);
        report.add_some(
            format!("{prefix}_cold_s"),
            median(ours.iter().map(|times| times.cold_s).collect()),
            None,
        );
        for (peer, theirs) in host.peers.iter().zip(peers) {
            let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours.cold_s / theirs.cold_s).collect();
            let name = format!("{prefix}_cold_over_{}_ratio", peer.kind.name());
            report.add_some(name, median(ratios), Some(Bar::AtMost(1.0)));
        }
    }
    report.environment = host.environment()?;
    Ok(())
}
