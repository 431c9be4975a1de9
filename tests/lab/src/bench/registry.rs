//! The registry, as a process of its own that is spoken to over loopback: how fast it searches, lends, hears hosts and
//! starts, and how fast a host judges its keys.

mod key;
mod load;
mod market;
mod seed;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use thiserror::Error;
use tokio::runtime::Runtime;

use self::load::{Connection, LoadError, percentile_ms};
use self::market::Market;
use self::seed::SeedError;
use super::report::{Bar, Report};
use super::server::{Server, ServerError};
use super::{BenchError, Options};
use crate::prepare::{PrepareError, program};

const HOSTS: usize = 10_000;
const FEW_OFFERS: usize = 100_000;
const MANY_OFFERS: usize = 1_000_000;
const PAST_LEASES: usize = 1_000_000;
/// Connections that search at a time, and how many searches all of them make.
const SEARCHERS: usize = 2;
const SEARCHES: usize = 6_000;
/// Connections that borrow at a time, and how many leases all of them make.
const BORROWERS: usize = 256;
const LEASES: usize = 30_000;
/// Beats of hosts in the measurement of heartbeats, and how long that is.
const BEAT: Duration = Duration::from_secs(10);
const BEATING: Duration = Duration::from_secs(30);
/// In the others no host falls silent by itself.
const CALM: Duration = Duration::from_secs(3600);

