//! How much a guest's network card carries, beside a connection that never leaves the host.

use super::hosts::Hosts;
use super::inside::{Guest, Kernel, Reading, Stream, Task};
use super::report::{Report, median};
use super::{BenchError, Options};

const GUEST: Guest = Guest { kernel: Kernel::Elf, vcpus: 1, memory_mib: 256 };
/// One for the guest, one for the host's end of the connection and the kernel's thread that serves the card.
const HOST_CPUS: u32 = 2;
/// Length of each stream: some seconds on a slow machine.
const MIB: u32 = 64;

pub(super) fn measure(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<(), BenchError> {
    let hosts = Hosts::prepare(options, say)?;
    let host = hosts.up("net", HOST_CPUS, false)?;
    say(&format!("streams of {MIB} MiB both ways, {} runs by the clock", options.runs));
    let task = Task::Net { guest: GUEST, mib: MIB, runs: options.runs };
    match host.read("streams", &task)? {
        Reading::Net { guest_to_host, host_to_guest } => {
            add(report, "guest_to_host", &guest_to_host);
            add(report, "host_to_guest", &host_to_guest);
        }
        other => return Err(BenchError::Answer("streams".into(), format!("{other:?}"))),
    }
    report.environment = host.environment()?;
    Ok(())
}

fn add(report: &mut Report, direction: &str, streams: &[Stream]) {
    let rates = streams.iter().map(|stream| f64::from(MIB) / stream.guest_s).collect();
    let ratios = streams.iter().map(|stream| stream.host_s / stream.guest_s).collect();
    report.add_some(format!("{direction}_mib_per_s"), median(rates), None);
    report.add_some(format!("{direction}_over_host_ratio"), median(ratios), None);
}
