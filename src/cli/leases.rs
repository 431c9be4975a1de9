//! Leases, listed: those whose keys are kept here, or what the registry has.

use std::process::ExitCode;

use serde::Serialize;

use super::{
    CliError,
    args::LeasesArguments,
    borrow::Borrowed,
    context::Context,
    report::{Report, price, table, words},
};
use crate::{
    api::registry::{LeaseQuery, Leases},
    client::RegistryClient,
};

pub(super) async fn leases(context: &Context, arguments: &LeasesArguments) -> Result<ExitCode, CliError> {
    if arguments.all {
        let query = LeaseQuery {
            active: arguments.active.then_some(true),
            host: arguments.of_host,
            partition: arguments.of_partition,
            ..LeaseQuery::default()
        };
        context.print(&all(&context.registry()?, query).await?)?;
    } else {
        let kept = context.leases.list()?;
        context.print(&KeptLeases { leases: kept.iter().map(Borrowed::from).collect() })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// All pages of it.
async fn all(registry: &RegistryClient, query: LeaseQuery) -> Result<Leases, CliError> {
    let mut whole = registry.find_leases(&query).await?;
    // Each page ends with the lease by whose name the next one begins.
    while let (Some(_), Some(last)) = (whole.next_cursor.take(), whole.leases.last()) {
        let next = registry.find_leases(&LeaseQuery { cursor: Some(last.id.0), ..query }).await?;
        whole.leases.extend(next.leases);
        whole.next_cursor = next.next_cursor;
    }
    Ok(whole)
}

impl Report for Leases {
    fn text(&self) -> String {
        let rows = self.leases.iter().map(|lease| {
            let (until, state) = match &lease.end {
                None => (lease.expires_at, "runs".to_owned()),
                Some(end) => (end.at, words(&format!("{:?}", end.reason))),
            };
            [
                lease.id.to_string(),
                lease.partition.to_string(),
                lease.host.to_string(),
                lease.borrower.to_string(),
                price(&lease.terms.price),
                format!("{:.0}", lease.started_at),
                format!("{until:.0}"),
                state,
            ]
        });
        table(["LEASE", "PARTITION", "HOST", "BORROWER", "PRICE", "FROM", "UNTIL", "STATE"], rows)
    }
}

#[derive(Debug, Serialize)]
struct KeptLeases {
    leases: Vec<Borrowed>,
}

impl Report for KeptLeases {
    fn text(&self) -> String {
        let rows = self.leases.iter().map(|lease| {
            [
                lease.lease.to_string(),
                lease.partition.to_string(),
                lease.host_address.clone(),
                lease.expires_at.to_string(),
            ]
        });
        table(["LEASE", "PARTITION", "HOST", "UNTIL"], rows)
    }
}
