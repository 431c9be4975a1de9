//! How much of its core a guest gets.

use super::hosts::Hosts;
use super::inside::{Guest, Kernel, Reading, Task};
use super::report::{Bar, Report};
use super::{BenchError, Options};

const GUEST: Guest = Guest { kernel: Kernel::Elf, vcpus: 1, memory_mib: 256 };
const BAR_RATIO: f64 = 0.97;
/// About half a minute of counted time.
const ROUNDS: u64 = 1_000_000;

pub(super) fn measure(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<(), BenchError> {
    let hosts = Hosts::prepare(options, say)?;
    say("a loop on the host and in a guest, counted time");
    let reading = hosts.counted("cpu", |_| Some(Task::Cpu { guest: GUEST, rounds: ROUNDS }))?;
    match reading {
        Some(Reading::Cpu { guest_s, bare_s }) => {
            report.add("guest_over_bare_ratio", bare_s / guest_s, Some(Bar::AtLeast(BAR_RATIO)));
            report.add("guest_s", guest_s, None);
            report.add("bare_s", bare_s, None);
            Ok(())
        }
        other => Err(BenchError::Answer("the loop".into(), format!("{other:?}"))),
    }
}
