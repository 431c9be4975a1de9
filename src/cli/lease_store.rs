//! The leases whose keys are kept here, a file each that only its owner can read.

use std::{
    env, fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::CliError;
use crate::{
    api::{registry::LeaseGranted, secret::Secret},
    domain::{
        id::{HostId, LeaseId, PartitionId},
        receipt::credit::ReceiptTerms,
        resources::AllocationDigest,
        terms::Terms,
        tls_key::TlsKey,
    },
};

/// All that is needed to use a lease and to end it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KeptLease {
    pub(super) lease: LeaseId,
    pub(super) host: HostId,
    pub(super) host_address: String,
    #[serde(default)]
    pub(super) host_tls_key: Option<TlsKey>,
    pub(super) partition: PartitionId,
    pub(super) terms: Terms,
    pub(super) allocation_digest: AllocationDigest,
    pub(super) expires_at: Timestamp,
    #[serde(default)]
    pub(super) receipts: Option<ReceiptTerms>,
    pub(super) key: Secret,
}

impl From<LeaseGranted> for KeptLease {
    fn from(granted: LeaseGranted) -> Self {
        Self {
            lease: granted.lease.id,
            host: granted.lease.host,
            host_address: granted.lease.host_address,
            host_tls_key: granted.lease.host_tls_key,
            partition: granted.lease.partition,
            terms: granted.lease.terms,
            allocation_digest: granted.allocation_digest,
            expires_at: granted.lease.expires_at,
            receipts: granted.lease.receipts,
            key: granted.key,
        }
    }
}

pub(super) struct LeaseStore {
    directory: PathBuf,
    /// The host keys of guests' SSH servers, a file a lease: another lease's guest is another machine.
    known_hosts: PathBuf,
}

impl LeaseStore {
    pub(super) fn new(directory: Option<&Path>) -> Result<Self, CliError> {
        let state = match directory {
            Some(directory) => directory.to_owned(),
            None => default_directory().ok_or(CliError::NoStateDirectory)?,
        };
        let state = std::path::absolute(&state).map_err(|source| CliError::File { path: state, source })?;
        Ok(Self { directory: state.join("leases"), known_hosts: state.join("known_hosts") })
    }

    /// Keeps a lease; on the disk when this returns.
    pub(super) fn keep(&self, lease: &KeptLease) -> Result<(), CliError> {
        let path = self.path(lease.lease);
        let text = serde_json::to_vec_pretty(lease).map_err(CliError::Json)?;
        self.write(&path, &text).map_err(|source| CliError::File { path, source })
    }

    fn write(&self, path: &Path, text: &[u8]) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let partial = path.with_extension("partial");
        let mut file =
            fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(partial, path)
    }

    pub(super) fn forget(&self, lease: LeaseId) -> Result<(), CliError> {
        remove(self.known_hosts.join(lease.to_string()))?;
        remove(self.path(lease))
    }

    /// Where ssh keeps the host keys of this lease's guests.
    pub(super) fn known_hosts(&self, lease: LeaseId) -> Result<PathBuf, CliError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.known_hosts);
        made.map_err(|source| CliError::File { path: self.known_hosts.clone(), source })?;
        Ok(self.known_hosts.join(lease.to_string()))
    }

    /// The folder that holds all of this.
    pub(super) fn state_directory(&self) -> &Path {
        self.directory.parent().unwrap_or(&self.directory)
    }

    /// All leases, oldest first (their ids grow with time).
    pub(super) fn list(&self) -> Result<Vec<KeptLease>, CliError> {
        let failed = |source| CliError::File { path: self.directory.clone(), source };
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut leases = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|kind| kind == "json") {
                leases.push(read(&path)?);
            }
        }
        leases.sort_by_key(|lease| lease.lease);
        Ok(leases)
    }

    pub(super) fn choose(&self, choice: Option<LeaseId>) -> Result<KeptLease, CliError> {
        let mut leases = self.list()?;
        if let Some(id) = choice {
            return leases.into_iter().find(|lease| lease.lease == id).ok_or(CliError::UnknownLease(id));
        }
        match (leases.pop(), leases.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) => Err(CliError::NoLease),
            (Some(_), others) => Err(CliError::SeveralLeases(others + 1)),
        }
    }

    fn path(&self, lease: LeaseId) -> PathBuf {
        self.directory.join(format!("{lease}.json"))
    }
}

fn remove(path: PathBuf) -> Result<(), CliError> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(CliError::File { path, source }),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<KeptLease, CliError> {
    let text = fs::read(path).map_err(|source| CliError::File { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| CliError::BrokenLease { path: path.to_owned(), source })
}

/// Where the XDG base directory specification puts what outlives a session.
fn default_directory() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    state.map(|state| state.join("sublet"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use uuid::Uuid;

    use super::*;
    use crate::domain::{money::Price, resources::Allocation};

    fn lease(number: u128) -> KeptLease {
        let allocation = Allocation { cpus: 1, memory_mib: 256, disk_mib: 0 };
        KeptLease {
            lease: LeaseId(Uuid::from_u128(number)),
            host: HostId(Uuid::nil()),
            host_address: "http://127.0.0.1:7180".to_owned(),
            host_tls_key: None,
            receipts: None,
            partition: PartitionId(Uuid::nil()),
            terms: Terms {
                allocation,
                price: Price { per_hour_micros: 1, currency: "EUR".parse().unwrap() },
                os_images: Default::default(),
                cpu_model: String::new(),
                network: Default::default(),
                qualities: Default::default(),
                lending: Default::default(),
            },
            allocation_digest: allocation.digest(),
            expires_at: Timestamp::UNIX_EPOCH,
            key: Secret::new("secret"),
        }
    }

    fn store() -> (tempfile::TempDir, LeaseStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = LeaseStore::new(Some(directory.path())).unwrap();
        (directory, store)
    }

    #[test]
    fn the_only_lease_need_not_be_named() {
        let (_directory, store) = store();
        assert!(matches!(store.choose(None), Err(CliError::NoLease)));
        store.keep(&lease(1)).unwrap();
        assert_eq!(store.choose(None).unwrap().lease, lease(1).lease);
        store.keep(&lease(2)).unwrap();
        assert!(matches!(store.choose(None), Err(CliError::SeveralLeases(2))));
        assert_eq!(store.choose(Some(lease(2).lease)).unwrap().key.reveal(), "secret");
    }

    #[test]
    fn a_forgotten_lease_is_gone_and_may_be_forgotten_again() {
        let (_directory, store) = store();
        store.keep(&lease(1)).unwrap();
        store.forget(lease(1).lease).unwrap();
        store.forget(lease(1).lease).unwrap();
        assert!(matches!(store.choose(Some(lease(1).lease)), Err(CliError::UnknownLease(_))));
    }

    #[test]
    fn nobody_else_can_read_a_key() {
        let (_directory, store) = store();
        store.keep(&lease(1)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.path(lease(1).lease)), 0o600);
        assert_eq!(mode(&store.directory), 0o700);
    }
}
