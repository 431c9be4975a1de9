//! Power cuts of the registry's machine.
//!
//! The machine is a lab host whose QEMU is killed. What its kernel had only in memory is lost with it, so this proves
//! that the registry acknowledges nothing that has not been written to the disk by a sync. It does not prove that the
//! disk was told to flush its own cache, nor what a disk does that writes out of order: QEMU keeps whatever has
//! reached it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Instant,
};

use futures::future::join_all;
use sublet::{
    api::registry::{
        EndLease, EnrolHost, Heartbeat, HostEnrolled, Lease, LeaseGranted, MakeLease, OfferPartition,
        RegisteredPartition,
    },
    client::{ClientError, HostRequestId, LeaseRequestId, RegistryClient},
    domain::{
        id::PartitionId,
        money::Price,
        secret::Secret,
        terms::{Terms, TermsVersion},
    },
};
use sublet_lab::{Host, HostOptions};
use uuid::Uuid;

use crate::world::{PATIENCE, SMALL, world};

const CUTS: u32 = 3;
const PARTITIONS: usize = 4;
/// Leases that are made between two cuts, at least.
const LEASES: u32 = 12;
const DIRECTORY: &str = "/var/lib/sublet/registry";

fn machine() -> HostOptions {
    HostOptions { cpus: 2, memory_mib: 768, disk_mib: 1024, agent: false, ..HostOptions::default() }
}

