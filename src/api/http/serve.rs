//! Listening, logging, and ending in order.

use std::{
    fmt,
    io::{self, IsTerminal as _},
    net::SocketAddr,
    time::Duration,
};

use axum::Router;
use thiserror::Error;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing_subscriber::EnvFilter;

use super::{
    listener::{Door, Peer},
    tls::ServerTls,
};

/// How long answers that were begun may take once the server was told to end.
const GRACE: Duration = Duration::from_secs(10);

/// Told to all that waits long (long polls, event streams), so that it ends when the server does.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Comes with SIGTERM or SIGINT.
    pub fn on_signals() -> io::Result<Self> {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (told, shutdown) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("ending: answers that were begun are finished");
            told.send_replace(true);
        });
        Ok(Self(shutdown))
    }

    /// Comes when the sender sends `true` or goes away.
    pub fn on(told: watch::Receiver<bool>) -> Self {
        Self(told)
    }

    /// Waits until the server is to end.
    pub async fn wait(mut self) {
        // An error says that nobody is left to tell: that is the end too.
        let _ = self.0.wait_for(|told| *told).await;
    }
}

/// Has the process do this at each SIGHUP, which would end it otherwise.
pub fn on_hangup(mut act: impl FnMut() + Send + 'static) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            act();
        }
    });
    Ok(())
}

/// Where a server can be called.
#[derive(Debug, Clone, Copy)]
pub struct ServedAt {
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
}

impl fmt::Display for ServedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }
}

/// Serves until `shutdown`, then finishes what was begun, within a bounded time. The handlers find in a `ConnectInfo`
/// who the peer is.
pub async fn serve(
    listener: TcpListener,
    tls: Option<ServerTls>,
    routes: Router,
    shutdown: Shutdown,
) -> io::Result<()> {
    let routes = routes.into_make_service_with_connect_info::<Peer>();
    let serving =
        axum::serve(Door::new(listener, tls), routes).with_graceful_shutdown(shutdown.clone().wait());
    tokio::select! {
        ended = serving => ended,
        () = async { shutdown.wait().await; tokio::time::sleep(GRACE).await } => {
            tracing::warn!("ended with answers unfinished");
            Ok(())
        }
    }
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0} is not a loopback address, and over plain HTTP others there could read tokens and keys: give --tls-cert and \
     --tls-key, listen on 127.0.0.1 or [::1], or give --insecure-http where the network is trusted"
)]
pub struct NotLoopback(pub SocketAddr);

/// Plain HTTP is for loopback alone, unless the operator says otherwise.
pub fn plain_http_allowed(address: SocketAddr, insecure_http: bool) -> Result<(), NotLoopback> {
    if insecure_http || address.ip().is_loopback() { Ok(()) } else { Err(NotLoopback(address)) }
}

/// Logs to standard error; what, by `RUST_LOG`.
pub fn init_logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(io::stderr).init();
}
