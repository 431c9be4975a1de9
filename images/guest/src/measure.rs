//! What the guest's kernel counts of its CPUs, told to the host as often as it wants and signed by a key of the runner's
//! own, whose public half stands in a file for whoever compares.

use std::fmt::Write;
use std::fs;
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer, SigningKey};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};
use sublet_guest_protocol::{FromGuest, MEASURED_LIMIT, SIGNED_CONTEXT};

/// Where the guest's own programs find the public key, in hexadecimal digits.
const KEY_FILE: &str = "/run/sublet-receipt.key";
/// Most often that the host can have it measure.
const LEAST: Duration = Duration::from_secs(1);
/// The unit of `/proc/stat`: user space is shown a hundred ticks a second, whatever the kernel counts by (proc(5)).
const TICK_MS: u64 = 10;

/// When something is to be measured, and for whom.
pub(crate) struct Measuring {
    /// SHA-256 of this boot's nonce, in hexadecimal digits.
    boot: String,
    key: Option<SigningKey>,
    every: Option<Duration>,
    due: Option<Instant>,
}

/// What became of a CPU's time since the guest's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuTime {
    busy_ms: u64,
    idle_ms: u64,
    steal_ms: u64,
}

impl Measuring {
    pub(crate) fn of_boot(nonce: &str) -> Self {
        Self { boot: hexadecimal(&Sha256::digest(nonce)), key: None, every: None, due: None }
    }

    /// Measures now, and from now on this often.
    pub(crate) fn every(&mut self, every: Duration, now: Instant) {
        self.every = Some(every.max(LEAST));
        self.due = Some(now);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// What was measured, where it is time to say so. A kernel that has no random bytes yet is asked again later.
    pub(crate) fn next_message(&mut self, now: Instant) -> Option<FromGuest> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        self.due = self.every.map(|every| now + every);
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let text = describe(&self.boot, up_ms(&uptime)?, &cpus(&stat));
        let key = self.key()?;
        let signature = key.sign(&[SIGNED_CONTEXT, text.as_bytes()].concat()).to_bytes().to_vec();
        let key = key.verifying_key().to_bytes();
        (text.len() <= MEASURED_LIMIT).then_some(FromGuest::Measured { text, key, signature })
    }

    fn key(&mut self) -> Option<&SigningKey> {
        if self.key.is_none() {
            let mut seed = [0; 32];
            let filled = getrandom(&mut seed, GetRandomFlags::NONBLOCK);
            let key = SigningKey::from_bytes(&seed);
            if filled != Ok(seed.len()) {
                return None;
            }
            // A guest without such a folder has nobody who would look there.
            let _ = fs::write(KEY_FILE, hexadecimal(key.verifying_key().as_bytes()) + "\n");
            self.key = Some(key);
        }
        self.key.as_ref()
    }
}

/// `/proc/uptime`: seconds with two decimals.
fn up_ms(text: &str) -> Option<u64> {
    let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    Some(seconds.parse::<u64>().ok()? * 1000 + hundredths.parse::<u64>().ok()? * 10)
}

/// Lines `cpuN user nice system idle iowait irq softirq steal …` of `/proc/stat`.
fn cpus(text: &str) -> Vec<CpuTime> {
    let lines = text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    lines.filter_map(cpu).collect()
}

fn cpu(line: &str) -> Option<CpuTime> {
    let ticks: Option<Vec<u64>> =
        line.split_whitespace().skip(1).take(8).map(|number| number.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, steal] = ticks?.try_into().ok()?;
    Some(CpuTime {
        busy_ms: (user + nice + system + irq + softirq) * TICK_MS,
        idle_ms: (idle + iowait) * TICK_MS,
        steal_ms: steal * TICK_MS,
    })
}

fn describe(boot: &str, up_ms: u64, cpus: &[CpuTime]) -> String {
    let cpu = |cpu: &CpuTime| {
        let CpuTime { busy_ms, idle_ms, steal_ms } = cpu;
        format!(r#"{{"busy_ms":{busy_ms},"idle_ms":{idle_ms},"steal_ms":{steal_ms}}}"#)
    };
    let cpus: Vec<String> = cpus.iter().map(cpu).collect();
    format!(r#"{{"boot":"{boot}","up_ms":{up_ms},"cpus":[{}]}}"#, cpus.join(","))
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cpu_is_counted_and_their_sum_is_not() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 40 5 6 7 8 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\nintr 5\n";
        let first = CpuTime { busy_ms: 190, idle_ms: 450, steal_ms: 80 };
        assert_eq!(cpus(stat), [first, CpuTime { busy_ms: 0, idle_ms: 0, steal_ms: 0 }]);
        assert_eq!(cpus("cpu0 1 2\n"), [], "a kernel that does not count steal says nothing");
    }

    #[test]
    fn what_is_measured_is_said_when_it_is_time_and_not_before() {
        let mut measuring = Measuring::of_boot("nonce");
        let now = Instant::now();
        assert_eq!(measuring.next_message(now), None, "nobody has asked");
        measuring.every(Duration::ZERO, now);
        let Some(FromGuest::Measured { text, signature, .. }) = measuring.next_message(now) else {
            panic!("nothing was said");
        };
        let boot = hexadecimal(&Sha256::digest("nonce"));
        assert!(text.starts_with(&format!("{{\"boot\":\"{boot}\",\"up_ms\":")), "{text}");
        assert_eq!(signature.len(), 64);
        assert_eq!(measuring.next_message(now), None);
        assert!(measuring.next_message(now + LEAST).is_some());
    }

    #[test]
    fn the_time_since_the_start_is_read_in_milliseconds() {
        assert_eq!(up_ms("12.34 5.00\n"), Some(12_340));
        assert_eq!(up_ms("soon"), None);
    }
}
