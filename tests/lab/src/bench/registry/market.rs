//! Hosts with their offers, and what they and borrowers ask of the registry.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinSet};
use uuid::Uuid;

use super::RegistryBenchError;
use super::load::{Connection, LoadError};
use crate::bench::server::Server;

/// Connections over which hosts enrol and first beat.
const ENROLLERS: usize = 64;
/// Leases that are ended, to be copied as past ones.
const ENDED: usize = 1000;
/// Longest that a host's death may take to be seen.
const DEATH_LIMIT: Duration = Duration::from_secs(120);

const ZONES: [&str; 8] = ["eu-1", "eu-2", "eu-3", "us-1", "us-2", "us-3", "ap-1", "ap-2"];
const MODELS: [&str; 12] = [
    "AMD EPYC 7543",
    "AMD EPYC 7763",
    "AMD EPYC 9454",
    "AMD EPYC 9654",
    "AMD Ryzen 9 5950X",
    "AMD Ryzen 9 7950X",
    "Intel Xeon Gold 6338",
    "Intel Xeon Platinum 8380",
    "Intel Xeon Platinum 8480+",
    "Intel Xeon E-2388G",
    "Intel Core i9-13900K",
    "Intel Core i5-12400",
];
const SIZES: [u32; 8] = [1, 1, 2, 2, 4, 8, 16, 32];

pub(super) struct Offered {
    pub(super) host: usize,
    pub(super) partition: Uuid,
}

#[derive(Clone)]
struct Host {
    id: Uuid,
    token: Arc<str>,
}

impl Host {
    async fn beat(&self, connection: &mut Connection, beat: &Value) -> Result<Bytes, LoadError> {
        connection.post(&format!("/v1/hosts/{}/heartbeat", self.id), &self.token, beat).await
    }

