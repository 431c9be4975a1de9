//! What a VMM takes beside the guest's memory.

use super::hosts::Hosts;
use super::inside::{Guest, Kernel, Peer, Reading, Task};
use super::report::{Bar, Report};
use super::{BenchError, Options};

/// The case that the bar is set for; the others show whether it grows with the machine.
const CASE: Guest = Guest { kernel: Kernel::Elf, vcpus: 1, memory_mib: 128 };
const BAR_KIB: f64 = 3072.0;
const OTHERS: [Guest; 2] = [Guest { memory_mib: 2048, ..CASE }, Guest { vcpus: 4, memory_mib: 512, ..CASE }];
const HOST_CPUS: u32 = 4;

pub(super) fn measure(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<(), BenchError> {
    let hosts = Hosts::prepare(options, say)?;
    let host = hosts.up("memory", HOST_CPUS, false)?;
    let read = |name: &str, guest: &Guest, peer: Option<Peer>| {
        say(name);
        match host.read(name, &Task::Memory { guest: guest.clone(), peer })? {
            Reading::Memory { overhead_kib } => Ok(overhead_kib as f64),
            other => Err(BenchError::Answer(name.into(), format!("{other:?}"))),
        }
    };
    report.add("overhead_kib", read("1 vCPU, 128 MiB", &CASE, None)?, Some(Bar::AtMost(BAR_KIB)));
    for guest in OTHERS {
        let name = format!("{}vcpu_{}mib_overhead_kib", guest.vcpus, guest.memory_mib);
        report.add(name.as_str(), read(&name, &guest, None)?, None);
    }
    for peer in &host.peers {
        let name = format!("{}_overhead_kib", peer.kind.name());
        report.add(name.as_str(), read(&name, &CASE, Some(peer.clone()))?, None);
    }
    report.environment = host.environment()?;
    Ok(())
}
