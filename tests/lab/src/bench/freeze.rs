//! Whether a lent partition keeps what it was lent, whatever the host's owner does, and another borrower.
//!
//! The same work is timed in it over and over, in pairs: with a load where it may be, and with the same load everywhere it can
//! get. All CPUs of the host are busy in both, so that what this machine's few CPUs do to an emulated host is in both.

mod town;

use std::io;
use std::path::PathBuf;

use serde_json::json;
use sublet::api::agent::JobState;
use sublet::client::ClientError;
use sublet::domain::id::{JobId, PartitionId};
use thiserror::Error;
use tokio::runtime::Runtime;

use self::town::{Lent, Town};
use super::hosts::HostError;
use super::report::{Bar, Report, median};
use super::server::ServerError;
use super::{BenchError, Options};
use crate::attacks::{ATTACKS, names};
use crate::prepare::{PrepareError, Recipe};

/// Ten seconds' work, more or less.
const ROUNDS: u32 = 400_000;
/// Longest that the guard may take over any attack.
const ANSWER_LIMIT_S: u64 = 60;
/// Takes memory and gives it back, as fast as it can.
const HUNGRY: &str = "dd if=/dev/zero of=/dev/null bs=64M count=4 2>/dev/null";
/// Counts, which takes a CPU and nothing else.
const COMPUTING: &str = "i=0; while [ $i -lt 5000 ]; do i=$((i + 1)); done";
/// Writes to all of its memory, again and again. It keeps what it has: for what a guest's kernel does when memory comes and goes,
/// an emulator stops all of a host's CPUs now and then, which no processor does.
const WRITING: &str = "dd if=/dev/zero of=/dev/null bs=64M 2>/dev/null";
/// While it is there, the host's load goes on.
const LOADED: &str = "/run/loaded";

#[derive(Debug, Error)]
pub enum FreezeBenchError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("cannot use {0}")]
    File(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("partition {0} does not come on offer")]
    NotOnOffer(PartitionId),
    #[error("nothing more is heard of job {0}")]
    Silent(JobId),
    #[error("a job ended as {state:?}; it said {said:?}")]
    Job { said: String, state: Box<JobState> },
    #[error("{script:?} failed in the host: {said}")]
    Script { script: String, said: String },
    #[error("cannot read what was measured: {0:?}")]
    Answer(String),
}