    /// Beats again whenever it was answered.
    async fn beat_on(&self, registry: SocketAddr, answered: &AtomicU64) -> Result<Infallible, LoadError> {
        let mut connection = Connection::open(registry).await?;
        let mut known = Value::Null;
        loop {
            let beat = json!({ "known_revision": known, "wait_ms": 10_000 });
            let reply: Value = serde_json::from_slice(&self.beat(&mut connection, &beat).await?)?;
            known = reply["revision"].clone();
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What was enrolled and offered.
pub(super) struct Market {
    hosts: Arc<[Host]>,
    numbers: HashMap<Uuid, usize>,
    borrower: Arc<str>,
    pub(super) offered: Vec<Offered>,
    granted: Vec<Bytes>,
}

/// A number that looks like chance, and is the same each time (SplitMix64).
fn drawn(number: usize) -> usize {
    let mut x = (number as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 8) as usize
}

/// Terms of the offer of this number. The very first is the cheapest of all.
pub(super) fn terms(host: usize, number: usize) -> Value {
    let (of_host, of_offer) = (drawn(host), drawn(number ^ 0x5555_5555));
    let cpus = SIZES[of_offer % SIZES.len()];
    let memory_mib = u64::from(cpus) * (1024 << (of_offer / 8 % 4)) + 64 * (of_offer as u64 / 32 % 16);
    let disk_mib = [0, 10, 50, 100, 500][of_offer / 512 % 5] * 1024_u64;
    let list = i64::from(cpus) * 20_000 + memory_mib as i64 * 5 + disk_mib as i64 / 10;
    let price = if number == 0 {
        1
    } else {
        list * (80 + of_host as i64 % 40) / 100 + (of_offer as i64 >> 20) % 1000
    };
    let images: &[&str] =
        [&["debian-micro"][..], &["debian-12"], &["debian-12", "debian-micro"], &[]][of_host % 4];
    let mut qualities = json!({ "labels": { "zone": ZONES[of_host / 4 % ZONES.len()] } });
    if of_host / 32 % 3 == 0 {
        qualities["huge_pages"] = true.into();
    }
    if of_host / 96 % 2 == 0 {
        qualities["numa_nodes"] = 1.into();
    }
    json!({
        "allocation": { "cpus": cpus, "memory_mib": memory_mib.min(262_144), "disk_mib": disk_mib },
        "price": { "per_hour_micros": price, "currency": "EUR" },
        "os_images": images,
        "cpu_model": MODELS[of_host / 192 % MODELS.len()],
        "network": if of_offer / 4096 % 2 == 0 { "none" } else { "nat" },
        "qualities": qualities,
    })
}

/// Broad and narrow ones; each finds something.
fn searches() -> [Value; 6] {
    [
        json!({}),
        json!({ "min_cpus": 4, "min_memory_mib": 8192, "currency": "EUR" }),
        json!({ "min_cpus": 16, "min_memory_mib": 65536, "min_disk_mib": 102_400, "network": "nat" }),
        json!({ "min_cpus": 2, "max_price_per_hour_micros": 60_000, "currency": "EUR", "os_image": "debian-12" }),
        json!({ "min_cpus": 32, "min_memory_mib": 200_000, "cpu_model": "epyc 9654", "huge_pages": true }),
        json!({ "min_cpus": 8, "cpu_model": "xeon", "labels": { "zone": "ap-2" }, "one_numa_node": true }),
    ]
}

impl Market {
    /// Enrols so many hosts, each with one offer.
    pub(super) async fn enrol(server: &Server, hosts: usize) -> Result<Self, RegistryBenchError> {
        let lender: Arc<str> = server.token("lender", "lender")?.into();
        let borrower = server.token("borrower", "borrower")?.into();
        let next = Arc::new(AtomicUsize::new(0));
        let mut enrolling = JoinSet::new();
        for _ in 0..ENROLLERS {
            let mut connection = Connection::open(server.address()).await?;
            let (lender, next) = (Arc::clone(&lender), Arc::clone(&next));
            enrolling.spawn(async move {
                let mut enrolled = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= hosts {
                        return Ok::<_, LoadError>(enrolled);
                    }
                    enrolled.push((number, enrol(&mut connection, &lender, number).await?));
                }
            });
        }
        let mut enrolled = Vec::new();
        while let Some(some) = enrolling.join_next().await {
            enrolled.extend(some.map_err(LoadError::Task)??);
        }
        enrolled.sort_by_key(|(number, _)| *number);
        let offered =
            enrolled.iter().map(|(host, (_, partition))| Offered { host: *host, partition: *partition });
        Ok(Self {
            offered: offered.collect(),
            numbers: enrolled.iter().map(|(number, (host, _))| (host.id, *number)).collect(),
            hosts: enrolled.into_iter().map(|(_, (host, _))| host).collect(),
            borrower,
            granted: Vec::new(),
        })
    }

    pub(super) fn host_number(&self, host: Uuid) -> Option<usize> {
        self.numbers.get(&host).copied()
    }

    pub(super) fn borrower(&self) -> &str {
        &self.borrower
    }

    /// Every host is heard once.
    pub(super) async fn all_beat(&self, server: &Server) -> Result<(), LoadError> {
        let hosts = Arc::clone(&self.hosts);
        each(server, ENROLLERS, hosts.len(), move |connection, number| {
            let hosts = Arc::clone(&hosts);
            async move {
                let mut connection = connection;
                hosts[number].beat(&mut connection, &json!({})).await?;
                Ok((connection, None))
            }
        })
        .await
        .map(drop)
    }

    /// How long each search took.
    pub(super) async fn searches(
        &self,
        server: &Server,
        connections: usize,
        count: usize,
    ) -> Result<Vec<Duration>, LoadError> {
        let mut bodies: Vec<Value> = searches().map(|conditions| json!({ "conditions": conditions })).into();
        let mut connection = Connection::open(server.address()).await?;
        // The second page of each, too.
        for body in bodies.clone() {
            let first: Value =
                serde_json::from_slice(&connection.post("/v1/search", &self.borrower, &body).await?)?;
            assert_found(&body, &first)?;
            if let Some(cursor) = first["next_cursor"].as_str() {
                bodies.push(json!({ "conditions": body["conditions"], "cursor": cursor }));
            }
        }
        self.search_all(server, connections, count, bodies).await
    }

    /// The same of searches that find nothing, and are told why.
    pub(super) async fn explanations(
        &self,
        server: &Server,
        connections: usize,
        count: usize,
    ) -> Result<Vec<Duration>, LoadError> {
        let nothing = json!({ "min_cpus": 2, "min_memory_mib": 65536, "max_price_per_hour_micros": 1 });
        self.search_all(server, connections, count, vec![json!({ "conditions": nothing })]).await
    }

    async fn search_all(
        &self,
        server: &Server,
        connections: usize,
        count: usize,
        bodies: Vec<Value>,
    ) -> Result<Vec<Duration>, LoadError> {
        let (bodies, borrower): (Arc<[Value]>, _) = (bodies.into(), Arc::clone(&self.borrower));
        let took = each(server, connections, count, move |mut connection, number| {
            let (bodies, borrower) = (Arc::clone(&bodies), Arc::clone(&borrower));
            async move {
                connection.post("/v1/search", &borrower, &bodies[number % bodies.len()]).await?;
                Ok((connection, None))
            }
        });
        Ok(took.await?.into_iter().map(|(took, _)| took).collect())
    }

    /// Borrows so many partitions, never twice the same; how long each took.
    pub(super) async fn borrow(
        &mut self,
        server: &Server,
        connections: usize,
        count: usize,
    ) -> Result<Vec<Duration>, LoadError> {
        // The first offer is for the host that will die.
        let wishes = self.offered.iter().skip(1).take(count).map(|offered| {
            json!({
                "host": self.hosts[offered.host].id, "partition": offered.partition, "terms_version": 1,
                "duration_seconds": 36_000,
            })
        });
        let wishes: Arc<[Bytes]> = wishes.map(|wish| Bytes::from(wish.to_string())).collect();
        let borrower = Arc::clone(&self.borrower);
        let answers = each(server, connections, wishes.len(), move |mut connection, number| {
            let (wish, borrower) = (wishes[number].clone(), Arc::clone(&borrower));
            async move {
                let key = Uuid::new_v4().to_string();
                let granted =
                    connection.send(Method::POST, "/v1/leases", &borrower, wish, Some(&key)).await?;
                Ok((connection, (number < ENDED).then_some(granted)))
            }
        })
        .await?;
        let (took, granted): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
        self.granted = granted.into_iter().flatten().collect();
        Ok(took)
    }

    /// Ends the leases whose keys were kept.
    pub(super) async fn end_all(&self, server: &Server) -> Result<(), LoadError> {
        let mut connection = Connection::open(server.address()).await?;
        for granted in &self.granted {
            let granted: Value = serde_json::from_slice(granted)?;
            let lease = &granted["lease"];
            let path = format!("/v1/leases/{}/end", lease["id"].as_str().unwrap_or_default());
            let end =
                json!({ "host": lease["host"], "partition": lease["partition"], "key": granted["key"] });
            connection.post(&path, &self.borrower, &end).await?;
        }
        Ok(())
    }

    /// Every host beats from now on, over a connection of its own that waits for news, as an agent does.
    pub(super) fn beat(&self, server: &Server, beat: Duration) -> Beating {
        let answered = Arc::new(AtomicU64::new(0));
        let address = server.address();
        let tasks = self.hosts.iter().enumerate().map(|(number, host)| {
            let (host, answered) = (host.clone(), Arc::clone(&answered));
            let begins = beat.mul_f64(number as f64 / self.hosts.len() as f64);
            let beating = async move {
                tokio::time::sleep(begins).await;
                host.beat_on(address, &answered).await
            };
            tokio::spawn(beating).abort_handle()
        });
        Beating { tasks: tasks.collect(), answered }
    }

    /// Lets the host of the cheapest offer beat once more and die; how long after that beat its offer was hidden.
    pub(super) async fn hidden_after(
        &self,
        server: &Server,
        beating: &Beating,
    ) -> Result<Duration, LoadError> {
        let victim = &self.hosts[0];
        beating.tasks[0].abort();
        let mut connection = Connection::open(server.address()).await?;
        victim.beat(&mut connection, &json!({})).await?;
        let last_beat = Instant::now();
        while last_beat.elapsed() < DEATH_LIMIT {
            let found = connection.post("/v1/search", &self.borrower, &json!({ "limit": 1 })).await?;
            let found: Value = serde_json::from_slice(&found)?;
            if found["offers"][0]["host"] != json!(victim.id) {
                return Ok(last_beat.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(LoadError::StillFound)
    }
}

/// Hosts that beat until this is dropped.
pub(super) struct Beating {
    tasks: Vec<AbortHandle>,
    answered: Arc<AtomicU64>,
}

impl Beating {
    /// Answers since this was asked for the last time.
    pub(super) fn answered(&self) -> u64 {
        self.answered.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

async fn enrol(connection: &mut Connection, lender: &str, number: usize) -> Result<(Host, Uuid), LoadError> {
    let address = json!({ "address": "http://192.0.2.1:7180" });
    let enrolled: Value = serde_json::from_slice(&connection.post("/v1/hosts", lender, &address).await?)?;
    let id = serde_json::from_value(enrolled["host"].clone())?;
    let host = Host { id, token: enrolled["host_token"].as_str().unwrap_or_default().into() };
    let partition = Uuid::now_v7();
    let path = format!("/v1/hosts/{id}/partitions/{partition}");
    connection.put(&path, &host.token, &json!({ "terms": terms(number, number) })).await?;
    Ok((host, partition))
}

fn assert_found(body: &Value, found: &Value) -> Result<(), LoadError> {
    let none = found["offers"].as_array().is_none_or(Vec::is_empty);
    if none { Err(LoadError::NothingFound(body.to_string())) } else { Ok(()) }
}

/// Does so many requests over so many connections, each as soon as the one before it on its connection is answered.
async fn each<F, A>(
    server: &Server,
    connections: usize,
    count: usize,
    act: F,
) -> Result<Vec<(Duration, Option<Bytes>)>, LoadError>
where
    F: Fn(Connection, usize) -> A + Clone + Send + 'static,
    A: Future<Output = Result<(Connection, Option<Bytes>), LoadError>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut acting = JoinSet::new();
    for _ in 0..connections {
        let mut connection = Connection::open(server.address()).await?;
        let (next, act) = (Arc::clone(&next), act.clone());
        acting.spawn(async move {
            let mut answers = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, LoadError>(answers);
                }
                let started = Instant::now();
                let (open, answer) = act(connection, number).await?;
                answers.push((started.elapsed(), answer));
                connection = open;
            }
        });
    }
    let mut answers = Vec::with_capacity(count);
    while let Some(some) = acting.join_next().await {
        answers.extend(some??);
    }
    Ok(answers)
}
