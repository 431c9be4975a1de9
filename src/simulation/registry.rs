//! The registry: the real one, asked by HTTP without a socket. It is the true time's keeper; it may be down.

use std::{
    cell::RefCell,
    future::{Future, pending},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, http::Request};
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tower::ServiceExt as _;

use super::{
    doom::{Doom, Place},
    network::{Network, Unanswered},
};
use crate::{
    api::{
        http::{Peer, PeerCertificate, Shutdown},
        problem::Problem,
        secret::Secret,
        token::Scope,
    },
    client::ClientError,
    clock::Clock,
    domain::{money::FeeRate, terms::TermsVersion},
    registry::{
        Operator, Registry, Role, Settings, http,
        resource_db::{AccountKind, Location, ResourceDb},
    },
};

/// An answer is not waited for longer than this in bytes.
const ANSWER_MAX_BYTES: usize = 1 << 20;

/// Does at once, without letting anybody else go on, what works with other threads; so each run is like the other.
pub(super) fn at_once<T>(work: impl Future<Output = T>) -> T {
    futures::executor::block_on(tokio::task::unconstrained(work))
}

/// A question by HTTP.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) token: Secret,
    pub(super) header: Option<(&'static str, String)>,
    pub(super) body: Value,
}

impl Ask {
    pub(super) fn new(method: &'static str, path: String, token: &Secret, body: &impl Serialize) -> Self {
        let body = serde_json::to_value(body).unwrap();
        Self { method, path, token: token.clone(), header: None, body }
    }

    /// Of what has this version, where one is named.
    pub(super) fn of_version(self, version: Option<TermsVersion>) -> Self {
        Self { header: version.map(|version| ("if-match", format!("\"{}\"", version.0))), ..self }
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(&self.path)
            .header("authorization", format!("Bearer {}", self.token.reveal()))
            .header("content-type", "application/json");
        if let Some((name, value)) = &self.header {
            request = request.header(*name, value);
        }
        let peer = Peer { address: ([127, 0, 0, 1], 1).into(), certificate: PeerCertificate::NotAsked };
        request.extension(ConnectInfo(peer)).body(Body::from(self.body.to_string())).unwrap()
    }
}

/// What became of a question that arrived.
enum Heard {
    AndAnswered(Result<Value, Problem>),
    ByNobody,
    ByOneThatDied,
}

pub(super) struct RegistryProcess {
    directory: TempDir,
    began: (Instant, Timestamp),
    clock: Arc<Clock>,
    running: RefCell<Option<(Arc<Registry>, Router)>>,
    pub(super) doom: Rc<Doom>,
    /// Nobody tells it to end.
    _shutdown: watch::Sender<bool>,
    shutdown: Shutdown,
}

impl RegistryProcess {
    pub(super) fn new() -> Rc<Self> {
        // What it keeps is none of what a disk may lose; memory is faster.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let (told, heard) = watch::channel(false);
        let registry = Self {
            directory,
            began: (Instant::now(), start),
            clock: Arc::new(Clock::held_at(start)),
            running: RefCell::default(),
            doom: Rc::default(),
            _shutdown: told,
            shutdown: Shutdown::on(heard),
        };
        registry.start();
        Rc::new(registry)
    }

    fn database(&self) -> Location {
        Location::File(self.directory.path().join("registry.db"))
    }

    pub(super) fn start(&self) {
        let settings = Settings {
            database: self.database(),
            fee_rate: FeeRate::from_millionths(50_000).unwrap(),
            // So long that no host is hidden: that goes by a clock which is not simulated.
            beat_every: Duration::from_secs(3600),
            host_lost_grace: Duration::from_secs(3600),
        };
        self.now();
        let registry =
            at_once(Registry::open(settings, Arc::clone(&self.clock), self.shutdown.clone())).unwrap();
        let router = http::router(Arc::clone(&registry));
        *self.running.borrow_mut() = Some((registry, router));
    }

    pub(super) fn kill(&self) {
        *self.running.borrow_mut() = None;
    }

    /// The true time.
    pub(super) fn now(&self) -> Timestamp {
        let (instant, timestamp) = self.began;
        let now = timestamp + instant.elapsed();
        let ahead = now.duration_since(self.clock.now());
        self.clock.advance(ahead.try_into().unwrap_or_default());
        self.clock.now()
    }

    pub(super) fn began(&self) -> Instant {
        self.began.0
    }

    pub(super) fn token(&self, kind: AccountKind, name: &str) -> Secret {
        let operator = at_once(Operator::at(self.database())).unwrap();
        at_once(operator.make_token(Role::Account(kind), name.to_owned(), Scope::Full, None)).unwrap()
    }

    /// To its database, whether it is up or down.
    pub(super) fn another_connection(&self) -> ResourceDb {
        let opened = ResourceDb::open(self.database(), Arc::clone(&self.clock), Box::new(|_| ()));
        at_once(opened).unwrap()
    }

    /// What comes over the network. It may die over it.
    fn hear(&self, ask: &Ask) -> Heard {
        if self.running.borrow().is_none() {
            return Heard::ByNobody;
        }
        if self.doom.strikes(Place::BeforeCommit) {
            self.kill();
            return Heard::ByOneThatDied;
        }
        let answer = self.answer(ask);
        if self.doom.strikes(Place::BeforeAnswer) {
            self.kill();
            return Heard::ByOneThatDied;
        }
        answer.map_or(Heard::ByNobody, Heard::AndAnswered)
    }

    /// None: it is down.
    pub(super) fn answer(&self, ask: &Ask) -> Option<Result<Value, Problem>> {
        self.now();
        let router = self.running.borrow().as_ref()?.1.clone();
        Some(at_once(async {
            let response = router.oneshot(ask.request()).await.unwrap();
            let status = response.status();
            let body = axum::body::to_bytes(response.into_body(), ANSWER_MAX_BYTES).await.unwrap();
            assert!(!status.is_server_error(), "{ask:?}: {status} {body:?}");
            if status.is_success() {
                Ok(if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() })
            } else {
                Err(serde_json::from_slice(&body).unwrap())
            }
        }))
    }

    /// Ends leases whose time has come, as the real one's own task does.
    pub(super) async fn expire(self: Rc<Self>) {
        loop {
            sleep(Duration::from_millis(50)).await;
            self.now();
            let running = self.running.borrow().as_ref().map(|(registry, _)| Arc::clone(registry));
            if let Some(registry) = running {
                assert!(!at_once(registry.expire_due()), "expiry failed");
            }
        }
    }
}

/// The registry, as one of the others speaks to it.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) network: Rc<Network>,
    pub(super) registry: Rc<RegistryProcess>,
}

impl Line {
    pub(super) async fn ask<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, ClientError> {
        let registry = Rc::clone(&self.registry);
        let answered = self.network.call(move || {
            let heard = registry.hear(&ask);
            async move {
                match heard {
                    Heard::AndAnswered(answer) => Some(answer),
                    Heard::ByNobody => None,
                    Heard::ByOneThatDied => pending().await,
                }
            }
        });
        match answered.await {
            Ok(Ok(answer)) => Ok(serde_json::from_value(answer).unwrap()),
            Ok(Err(problem)) => Err(ClientError::Refused(Box::new(problem))),
            Err(Unanswered::Silent) => Err(ClientError::Silent { server: "registry".to_owned() }),
            // Stands for a connection that was refused, which only a socket could make: as certain as that.
            Err(Unanswered::NotAsked) => Err(ClientError::Address("registry".to_owned())),
        }
    }
}
