//! Connections to the server: a pool for transactions, and one that listens.

use std::{path::PathBuf, sync::Arc, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use thiserror::Error;
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    passfile::{self, PassfileError},
    server::Server,
};
use crate::api::pem::{self, PemError};

/// Connections for transactions.
const CONNECTIONS: usize = 16;
/// How long a use case waits for a connection that is free.
const WAIT: Duration = Duration::from_secs(30);
const CREATE: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum ConnectError {
    #[error(transparent)]
    Passfile(#[from] PassfileError),
    #[error(transparent)]
    Authorities(#[from] PemError),
    #[error("no authority's certificate in {} can be used", .0.display())]
    NoAuthority(PathBuf),
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error("the pool of connections cannot be made")]
    Pool(#[from] deadpool_postgres::BuildError),
}

/// How connections are made.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) config: Config,
    /// None: in the clear.
    pub(super) tls: Option<MakeRustlsConnect>,
}

impl Connector {
    pub(super) fn to(server: &Server) -> Result<Self, ConnectError> {
        let mut config = server.config.clone();
        if let Some(path) = server.passfile() {
            config.password(passfile::password(path, &server.login())?.reveal());
        }
        Ok(Self { config, tls: server.authorities.clone().map(tls).transpose()? })
    }

    pub(super) fn pool(&self) -> Result<Pool, ConnectError> {
        let how = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = match self.tls.clone() {
            None => Manager::from_config(self.config.clone(), NoTls, how),
            Some(tls) => Manager::from_config(self.config.clone(), tls, how),
        };
        let pool = Pool::builder(manager).max_size(CONNECTIONS).runtime(Runtime::Tokio1);
        Ok(pool.wait_timeout(Some(WAIT)).create_timeout(Some(CREATE)).build()?)
    }
}

/// Only who one of these authorities vouches for, by the name that was asked for, is the server.
fn tls(authorities: PathBuf) -> Result<MakeRustlsConnect, ConnectError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(pem::certificates(&authorities)?);
    if roots.is_empty() {
        return Err(ConnectError::NoAuthority(authorities));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