#[derive(Debug, Error)]
pub enum RegistryBenchError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("cannot use {0}")]
    File(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Seed(#[from] SeedError),
    #[error("cannot make or judge a lending key: {0}")]
    Key(String),
}

pub(super) fn measure(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<(), BenchError> {
    measured(options, report, say).map_err(BenchError::Registry)
}

fn measured(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<(), RegistryBenchError> {
    let registry = program(&options.recipe, "sublet-registry", say)?;
    let directory = options.directory.join("registry");
    // What an earlier run left.
    let _ = std::fs::remove_dir_all(&directory);
    let failed = |error| RegistryBenchError::File(directory.clone(), error);
    std::fs::create_dir_all(&directory).map_err(failed)?;
    report.add("key_check_us", key::check_us()?, Some(Bar::AtMost(100.0)));
    report.add("disk_fsyncs_per_s", fsyncs_per_s(&directory).map_err(failed)?, None);
    let runtime = Runtime::new().map_err(failed)?;
    runtime.block_on(async {
        let few = Bench { registry: &registry, directory: directory.join("few"), say };
        let mut market = few.market(FEW_OFFERS).await?;
        few.searches(&market, "100k", 5.0, report).await?;
        few.leases(&mut market, report).await?;
        few.heartbeats(&market, report).await?;
        few.restart(&market, report).await?;
        let many = Bench { directory: directory.join("many"), ..few };
        let market = many.market(MANY_OFFERS).await?;
        many.searches(&market, "1m", 20.0, report).await
    })?;
    report.environment = json!({
        "hosts": HOSTS, "searchers": SEARCHERS, "searches": SEARCHES, "borrowers": BORROWERS, "leases": LEASES,
        "beat_s": BEAT.as_secs(), "cpus": std::thread::available_parallelism().map_or(0, usize::from),
    });
    std::fs::remove_dir_all(&directory).map_err(failed)
}

/// One market, and a registry for it.
struct Bench<'a> {
    registry: &'a Path,
    directory: PathBuf,
    say: &'a dyn Fn(&str),
}

impl Bench<'_> {
    async fn start(&self, beat: Duration) -> Result<Server, RegistryBenchError> {
        Ok(Server::start(self.registry, &self.directory, beat)?)
    }

    async fn market(&self, offers: usize) -> Result<Market, RegistryBenchError> {
        (self.say)(&format!("{HOSTS} hosts enrol, {offers} offers"));
        std::fs::create_dir_all(&self.directory)
            .map_err(|error| RegistryBenchError::File(self.directory.clone(), error))?;
        let server = self.start(CALM).await?;
        let mut market = Market::enrol(&server, HOSTS).await?;
        drop(server);
        seed::offers(&self.directory.join("registry.db"), &mut market, offers)?;
        Ok(market)
    }

    async fn searches(
        &self,
        market: &Market,
        size: &str,
        bar_ms: f64,
        report: &mut Report,
    ) -> Result<(), RegistryBenchError> {
        (self.say)(&format!("{SEARCHES} searches among {size}"));
        let server = self.start(CALM).await?;
        market.all_beat(&server).await?;
        let mut slowest = market.searches(&server, SEARCHERS, SEARCHES).await?;
        report.add(
            format!("search_p99_ms_{size}"),
            percentile_ms(&mut slowest, 0.99),
            Some(Bar::AtMost(bar_ms)),
        );
        report.add(format!("search_p50_ms_{size}"), percentile_ms(&mut slowest, 0.50), None);
        let mut explained = market.explanations(&server, SEARCHERS, SEARCHES / 100).await?;
        report.add(format!("explain_p99_ms_{size}"), percentile_ms(&mut explained, 0.99), None);
        Ok(())
    }

    async fn leases(&self, market: &mut Market, report: &mut Report) -> Result<(), RegistryBenchError> {
        (self.say)(&format!("{LEASES} leases over {BORROWERS} connections"));
        let server = self.start(CALM).await?;
        market.all_beat(&server).await?;
        let cpu_before = server.cpu_s();
        let started = Instant::now();
        let mut took = market.borrow(&server, BORROWERS, LEASES).await?;
        let elapsed_s = started.elapsed().as_secs_f64();
        let leases = took.len() as f64;
        report.add("leases_per_s", leases / elapsed_s, Some(Bar::AtLeast(3000.0)));
        report.add("lease_p99_ms", percentile_ms(&mut took, 0.99), None);
        report.add("lease_registry_cpu_us", (server.cpu_s() - cpu_before) * 1e6 / leases, None);
        // Law 6: whoever was told of a lease finds it after a power cut.
        let database = server.kill();
        let kept = seed::count(&database, "leases")?;
        if kept < took.len() {
            return Err(SeedError::Lost { told: took.len(), kept }.into());
        }
        Ok(())
    }

    async fn heartbeats(&self, market: &Market, report: &mut Report) -> Result<(), RegistryBenchError> {
        (self.say)(&format!("{HOSTS} hosts beat every {} s", BEAT.as_secs()));
        let server = self.start(BEAT).await?;
        let beating = market.beat(&server, BEAT);
        // All have come, and wait for news.
        tokio::time::sleep(BEAT).await;
        let (cpu_before, started) = (server.cpu_s(), Instant::now());
        beating.answered();
        tokio::time::sleep(BEATING).await;
        let cores = (server.cpu_s() - cpu_before) / started.elapsed().as_secs_f64();
        report.add("heartbeat_cores_10k", cores, Some(Bar::AtMost(1.0)));
        report.add("heartbeats_per_s", beating.answered() as f64 / BEATING.as_secs_f64(), None);
        (self.say)("a host dies");
        let hidden = market.hidden_after(&server, &beating).await?;
        report.add("dead_host_hidden_s", hidden.as_secs_f64(), Some(Bar::AtMost(30.0)));
        Ok(())
    }

    async fn restart(&self, market: &Market, report: &mut Report) -> Result<(), RegistryBenchError> {
        (self.say)(&format!("{PAST_LEASES} past leases"));
        let server = self.start(CALM).await?;
        market.end_all(&server).await?;
        let database = server.kill();
        seed::past_leases(&database, PAST_LEASES)?;
        let started = Instant::now();
        let server = self.start(CALM).await?;
        Connection::open(server.address()).await?.post("/v1/search", market.borrower(), &json!({})).await?;
        report.add("restart_s_1m", started.elapsed().as_secs_f64(), Some(Bar::AtMost(1.0)));
        Ok(())
    }
}

/// How often the disk makes 4 KiB durable in a second, one after another.
fn fsyncs_per_s(directory: &Path) -> io::Result<f64> {
    use std::io::Write as _;

    let path = directory.join("fsync");
    let mut file = std::fs::File::create(&path)?;
    let (started, mut count) = (Instant::now(), 0_u32);
    while started.elapsed() < Duration::from_secs(2) {
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        count += 1;
    }
    let per_s = f64::from(count) / started.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(per_s)
}
