//! Where a server listens, by its command line: plain on loopback, over TLS with certificates from files that are read again
//! at SIGHUP.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use axum::Router;
use rustix::{io::Errno, net::sockopt};
use thiserror::Error;
use tokio::net::TcpListener;

use super::{
    serve::{NotLoopback, ServedAt, Shutdown, on_hangup, plain_http_allowed, serve},
    tls::{ServerIdentity, ServerTls, TlsError},
};

/// Where to listen, and how.
#[derive(Debug, Clone)]
pub struct Listen {
    pub address: SocketAddr,
    /// Without TLS, whether others than this machine may be there.
    pub insecure_http: bool,
    pub tls: Option<TlsFiles>,
}

/// What a server speaks TLS with: files in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Clients are to show certificates of these authorities.
    pub client_authorities: Option<PathBuf>,
}

/// Why a server cannot be called.
#[derive(Debug, Error)]
pub enum ListenError {
    #[error(transparent)]
    PlainHttp(#[from] NotLoopback),
    #[error("cannot speak TLS")]
    Tls(#[from] TlsError),
    #[error("cannot wait for signals")]
    Signal(#[source] io::Error),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot serve")]
    Serve(#[source] io::Error),
}

/// A server that can be called, and does not answer yet.
pub struct Opened {
    listener: TcpListener,
    at: ServedAt,
    tls: Option<ServerTls>,
}

impl Listen {
    /// Reads the certificates and binds the address.
    pub async fn open(self) -> Result<Opened, ListenError> {
        let tls = self.tls.as_ref().map(TlsFiles::load).transpose()?;
        if tls.is_none() {
            plain_http_allowed(self.address, self.insecure_http)?;
        }
        let shown = tls.clone().zip(self.tls);
        let renew = move || match &shown {
            Some((tls, files)) => tls.renew(files.load()),
            None => tracing::info!("there are no certificates to read again"),
        };
        on_hangup(renew).map_err(ListenError::Signal)?;
        let failed = |source| ListenError::Listen { address: self.address, source };
        let listener = TcpListener::bind(self.address).await.map_err(failed)?;
        let at = ServedAt { address: listener.local_addr().map_err(failed)?, tls: tls.is_some() };
        Ok(Opened { listener, at, tls })
    }
}

impl Opened {
    /// Breaks off with clients that take nothing of what they are sent for this long: the kernel passes it on to each
    /// connection that it accepts here.
    pub fn breaking_off_after(self, stalled: Duration) -> Result<Self, ListenError> {
        let millis = stalled.as_millis().try_into().unwrap_or(u32::MAX);
        let failed = |error: Errno| ListenError::Listen { address: self.at.address, source: error.into() };
        sockopt::set_tcp_user_timeout(&self.listener, millis).map_err(failed)?;
        Ok(self)
    }

    pub fn at(&self) -> ServedAt {
        self.at
    }

    /// Answers until `shutdown`, then finishes what was begun.
    pub async fn serve(self, routes: Router, shutdown: Shutdown) -> Result<(), ListenError> {
        serve(self.listener, self.tls, routes, shutdown).await.map_err(ListenError::Serve)
    }
}

impl TlsFiles {
    fn load(&self) -> Result<ServerTls, TlsError> {
        let identity = ServerIdentity::load(&self.certificate, &self.key)?;
        ServerTls::new(identity, self.client_authorities.as_deref())
    }
}
