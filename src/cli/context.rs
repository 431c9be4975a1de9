//! Who asks whom: the options turned into clients, the lease store and the way to print.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::Serialize;
use uuid::Uuid;

use super::{
    CliError,
    args::Options,
    lease_store::{KeptLease, LeaseStore},
    report::{Report, print},
};
use crate::{
    api::secret::Secret,
    client::{AgentClient, RegistryClient, Trust},
    domain::id::LeaseId,
};

pub(super) struct Context {
    options: Options,
    pub(super) leases: LeaseStore,
    /// Names all that this command asks, of the registry and of hosts.
    request_id: Uuid,
}

impl Context {
    pub(super) fn new(options: Options) -> Result<Self, CliError> {
        let leases = LeaseStore::new(options.state_dir.as_deref())?;
        let request_id = options.request_id.unwrap_or_else(Uuid::new_v4);
        Ok(Self { options, leases, request_id })
    }

    pub(super) fn json(&self) -> bool {
        self.options.json
    }

    /// What all that this command asks is called.
    pub(super) fn request_id(&self) -> Uuid {
        self.request_id
    }

    /// The registry, as whoever the token file says.
    pub(super) fn registry(&self) -> Result<RegistryClient, CliError> {
        let url =
            required(&self.options.registry, "the registry's address", "--registry", "SUBLET_REGISTRY")?;
        Ok(RegistryClient::trusting(url, Some(read_secret(self.token_file()?)?), &self.trust()?)?
            .traced(self.request_id))
    }

    /// Has the token file hold another token.
    pub(super) fn keep_token(&self, token: &Secret) -> Result<(), CliError> {
        let file = self.token_file()?;
        write_secret(file, token).map_err(|source| CliError::File { path: file.clone(), source })
    }

    fn token_file(&self) -> Result<&PathBuf, CliError> {
        required(&self.options.token_file, "your token's file", "--token-file", "SUBLET_TOKEN_FILE")
    }

    /// The lender's host, as its owner.
    pub(super) fn owned_host(&self) -> Result<AgentClient, CliError> {
        let url = required(&self.options.host, "the host's address", "--host", "SUBLET_HOST")?;
        let file = required(
            &self.options.owner_token_file,
            "the owner's token file",
            "--owner-token-file",
            "SUBLET_OWNER_TOKEN_FILE",
        )?;
        let trust = self.options.host_key.map_or_else(|| self.trust(), |key| Ok(Trust::key(key)))?;
        Ok(AgentClient::trusting(url, Some(read_secret(file)?), &trust)?.traced(self.request_id))
    }

    /// The host of a lease, as the borrower that holds its key: whoever has another TLS key does not get to see it.
    pub(super) fn borrowed_host(&self, lease: &KeptLease) -> Result<AgentClient, CliError> {
        let trust = lease.host_tls_key.map_or_else(|| self.trust(), |key| Ok(Trust::key(key)))?;
        Ok(AgentClient::trusting(&lease.host_address, Some(lease.key.clone()), &trust)?
            .traced(self.request_id))
    }

    /// Whose word is taken for who a server is.
    pub(super) fn trust(&self) -> Result<Trust, CliError> {
        let file = self.options.ca_file.as_deref();
        Ok(file.map_or_else(|| Ok(Trust::default()), Trust::authorities)?)
    }

    /// The lease that was named, or the only one.
    pub(super) fn lease(&self, choice: Option<LeaseId>) -> Result<KeptLease, CliError> {
        self.leases.choose(choice)
    }

    pub(super) fn print(&self, report: &(impl Report + Serialize)) -> Result<(), CliError> {
        print(report, self.options.json)
    }
}

fn required<'a, T>(
    value: &'a Option<T>,
    what: &'static str,
    option: &'static str,
    variable: &'static str,
) -> Result<&'a T, CliError> {
    value.as_ref().ok_or(CliError::Missing { what, option, variable })
}

/// Puts a secret into a file, whole or not at all, for its owner alone.
pub(super) fn write_secret(path: &Path, secret: &Secret) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(file, "{}", secret.reveal())?;
    file.sync_all()?;
    fs::rename(new, path)
}

/// Secrets come from files, never from the command line, where every user of the machine can read them.
pub(super) fn read_secret(path: &Path) -> Result<Secret, CliError> {
    let text = fs::read_to_string(path).map_err(|source| CliError::File { path: path.to_owned(), source })?;
    Ok(Secret::new(text.trim()))
}