fn run(host: &Host, script: &str) -> String {
    let output = host.exec(["sh", "-ec", script]).unwrap();
    assert!(output.outcome.is_success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A lab host with a registry instead of an agent, at the agent's port.
fn install(host: &Host) {
    run(host, &format!("mkdir -p {DIRECTORY}"));
    let program = world().programs.join("sublet-registry");
    host.copy(&program, &format!("{DIRECTORY}/sublet-registry")).unwrap();
    run(host, "sync");
}

fn token(host: &Host, whose: &str, name: &str) -> Secret {
    let command = format!("cd {DIRECTORY}; ./sublet-registry token make {whose} --name {name}");
    Secret::new(run(host, &command).trim())
}

/// Starts the registry, and waits until it answers.
fn serve(host: &Host) {
    let options = "--listen 0.0.0.0:7180 --insecure-http --beat-every-ms 3600000";
    run(host, &format!("cd {DIRECTORY}; setsid ./sublet-registry serve {options} </dev/null >>log 2>&1 &"));
    let stranger = RegistryClient::new(&host.address(), None).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while world().wait(stranger.leases()).is_err_and(|error| error.code().is_none()) {
        assert!(Instant::now() < deadline, "the registry does not answer");
        thread::yield_now();
    }
}

/// What a borrower was told about leases of its partition.
#[derive(Default)]
struct Told {
    granted: Vec<LeaseGranted>,
    ended: Vec<Lease>,
}

struct Market {
    host: HostEnrolled,
    host_client: RegistryClient,
    borrower: RegistryClient,
    /// Leases that were acknowledged since the last cut.
    made: Arc<AtomicU32>,
}

impl Market {
    fn open(registry: &Host) -> Self {
        let client = |token| RegistryClient::new(&registry.address(), Some(token)).unwrap();
        let lender = client(token(registry, "lender", "alice"));
        let enrol = EnrolHost { address: "http://192.0.2.1:7180".to_owned() };
        let host = world().wait(lender.enrol_host(HostRequestId(Uuid::new_v4()), &enrol)).unwrap();
        let host_client = client(host.host_token.clone());
        Self { host, host_client, borrower: client(token(registry, "borrower", "bob")), made: Arc::default() }
    }

    async fn beat(&self, beat: Heartbeat) -> Result<(), ClientError> {
        self.host_client.heartbeat(self.host.host, &beat).await.map(drop)
    }

    async fn offer(&self) -> RegisteredPartition {
        let terms = Terms {
            allocation: SMALL,
            price: Price { per_hour_micros: 3_600_000, currency: "EUR".parse().unwrap() },
            os_images: Default::default(),
            cpu_model: String::new(),
            network: Default::default(),
            qualities: Default::default(),
            lending: Default::default(),
        };
        let partition = PartitionId(Uuid::new_v4());
        self.host_client
            .offer_partition(self.host.host, partition, &OfferPartition { terms, known_version: None })
            .await
            .unwrap()
    }

    /// Leases it and gives it back, again and again, until the power is cut.
    async fn use_until_cut(&self, partition: &RegisteredPartition, told: &mut Told) {
        while self.use_once(partition, told).await.is_ok() {}
    }

    async fn use_once(&self, partition: &RegisteredPartition, told: &mut Told) -> Result<(), ClientError> {
        let wish: MakeLease = serde_json::from_value(serde_json::json!({
            "host": partition.host,
            "partition": partition.partition,
            "terms_version": TermsVersion(1),
            "duration_seconds": 3600,
        }))
        .unwrap();
        let granted = self.borrower.make_lease(LeaseRequestId(Uuid::new_v4()), &wish).await?;
        let lease = granted.lease.id;
        told.granted.push(granted.clone());
        self.made.fetch_add(1, Ordering::SeqCst);
        let end = EndLease { host: partition.host, partition: partition.partition, key: granted.key };
        told.ended.push(self.borrower.end_lease(lease, &end).await?);
        self.beat(Heartbeat { cleaned: vec![lease], ..Heartbeat::default() }).await
    }

    /// What the cut left half done, as the host and the borrower find it, is brought to its end.
    async fn tidy(&self, told: &[Told]) {
        let reply = self.host_client.heartbeat(self.host.host, &Heartbeat::default()).await.unwrap();
        assert_eq!(reply.partitions.len(), PARTITIONS, "a partition that was on offer is there");
        let leases = self.borrower.leases().await.unwrap().leases;
        for Told { granted, ended } in told {
            for granted in granted {
                let kept =
                    self.borrower.lease(granted.lease.id).await.expect("an acknowledged lease is there");
                assert_eq!(Lease { end: None, ..kept.clone() }, granted.lease);
                let as_told = ended.iter().find(|ended| ended.id == kept.id);
                assert!(
                    as_told.is_none_or(|ended| *ended == kept),
                    "an end changed: {as_told:?} is {kept:?}"
                );
            }
        }
        // A lease whose answer was cut off ends by its host's word.
        let running = leases.iter().filter(|lease| lease.end.is_none()).map(|lease| lease.id);
        let ended = running.map(|lease| serde_json::json!({ "lease": lease, "reason": "host_lost" }));
        let cleaned = leases.iter().map(|lease| lease.id).collect();
        let ended = ended.map(|ended| serde_json::from_value(ended).unwrap()).collect();
        self.beat(Heartbeat { ended, cleaned, ..Heartbeat::default() }).await.unwrap();
    }
}

/// Longest list that a registry answers with at once.
const ALL_LISTED: usize = 100;

#[test]
fn what_a_registry_acknowledged_survives_power_cuts_of_its_machine() {
    let world = world();
    let machine = world.another_host("registry-1", machine());
    install(&machine.0);
    serve(&machine.0);
    let market = Market::open(&machine.0);
    world.wait(market.beat(Heartbeat::default())).unwrap();
    let partitions = world.wait(join_all((0..PARTITIONS).map(|_| market.offer())));
    let mut told: Vec<Told> = partitions.iter().map(|_| Told::default()).collect();
    for _ in 0..CUTS {
        market.made.store(0, Ordering::SeqCst);
        let (made, host) = (Arc::clone(&market.made), machine.0.clone());
        let cut = thread::spawn(move || {
            let deadline = Instant::now() + PATIENCE;
            while made.load(Ordering::SeqCst) < LEASES && Instant::now() < deadline {
                thread::yield_now();
            }
            host.kill().unwrap();
        });
        let using = partitions.iter().zip(&mut told);
        world.wait(join_all(using.map(|(partition, told)| market.use_until_cut(partition, told))));
        cut.join().unwrap();
        assert!(
            market.made.load(Ordering::SeqCst) >= LEASES,
            "the registry was in use when the power was cut"
        );
        machine.0.start(&world.system).unwrap();
        serve(&machine.0);
        world.wait(market.tidy(&told));
    }
    let charges = world.wait(market.borrower.ledger()).unwrap().entries;
    let leases = world.wait(market.borrower.leases()).unwrap().leases;
    assert_eq!(charges.len().min(ALL_LISTED), leases.len(), "each lease is settled, and once");
    assert!(charges.iter().all(|charge| charge.entry.legs.is_balanced()), "law 7");
}