pub(super) fn measure(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<(), BenchError> {
    let recipe = Recipe { agent: true, ..options.recipe.clone() };
    let options = Options { recipe, ..options.clone() };
    let runtime = Runtime::new().map_err(|error| FreezeBenchError::File(options.directory.clone(), error))?;
    runtime.block_on(async {
        owners_load(&options, report, say).await?;
        second_borrower(&options, report, say).await
    })?;
    report.environment = json!({ "qemu": crate::qemu::version(), "pairs": options.runs });
    Ok(())
}

/// Where the host's load runs.
#[derive(Debug, Clone, Copy)]
enum Where {
    /// On the CPU that the owner keeps.
    Reserve,
    /// Wherever it can get.
    Everywhere,
}

/// Against its owner: the load of one host, in its place and out of it, and attacks as root.
async fn owners_load(
    options: &Options,
    report: &mut Report,
    say: &dyn Fn(&str),
) -> Result<(), FreezeBenchError> {
    let town = Town::build(options, 1, say)?;
    let lent = town.lend().await?;
    // The guest's kernel is busy with itself when it has just begun.
    lent.run(&timed_work()).await?;
    say(&format!("{} pairs beside its owner's load", options.runs));
    let (mut ratios, mut floor, mut attacked) = (Vec::new(), Vec::new(), Vec::new());
    let mut last_kept: Option<f64> = None;
    for run in 0..options.runs {
        let (kept, pressed) = pair(&town, &lent, run % 2 == 1).await?;
        let kept = kept.took_s;
        ratios.push(kept / pressed.took_s);
        floor.extend(last_kept.replace(kept).map(|last| last / kept));
        attacked.push(pressed);
    }
    report.add_some("undisturbed_ratio".into(), median(ratios), Some(Bar::AtLeast(0.97)));
    report.add_some("floor_ratio".into(), median(floor.clone()), None);
    report.add_some("floor_least_ratio".into(), floor.into_iter().reduce(f64::min), None);
    let sum = |of: fn(&Timed) -> f64| attacked.iter().map(of).sum::<f64>();
    let not_run = sum(|timed| timed.waited_ns) / sum(|timed| timed.ran_ns);
    report.add("not_run_ratio", not_run, Some(Bar::AtMost(0.001)));
    let steal = sum(|timed| timed.steal_ticks) / sum(|timed| timed.ticks);
    report.add("steal_ratio", steal, Some(Bar::AtMost(0.001)));
    report.add("job_s", sum(|timed| timed.took_s) / attacked.len() as f64, None);
    guard(&town, &lent, report, say)
}

/// The load in its place, and everywhere; `turned`, the other way round: whatever becomes slower or faster meanwhile is on
/// either side as often.
async fn pair(town: &Town, lent: &Lent, turned: bool) -> Result<(Timed, Timed), FreezeBenchError> {
    if turned {
        let pressed = loaded(town, lent, Where::Everywhere, HUNGRY).await?;
        return Ok((loaded(town, lent, Where::Reserve, HUNGRY).await?, pressed));
    }
    Ok((
        loaded(town, lent, Where::Reserve, HUNGRY).await?,
        loaded(town, lent, Where::Everywhere, HUNGRY).await?,
    ))
}

/// How long the guard takes to put each attack right, while the guest is busy.
fn guard(town: &Town, lent: &Lent, report: &mut Report, say: &dyn Fn(&str)) -> Result<(), FreezeBenchError> {
    let mut slowest = 0.0_f64;
    for attack in &ATTACKS {
        say(&format!("root changes what the guard tells as {}", attack.watched));
        let said = town.on_host(&attack.timed(&lent.partition.to_string(), ANSWER_LIMIT_S))?;
        let hundredths: Option<f64> = said.lines().last().and_then(|line| line.trim().parse().ok());
        let took_ms = hundredths.ok_or(FreezeBenchError::Answer(said))? * 10.0;
        slowest = slowest.max(took_ms);
    }
    report.add("guard_notice_ms", slowest, Some(Bar::AtMost(1000.0)));
    Ok(())
}

/// Against another borrower, who wears memory out while the owner only computes, or the other way round: both their CPUs are
/// busy either way, and so is this machine's memory, which no partition has for itself.
async fn second_borrower(
    options: &Options,
    report: &mut Report,
    say: &dyn Fn(&str),
) -> Result<(), FreezeBenchError> {
    let town = Town::build(options, 2, say)?;
    let (lent, other) = (town.lend().await?, town.lend().await?);
    lent.run(&timed_work()).await?;
    say(&format!("{} pairs beside another borrower", options.runs));
    let (mut ratios, mut floor) = (Vec::new(), Vec::new());
    let mut last_beside_computing: Option<f64> = None;
    for run in 0..options.runs as usize {
        let mut took_s = [0.0; 2];
        for at in [run % 2, (run + 1) % 2] {
            let [others, owners] = if at == 0 { [COMPUTING, HUNGRY] } else { [WRITING, COMPUTING] };
            let job = other.keep_running(&format!("while :; do {others}; done")).await?;
            took_s[at] = loaded(&town, &lent, Where::Reserve, owners).await?.took_s;
            other.cancel(job).await?;
        }
        let [computing, writing] = took_s;
        ratios.push(computing / writing);
        floor.extend(last_beside_computing.replace(computing).map(|last| last / computing));
    }
    report.add_some("undisturbed_by_borrower_ratio".into(), median(ratios), Some(Bar::AtLeast(0.97)));
    report.add_some("floor_by_borrower_ratio".into(), median(floor.clone()), None);
    report.add_some("floor_by_borrower_least_ratio".into(), floor.into_iter().reduce(f64::min), None);
    Ok(())
}

/// What a stretch of work took, as the guest and as the host see it.
#[derive(Debug)]
struct Timed {
    took_s: f64,
    /// Of the guest's clock ticks: all, and those that it says were stolen.
    ticks: f64,
    steal_ticks: f64,
    /// Of the vCPU's thread.
    ran_ns: f64,
    waited_ns: f64,
}

/// Has the host loaded, two workers a CPU, while the partition does its work.
async fn loaded(town: &Town, lent: &Lent, place: Where, work: &str) -> Result<Timed, FreezeBenchError> {
    let bound = match place {
        Where::Reserve => "taskset -c 0 ",
        Where::Everywhere => "",
    };
    let workers = 2 * town.host.options().cpus;
    town.on_host(&format!(
        "touch {LOADED}; i=0
         while [ $i -lt {workers} ]; do
             {bound}setsid sh -c 'while [ -e {LOADED} ]; do {work}; done' >/dev/null 2>&1 </dev/null &
             i=$((i + 1))
         done"
    ))?;
    let before = scheduled(town, lent)?;
    let said = lent.run(&timed_work()).await?;
    let after = scheduled(town, lent)?;
    town.on_host(&format!("rm {LOADED}"))?;
    // By a pattern that its own shell does not match.
    town.on_host("while pgrep -f '/run/[l]oaded' >/dev/null; do usleep 50000; done")?;
    let [took_s, ticks, steal_ticks] = numbers(&said)?;
    let [ran_ns, waited_ns] = [0, 1].map(|field| after[field] - before[field]);
    Ok(Timed { took_s, ticks, steal_ticks, ran_ns, waited_ns })
}

/// How long the vCPU's thread has run, and wanted to and did not, in nanoseconds.
fn scheduled(town: &Town, lent: &Lent) -> Result<[f64; 2], FreezeBenchError> {
    let names = names(&lent.partition.to_string());
    numbers(&town.on_host(&format!("{names}\ncut -d' ' -f1,2 /proc/$machine/task/$vcpu/schedstat"))?)
}

/// Counts, and says how many seconds that took, and of the kernel's ticks how many there were and how many were stolen
/// (proc_stat(5)).
fn timed_work() -> String {
    format!(
        "ticks() {{ read -r _ a b c d e f g steal _ </proc/stat; all=$((a + b + c + d + e + f + g + steal)); }}
         read -r from _ </proc/uptime; ticks; all_before=$all; steal_before=$steal
         i=0; while [ $i -lt {ROUNDS} ]; do i=$((i + 1)); done
         read -r to _ </proc/uptime; ticks
         echo \"$from $to\" | awk '{{ printf \"%.2f \", $2 - $1 }}'
         echo $((all - all_before)) $((steal - steal_before))"
    )
}

/// The numbers in the last line.
fn numbers<const N: usize>(said: &str) -> Result<[f64; N], FreezeBenchError> {
    let last = said.lines().last().unwrap_or_default();
    let numbers: Option<Vec<f64>> = last.split_whitespace().map(|word| word.parse().ok()).collect();
    numbers
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| FreezeBenchError::Answer(said.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_stands_in_the_last_line() {
        assert_eq!(numbers::<3>("noise\n2.50 250 0\n").unwrap(), [2.5, 250.0, 0.0]);
        assert!(numbers::<2>("2.50 250 0\n").is_err());
        assert!(numbers::<1>("two\n").is_err());
    }
}
