//! The host's interrupts and its kernel's own work, kept off the CPUs that are set aside, as far as the kernel allows;
//! and put back when they are nobody's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::inventory::cpu_list;

const INTERRUPTS: &str = "proc/irq";
/// Masks: where interrupts go that are set up later, and where the kernel's unbound work runs.
const MASKS: [&str; 2] = ["proc/irq/default_smp_affinity", "sys/devices/virtual/workqueue/cpumask"];
/// Digits of a mask that stand between two commas.
const DIGITS: usize = 8;

#[derive(Debug, Error)]
#[error("cannot {act} {path:?}")]
pub struct InterruptError {
    act: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(act: &'static str, path: &Path) -> impl Fn(io::Error) -> InterruptError {
    move |source| InterruptError { act, path: path.to_owned(), source }
}

/// Where they went before any CPU was set aside is kept beside, for whoever puts it back.
#[derive(Debug)]
pub struct Interrupts {
    root: PathBuf,
    record: PathBuf,
    steering: Mutex<()>,
}

/// The CPUs of each file below the root, by the file's path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Before(BTreeMap<String, BTreeSet<u32>>);

impl Interrupts {
    pub fn new(root: &Path, record: PathBuf) -> Self {
        Self { root: root.to_owned(), record, steering: Mutex::default() }
    }

    /// Keeps them off `kept` from now on, and off no other CPU.
    pub fn keep_off(&self, kept: &BTreeSet<u32>) -> Result<(), InterruptError> {
        let _one = self.steering.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = self.recorded()?;
        if kept.is_empty() && before.0.is_empty() {
            return Ok(());
        }
        let files = self.files();
        for (path, cpus) in files.iter().filter_map(|path| Some((path, self.cpus(path)?))) {
            before.0.entry(path.clone()).or_insert(cpus);
        }
        before.0.retain(|path, _| files.contains(path));
        self.store(&before)?;
        for (path, cpus) in &before.0 {
            self.steer(path, cpus, kept);
        }
        if kept.is_empty() { self.forget() } else { Ok(()) }
    }

    fn steer(&self, path: &str, before: &BTreeSet<u32>, kept: &BTreeSet<u32>) {
        let wanted = before - kept;
        // One that knows these CPUs alone, as a disk's queue of each CPU does, serves nobody else.
        if wanted.is_empty() || self.cpus(path).as_ref() == Some(&wanted) {
            return;
        }
        let text = if MASKS.contains(&path) { mask(&wanted) } else { list(&wanted) };
        if let Err(error) = fs::write(self.root.join(path), text) {
            // Some the kernel places itself.
            tracing::debug!(path, %error, "an interrupt cannot be kept off CPUs that are set aside");
        }
    }

    fn files(&self) -> BTreeSet<String> {
        let folder = fs::read_dir(self.root.join(INTERRUPTS)).into_iter().flatten().flatten();
        let names = folder.filter_map(|entry| entry.file_name().into_string().ok());
        let numbers = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        let of_interrupts = numbers.map(|number| format!("{INTERRUPTS}/{number}/smp_affinity_list"));
        of_interrupts.chain(MASKS.map(str::to_owned)).collect()
    }

    fn cpus(&self, path: &str) -> Option<BTreeSet<u32>> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        if MASKS.contains(&path) { of_mask(text.trim()) } else { cpu_list(&text) }
    }

    fn recorded(&self) -> Result<Before, InterruptError> {
        match fs::read(&self.record) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| failed("understand", &self.record)(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Before::default()),
            Err(error) => Err(failed("read", &self.record)(error)),
        }
    }

    /// Whole or not at all: the host may go down at any time.
    fn store(&self, before: &Before) -> Result<(), InterruptError> {
        let new = self.record.with_extension("new");
        let text = serde_json::to_vec(before).map_err(|error| failed("write", &new)(error.into()))?;
        fs::write(&new, text).map_err(failed("write", &new))?;
        fs::rename(&new, &self.record).map_err(failed("write", &self.record))
    }

    fn forget(&self) -> Result<(), InterruptError> {
        fs::remove_file(&self.record).map_err(failed("delete", &self.record))
    }
}

fn list(cpus: &BTreeSet<u32>) -> String {
    cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// As in `ffffffff,0000000f`: the lowest CPUs last.
fn mask(cpus: &BTreeSet<u32>) -> String {
    let words = cpus.last().map_or(1, |last| last / 32 + 1);
    let word = |number: u32| {
        let here = cpus.iter().filter(|cpu| **cpu / 32 == number);
        format!("{:08x}", here.fold(0u32, |word, cpu| word | 1 << (cpu % 32)))
    };
    (0..words).rev().map(word).collect::<Vec<_>>().join(",")
}

fn of_mask(text: &str) -> Option<BTreeSet<u32>> {
    let mut cpus = BTreeSet::new();
    for (number, word) in (0u32..).zip(text.rsplit(',')) {
        let word = u32::from_str_radix(word, 16).ok().filter(|_| word.len() <= DIGITS)?;
        cpus.extend((0..32).filter(|bit| word & (1 << bit) != 0).map(|bit| number * 32 + bit));
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host(tempfile::TempDir);

    impl Host {
        fn new(interrupts: &[(u32, &str)]) -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            for (number, cpus) in interrupts {
                host.write(&format!("proc/irq/{number}/smp_affinity_list"), cpus);
            }
            host.write(MASKS[0], "f\n");
            host.write(MASKS[1], "f\n");
            host
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn says(&self, path: &str) -> String {
            fs::read_to_string(self.0.path().join(path)).unwrap().trim().to_owned()
        }

        fn interrupts(&self) -> Interrupts {
            Interrupts::new(self.0.path(), self.0.path().join("interrupts.json"))
        }
    }

    #[test]
    fn masks_are_read_as_they_are_written() {
        for (text, cpus) in [("00000003", vec![0, 1]), ("00000001,80000000", vec![31, 32])] {
            let cpus: BTreeSet<u32> = cpus.into_iter().collect();
            assert_eq!((mask(&cpus).as_str(), of_mask(text)), (text, Some(cpus)));
        }
        assert_eq!(of_mask("x"), None);
    }

    #[test]
    fn interrupts_keep_off_cpus_while_these_are_set_aside_and_no_longer() {
        let host = Host::new(&[(1, "0-3\n"), (9, "2\n"), (24, "0,2\n")]);
        host.interrupts().keep_off(&[2, 3].into()).unwrap();
        let list = |number: u32| host.says(&format!("proc/irq/{number}/smp_affinity_list"));
        assert_eq!([list(1), list(9), list(24)], ["0,1", "2", "0"]);
        assert_eq!(MASKS.map(|mask| host.says(mask)), ["00000003", "00000003"]);
        // One that was set up since, under another agent.
        host.write("proc/irq/30/smp_affinity_list", "0-3\n");
        host.interrupts().keep_off(&[3].into()).unwrap();
        assert_eq!([list(1), list(24), list(30)], ["0,1,2", "0,2", "0,1,2"]);
        host.interrupts().keep_off(&BTreeSet::new()).unwrap();
        assert_eq!([list(1), list(24), list(30)], ["0,1,2,3", "0,2", "0,1,2,3"]);
        assert_eq!(MASKS.map(|mask| host.says(mask)), ["0000000f", "0000000f"]);
        assert!(!host.0.path().join("interrupts.json").exists(), "nothing is left");
    }
}
