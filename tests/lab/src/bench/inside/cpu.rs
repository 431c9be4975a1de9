//! The same computation by the same program, in a guest and on the same core without one.

use std::process::Command;

use super::vmm::Machine;
use super::{Guest, Reading, ReadingError};

/// Rounds before those that count, some seconds' worth: a guest's kernel is busy with itself for more than a second after
/// its init has begun, and a host's is not.
const WARM_UP_ROUNDS: u64 = 200_000;

/// Counts, and says between which moments of the kernel's clock it did.
fn script(rounds: u64) -> String {
    format!(
        "count() {{ i=0; while [ $i -lt $1 ]; do i=$((i+1)); done; }}; count {WARM_UP_ROUNDS}; \
         read -r from _ </proc/uptime; count {rounds}; read -r to _ </proc/uptime; echo took $from $to end"
    )
}

pub(super) fn compare(guest: &Guest, rounds: u64) -> Result<Reading, ReadingError> {
    let bare_s = on_host(rounds)?;
    Ok(Reading::Cpu { guest_s: in_guest(guest, rounds)?, bare_s })
}

/// On the first CPU, where the first vCPU runs as well.
fn on_host(rounds: u64) -> Result<f64, ReadingError> {
    let argv = ["-c", "0", "sh", "-c", &script(rounds)];
    let output = Command::new("/bin/taskset")
        .args(argv)
        .output()
        .map_err(|error| ReadingError::Run("/bin/taskset".into(), error))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    seconds(&said).ok_or(ReadingError::Failed("/bin/taskset".into(), said))
}

fn in_guest(guest: &Guest, rounds: u64) -> Result<f64, ReadingError> {
    let mut machine = Machine::prepare(&Machine::config(guest))?;
    let script = format!("mount -t proc p /proc; {}; sleep 100000", script(rounds));
    machine.boot(guest, &format!("rdinit=/bin/sh -- -c \"{script}\""))?;
    machine.wait_for(" end\r\n")?;
    let console = machine.console();
    seconds(&console).ok_or(ReadingError::Guest(console))
}

/// Of a text with `took FROM TO` in it, the seconds between them.
fn seconds(text: &str) -> Option<f64> {
    let mut words = text.split("took ").nth(1)?.split_whitespace();
    let from: f64 = words.next()?.parse().ok()?;
    let to: f64 = words.next()?.parse().ok()?;
    Some(to - from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_between_both_moments_is_read() {
        assert_eq!(seconds("boot noise\r\ntook 1.50 4.00 end\r\n"), Some(2.5));
        assert_eq!(seconds("took 1.50"), None);
    }
}
