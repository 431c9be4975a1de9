//! Why something could not be done with a partition.

use thiserror::Error;

use crate::{
    agent::{
        guest::{jobs::SubmitError, process::VmmError, tunnels::TunnelError},
        host::{
            carve::{CarveError, ReserveError},
            disk::DiskError,
            disk_keys::DiskKeyError,
            network::NetworkError,
            users::NoUserLeft,
        },
        image_cache::ImageError,
        partition::table::TableError,
    },
    client::ClientError,
    domain::{
        lending_key::{IssueError, KeyRefusal},
        partition::NotAllowed,
        terms::BadTerms,
    },
};
use sublet_guest_protocol::JobSpecError;

#[derive(Debug, Error)]
pub enum PartitionError {
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    #[error(transparent)]
    Key(#[from] KeyRefusal),
    #[error("the partition was not opened with this key yet: borrow it first (POST …/borrow)")]
    NotBorrowed,
    #[error("the registry of this host issues its keys: borrow there")]
    KeysFromRegistry,
    #[error("duration_seconds: must be 1 to {max}, is {got}")]
    Duration { max: u64, got: u64 },
    #[error("the lending key could not be issued")]
    Issue(#[from] IssueError),
    #[error(transparent)]
    Terms(#[from] BadTerms),
    #[error("the host does not have that much to set aside")]
    Carve(#[from] CarveError),
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    #[error(transparent)]
    NoUserLeft(#[from] NoUserLeft),
    #[error("the partition has no user id for its VMM")]
    NoUser,
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("the partition's disk can have no key")]
    DiskKey(#[from] DiskKeyError),
    #[error("the partition can have no network")]
    Network(#[from] NetworkError),
    #[error("this host has no OS image {0:?}; GET /v1/host lists those it has")]
    UnknownImage(String),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("the image {running:?} is running; stop the guest first, or name that image or none")]
    OtherImage { running: String },
    #[error("no guest is running: say which image to start")]
    NoGuest,
    #[error("no guest is running: run a job first, which starts one")]
    NoGuestForTunnel,
    #[error("the partition's machine is being prepared: try again in a moment")]
    NoMachine,
    #[error(transparent)]
    Vmm(#[from] VmmError),
    #[error("the guest could not be started")]
    Boot(#[source] VmmError),
    #[error(transparent)]
    Job(#[from] JobSpecError),
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    #[error("there is no such job in this lease")]
    NoJob,
    #[error("the registry refused")]
    RegistryRefused(#[source] ClientError),
    #[error("the registry cannot be reached")]
    RegistryUnreachable(#[source] ClientError),
    #[error("cannot use the partition's directory")]
    Files(#[source] std::io::Error),
    #[error("the Idempotency-Key was used for another partition")]
    KeyReused,
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("a thread of the agent ended")]
    Thread(#[from] tokio::task::JoinError),
    /// The partition was released.
    #[error("there is no such partition")]
    Gone,
}

impl PartitionError {
    pub(super) fn of_registry(error: ClientError) -> Self {
        if error.is_unreachable() { Self::RegistryUnreachable(error) } else { Self::RegistryRefused(error) }
    }
}
