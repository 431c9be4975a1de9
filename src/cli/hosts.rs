//! Hosts, as the registry knows them.

use std::process::ExitCode;

use super::{
    CliError,
    context::Context,
    report::{Report, table},
};
use crate::{
    api::registry::{KnownHost, KnownHosts},
    client::RegistryClient,
    domain::id::HostId,
};

pub(super) async fn hosts(context: &Context, id: Option<HostId>) -> Result<ExitCode, CliError> {
    let registry = context.registry()?;
    match id {
        Some(host) => context.print(&registry.host(host).await?)?,
        None => context.print(&all(&registry).await?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// All pages of it.
async fn all(registry: &RegistryClient) -> Result<KnownHosts, CliError> {
    let mut whole = registry.hosts(None).await?;
    while let Some(cursor) = whole.next_cursor.take() {
        let next = registry.hosts(Some(&cursor)).await?;
        whole.hosts.extend(next.hosts);
        whole.next_cursor = next.next_cursor;
    }
    Ok(whole)
}

impl Report for KnownHosts {
    fn text(&self) -> String {
        let rows = self.hosts.iter().map(|host| {
            [
                host.host.to_string(),
                host.lender_name.clone(),
                host.address.clone(),
                state(host),
                host.partitions.to_string(),
                host.lent.to_string(),
            ]
        });
        table(["HOST", "LENDER", "ADDRESS", "STATE", "PARTITIONS", "LENT"], rows)
    }
}

impl Report for KnownHost {
    fn text(&self) -> String {
        format!(
            "host       {}\nlender     {} ({})\naddress    {}\nTLS key    {}\nenrolled   {}\nstate      {}\nheard      {}\n\
             partitions {}, of which {} lent",
            self.host,
            self.lender_name,
            self.lender,
            self.address,
            self.tls_key.map_or_else(|| "none".to_owned(), |key| key.to_string()),
            self.enrolled_at,
            state(self),
            self.heard_at.map_or_else(|| "never".to_owned(), |at| at.to_string()),
            self.partitions,
            self.lent,
        )
    }
}

fn state(host: &KnownHost) -> String {
    match (host.is_up, host.heard_at) {
        (true, _) => "up".to_owned(),
        (false, Some(since)) => format!("down since {since:.0}"),
        (false, None) => "never heard".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::domain::id::LenderId;

    #[test]
    fn a_host_that_is_down_says_since_when() {
        let mut host = KnownHost {
            host: HostId(Uuid::nil()),
            lender: LenderId(Uuid::nil()),
            lender_name: "alice".to_owned(),
            address: "https://host:1".to_owned(),
            tls_key: None,
            enrolled_at: Timestamp::UNIX_EPOCH,
            is_up: true,
            heard_at: Some(Timestamp::UNIX_EPOCH),
            partitions: 2,
            lent: 1,
        };
        assert_eq!(state(&host), "up");
        host.is_up = false;
        assert_eq!(state(&host), "down since 1970-01-01T00:00:00Z");
        host.heard_at = None;
        assert_eq!(state(&host), "never heard");
    }
}
