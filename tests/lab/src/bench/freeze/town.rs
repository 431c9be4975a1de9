//! A registry, a host with an agent that is known to it, and partitions of the host that are lent.

use std::fs;
use std::time::{Duration, Instant};

use sublet::api::agent::{BorrowPartition, CarvePartition, JobEnd, JobState, JobView, RunJob};
use sublet::api::registry::{MakeLease, Offer, Search};
use sublet::client::{AgentClient, LeaseRequestId, LogEvent, RegistryClient};
use sublet::domain::id::{JobId, PartitionId};
use sublet::domain::resources::Allocation;
use sublet::domain::secret::Secret;
use uuid::Uuid;

use super::FreezeBenchError;
use crate::bench::server::Server;
use crate::bench::{Options, hosts::HostError};
use crate::host::{Host, HostOptions};
use crate::lab::Lab;
use crate::prepare::{prepare, program};

/// How often the host is to be heard of.
const BEAT: Duration = Duration::from_secs(2);
/// Longest that anything in it may take.
const PATIENCE: Duration = Duration::from_secs(300);
const LEASE: Duration = Duration::from_secs(3600);
const IMAGE: &str = "debian-micro";
const EACH: Allocation = Allocation { cpus: 1, memory_mib: 512, disk_mib: 16 };

/// Its host is gone when it is dropped, and its registry.
pub(super) struct Town {
    _registry: Server,
    registry: RegistryClient,
    lab: Lab,
    pub(super) host: Host,
    owner: AgentClient,
}

impl Drop for Town {
    fn drop(&mut self) {
        // What is left is ended by the next benchmark.
        let _ = self.lab.remove(&self.host);
    }
}

impl Town {
    /// With one CPU for the owner, and `lent` to lend.
    pub(super) fn build(options: &Options, lent: u32, say: &dyn Fn(&str)) -> Result<Self, FreezeBenchError> {
        let directory = options.directory.join("freeze");
        let failed = |error| FreezeBenchError::File(directory.clone(), error);
        // What an earlier run left.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).map_err(failed)?;
        let served = Server::start(&program(&options.recipe, "sublet-registry", say)?, &directory, BEAT)?;
        let lender = directory.join("lender.token");
        fs::write(&lender, served.token("lender", "alice")?).map_err(failed)?;
        let address = format!("http://{}", served.address());
        let registry = RegistryClient::new(&address, Some(Secret::new(served.token("borrower", "bob")?)))?;
        let lab = Lab::open(&options.directory).map_err(HostError::from)?;
        for old in lab.hosts().map_err(HostError::from)? {
            lab.remove(&old).map_err(HostError::from)?;
        }
        let system = prepare(&options.recipe, say)?;
        let options = HostOptions {
            cpus: 1 + lent,
            memory_mib: 4096,
            registry: Some(address),
            enrolment_token_file: Some(lender),
            ..HostOptions::default()
        };
        say(&format!("a host that lends {lent} of its CPUs comes up"));
        let host = lab.up("freeze", &options, &system).map_err(HostError::from)?;
        let token = host.owner_token().map_err(failed)?;
        let owner = AgentClient::new(&host.address(), Some(Secret::new(token)))?;
        Ok(Self { _registry: served, registry, lab, host, owner })
    }

    /// Lends another partition of one CPU.
    pub(super) async fn lend(&self) -> Result<Lent, FreezeBenchError> {
        let partition = self.owner.carve(&CarvePartition::of(EACH)).await?.id;
        self.owner.offer(partition).await?;
        let offer = self.shown(partition).await?;
        let wish = MakeLease {
            host: offer.host,
            partition,
            terms_version: offer.terms_version,
            duration_seconds: LEASE.as_secs(),
            budget: None,
        };
        let granted = self.registry.make_lease(LeaseRequestId(Uuid::now_v7()), &wish).await?;
        let agent = AgentClient::new(&self.host.address(), Some(granted.key))?;
        let borrow = BorrowPartition { host: offer.host, allocation_digest: granted.allocation_digest };
        agent.borrow(partition, &borrow).await?;
        Ok(Lent { agent, partition })
    }

    /// The offer, as soon as search shows it.
    async fn shown(&self, partition: PartitionId) -> Result<Offer, FreezeBenchError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.registry.search(&Search::default()).await?.offers;
            match found.into_iter().find(|offer| offer.partition == partition) {
                Some(offer) => return Ok(offer),
                None if Instant::now() > deadline => return Err(FreezeBenchError::NotOnOffer(partition)),
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// What a shell script says, run as the host's root.
    pub(super) fn on_host(&self, script: &str) -> Result<String, FreezeBenchError> {
        let output = self.host.exec(["sh", "-ec", script]).map_err(HostError::from)?;
        if output.outcome.is_success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(FreezeBenchError::Script { script: script.to_owned(), said })
    }
}

/// A partition that is lent, as its borrower sees it.
pub(super) struct Lent {
    agent: AgentClient,
    pub(super) partition: PartitionId,
}

impl Lent {
    async fn begin(&self, script: &str) -> Result<JobId, FreezeBenchError> {
        let argv = ["sh", "-c", script].map(str::to_owned).into();
        let job = RunJob { image: Some(IMAGE.to_owned()), argv, ..RunJob::default() };
        Ok(self.agent.run(self.partition, Uuid::now_v7(), &job).await?.id)
    }

    /// What a job that goes well says.
    pub(super) async fn run(&self, script: &str) -> Result<String, FreezeBenchError> {
        let job = self.begin(script).await?;
        let mut said = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, self.read(job, &mut said)).await;
        let ended = ended.map_err(|_| FreezeBenchError::Silent(job))??;
        let said = String::from_utf8_lossy(&said).into_owned();
        match ended.state {
            JobState::Ended { end: JobEnd::Exited { code: 0 } } => Ok(said),
            state => Err(FreezeBenchError::Job { said, state: Box::new(state) }),
        }
    }

    async fn read(&self, job: JobId, said: &mut Vec<u8>) -> Result<JobView, FreezeBenchError> {
        let mut events = self.agent.logs(self.partition, job, None).await?;
        while let Some(event) = events.next().await? {
            match event {
                LogEvent::Stdout { bytes, .. } => said.extend_from_slice(&bytes),
                LogEvent::End(job) => return Ok(*job),
                LogEvent::Stderr { .. } | LogEvent::Console { .. } | LogEvent::Guest(_) => {}
            }
        }
        Err(FreezeBenchError::Silent(job))
    }

    /// Has a job run that does not end by itself, and waits until it has begun.
    pub(super) async fn keep_running(&self, script: &str) -> Result<JobId, FreezeBenchError> {
        let job = self.begin(&format!("echo begun; {script}")).await?;
        let mut events = self.agent.logs(self.partition, job, None).await?;
        loop {
            match events.next().await? {
                Some(LogEvent::Stdout { .. }) => return Ok(job),
                Some(LogEvent::End(_)) | None => return Err(FreezeBenchError::Silent(job)),
                Some(_) => {}
            }
        }
    }

    pub(super) async fn cancel(&self, job: JobId) -> Result<(), FreezeBenchError> {
        self.agent.cancel(self.partition, job).await?;
        self.read(job, &mut Vec::new()).await.map(drop)
    }
}
