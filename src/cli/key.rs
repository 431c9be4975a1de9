//! Lending keys: looked into, narrowed, taken back.

use std::process::ExitCode;

use serde::Serialize;

use super::{
    CliError,
    args::{KeyChoice, KeyCommand, RestrictArguments},
    context::{Context, read_secret},
    lease_store::KeptLease,
    report::{Report, line},
};
use crate::{
    api::secret::Secret,
    domain::{
        id::{HostId, KeyId, LeaseId, PartitionId},
        lending_key::{Inspected, Restriction, inspect, restrict},
    },
};

pub(super) async fn key(context: &Context, command: KeyCommand) -> Result<ExitCode, CliError> {
    match command {
        KeyCommand::Restrict(arguments) => print_restricted(context, &arguments)?,
        KeyCommand::Inspect(choice) => {
            let key = chosen(context, &choice)?;
            context.print(&KeyReport::from(inspect(key.reveal()).map_err(CliError::NotAKey)?))?;
        }
        KeyCommand::Revoke { lease } => {
            let lease = context.lease(lease.lease)?;
            let granted = context.registry()?.revoke_key_of(lease.lease).await?;
            context.leases.keep(&KeptLease::from(granted))?;
            line(&format!(
                "lease      {} has another key; the old one is refused as soon as its host hears of it",
                lease.lease
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_restricted(context: &Context, arguments: &RestrictArguments) -> Result<(), CliError> {
    let key = chosen(context, &arguments.key)?;
    let only = (!arguments.only.is_empty()).then(|| arguments.only.iter().copied().collect());
    let restriction = Restriction { until: arguments.until, only };
    line(restrict(&key, &restriction, rand::random())?.reveal())
}

fn chosen(context: &Context, choice: &KeyChoice) -> Result<Secret, CliError> {
    match &choice.key_file {
        Some(file) => read_secret(file),
        None => Ok(context.lease(choice.lease.lease)?.key),
    }
}

/// A key as it may be shown.
#[derive(Debug, Serialize)]
struct KeyReport {
    key: KeyId,
    lease: LeaseId,
    host: HostId,
    partition: PartitionId,
    expires_at: jiff::Timestamp,
    restrictions: Vec<String>,
}

impl From<Inspected> for KeyReport {
    fn from(Inspected { claims, restrictions }: Inspected) -> Self {
        Self {
            key: claims.key,
            lease: claims.lease,
            host: claims.host,
            partition: claims.partition,
            expires_at: claims.expires_at,
            restrictions,
        }
    }
}

impl Report for KeyReport {
    fn text(&self) -> String {
        let restrictions = match self.restrictions.as_slice() {
            [] => "none".to_owned(),
            restrictions => restrictions.join("").trim().replace('\n', "\n           "),
        };
        format!(
            "key        {}\nlease      {}\npartition  {} at host {}\nuntil      {}\nrestricted {restrictions}",
            self.key, self.lease, self.partition, self.host, self.expires_at,
        )
    }
}
