//! The OS image server: the read-only part of the OCI distribution API (distribution-spec 1.1) over a directory of layouts.
//! What is put there while it runs is served from then on: each request looks anew. In reading order:

mod http;

mod asked;
mod refusal;

mod blobs;
mod lists;
mod manifests;
mod range;
mod referrers;

mod directory;
mod metrics;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::sync::Semaphore;

use crate::api::http::{Listen, ListenError, ServedAt, Shutdown};
use directory::ImageDirectory;
use metrics::Metrics;
use referrers::Subjects;

/// Most blobs that are sent at the same time: each has two pieces in memory at most, and a file and a connection open, of
/// which a process may have 1,024 where nobody allows it more.
const STREAMS_MAX: usize = 256;

/// Why an image server does not start, or ends.
#[derive(Debug, Error)]
pub enum ImageServerError {
    #[error("cannot serve images from {path:?}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot register metrics")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// What the handlers share.
struct ImageServer {
    directory: ImageDirectory,
    subjects: Subjects,
    metrics: Metrics,
    streams: Arc<Semaphore>,
}

/// Serves until `shutdown`; `listening` is told the address that was bound. A client that takes nothing of its blob for
/// `stalled` is broken off with: there is room for so many.
pub async fn run(
    directory: PathBuf,
    listen: Listen,
    stalled: Duration,
    shutdown: Shutdown,
    listening: impl FnOnce(ServedAt),
) -> Result<(), ImageServerError> {
    allow_many_connections();
    let opened = ImageDirectory::open(&directory);
    let server = ImageServer {
        directory: opened.map_err(|source| ImageServerError::Directory { path: directory, source })?,
        subjects: Subjects::default(),
        metrics: Metrics::new()?,
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
    };
    let door = listen.open().await?.breaking_off_after(stalled)?;
    listening(door.at());
    Ok(door.serve(http::router(Arc::new(server)), shutdown).await?)
}

/// Takes as many open files and connections as the system lets the process have.
fn allow_many_connections() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "there may be too few open files for many clients");
    }
}
