//! A lender's own host and its partition table.

use std::process::ExitCode;

use serde::Serialize;

use super::{
    CliError,
    args::{CarveArguments, PartitionCommand, Size},
    context::Context,
    report::{Report, allocation, line, price, size, table},
};
use crate::{
    api::agent::{
        Capacity, CarvePartition, ChangePartition, GuestState, HostView, HungHow, IssueKey, KeyIssued,
        PartitionState, PartitionView, Partitions, TopologyView,
    },
    client::AgentClient,
    domain::{
        id::PartitionId,
        money::{Amount, Price},
        partition::Kind,
        resources::Allocation,
    },
};

pub(super) async fn host(context: &Context, rotate_token: bool) -> Result<ExitCode, CliError> {
    let host = context.owned_host()?;
    if rotate_token {
        host.rotate_token().await?;
    }
    context.print(&host.host().await?)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn partition(context: &Context, command: PartitionCommand) -> Result<ExitCode, CliError> {
    let host = context.owned_host()?;
    match command {
        PartitionCommand::Carve(arguments) => context.print(&host.carve(&carving(&arguments)).await?)?,
        PartitionCommand::List => context.print(&host.partitions().await?)?,
        PartitionCommand::Show { partition } => context.print(&host.partition(partition).await?)?,
        PartitionCommand::Change { partition, cpus, memory, disk, price, new_key } => {
            let stated = [cpus.map(u64::from), mib(memory), mib(disk)];
            let change = ChangePartition { new_key, ..changed(&host, partition, stated, price).await? };
            context.print(&host.change(partition, &change).await?)?;
        }
        PartitionCommand::Offer { partition } => context.print(&host.offer(partition).await?)?,
        PartitionCommand::Withdraw { partition } => context.print(&host.withdraw(partition).await?)?,
        PartitionCommand::Release { partition } => release(context, &host, partition).await?,
        PartitionCommand::Key { partition, duration } => {
            let wish = IssueKey { duration_seconds: duration.seconds };
            context.print(&host.issue_key(partition, &wish).await?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn carving(arguments: &CarveArguments) -> CarvePartition {
    let allocation =
        Allocation { cpus: arguments.cpus, memory_mib: arguments.memory.mib, disk_mib: arguments.disk.mib };
    CarvePartition {
        allocation,
        cpu_share_percent: arguments.share,
        price: arguments.price.map(per_hour),
        network: arguments.network,
        kind: kind(arguments),
    }
}

fn kind(arguments: &CarveArguments) -> Kind {
    match (arguments.declared, arguments.own) {
        (true, _) => Kind::Declared,
        (false, true) => Kind::Owners,
        (false, false) => Kind::Standing,
    }
}

fn mib(size: Option<Size>) -> Option<u64> {
    size.map(|size| size.mib)
}

/// What was stated of `[cpus, memory, disk]` over what the partition has now.
async fn changed(
    host: &AgentClient,
    partition: PartitionId,
    stated: [Option<u64>; 3],
    price: Option<Amount>,
) -> Result<ChangePartition, CliError> {
    let [cpus, memory_mib, disk_mib] = stated;
    let allocation = if stated.iter().any(Option::is_some) {
        let now = host.partition(partition).await?.terms.allocation;
        Some(Allocation {
            cpus: cpus.map_or(now.cpus, |cpus| u32::try_from(cpus).unwrap_or(u32::MAX)),
            memory_mib: memory_mib.unwrap_or(now.memory_mib),
            disk_mib: disk_mib.unwrap_or(now.disk_mib),
        })
    } else {
        None
    };
    Ok(ChangePartition { allocation, price: price.map(per_hour), new_key: false })
}

/// The price at which an hour costs this.
fn per_hour(Amount { micros, currency }: Amount) -> Price {
    Price { per_hour_micros: micros.0, currency }
}

async fn release(context: &Context, host: &AgentClient, partition: PartitionId) -> Result<(), CliError> {
    host.release(partition).await?;
    if context.json() {
        line(&serde_json::json!({ "released": partition }).to_string())
    } else {
        line(&format!("partition  {partition} is released; its resources are the host's again"))
    }
}

impl Report for HostView {
    fn text(&self) -> String {
        let images: Vec<String> =
            self.os_images.iter().map(|image| format!("{} ({})", image.name, image.os)).collect();
        format!(
            "host       {}\nCPU        {}\nmade of    {}\nhas        {}\nkeeps      {}\nowner has  {}\nfree       {}\nOS images  {}\nregistry   {}\nTLS key    {}",
            self.host,
            self.cpu_model,
            topology(&self.topology),
            capacity(&self.total),
            capacity(&self.reserve),
            capacity(&self.owner_has),
            capacity(&self.free),
            images.join(", "),
            self.registry.as_deref().unwrap_or("none: lends directly only"),
            self.tls_key.map_or_else(|| "none: speaks plain HTTP".to_owned(), |key| key.to_string()),
        )
    }
}

fn topology(topology: &TopologyView) -> String {
    let huge = match topology.huge_pages_mib {
        0 => String::new(),
        mib => format!(", {} in huge pages", size(mib)),
    };
    let rounds = topology.performance.map(|rounds| format!(", {rounds} rounds/s a CPU"));
    format!(
        "{} sockets, {} cores, {} NUMA nodes{huge}{}",
        topology.sockets,
        topology.cores,
        topology.numa_nodes,
        rounds.unwrap_or_default()
    )
}

fn capacity(capacity: &Capacity) -> String {
    format!(
        "{} CPUs, {} of memory, {} of disk",
        capacity.cpus,
        size(capacity.memory_mib),
        size(capacity.disk_mib)
    )
}

impl Report for PartitionView {
    fn text(&self) -> String {
        let cpus: Vec<String> = self.host_cpus.iter().map(u32::to_string).collect();
        let share = self.terms.qualities.cpu_share_percent;
        let share = share.map(|percent| format!(" ({percent}% of each)")).unwrap_or_default();
        let lease = match &self.lease {
            Some(lease) => format!("{} until {}", lease.lease, lease.expires_at),
            None => "none".to_owned(),
        };
        format!(
            "partition  {}\nkind       {}\nstate      {}\nhas        {}\nCPUs       {}\nnetwork    {}\nprice      {}\nguest      {}\nlease      {lease}",
            self.id,
            self.kind,
            state(self.state),
            allocation(&self.terms.allocation),
            cpus.join(", ") + &share,
            self.terms.network,
            price(&self.terms.price),
            guest(self),
        )
    }
}

impl Report for Partitions {
    fn text(&self) -> String {
        let rows = self.partitions.iter().map(|partition| {
            let terms = &partition.terms;
            [
                partition.id.to_string(),
                partition.kind.to_string(),
                state(partition.state).to_owned(),
                terms.allocation.cpus.to_string(),
                size(terms.allocation.memory_mib),
                size(terms.allocation.disk_mib),
                terms.network.to_string(),
                price(&terms.price),
                guest(partition),
            ]
        });
        table(["PARTITION", "KIND", "STATE", "CPUS", "MEMORY", "DISK", "NETWORK", "PRICE", "GUEST"], rows)
    }
}

impl Report for KeyIssued {
    fn text(&self) -> String {
        format!(
            "lease      {}\nhost       {}\npartition  {}\nallocation {}\nuntil      {}\nkey        {}",
            self.lease,
            self.host,
            self.partition,
            self.allocation_digest,
            self.expires_at,
            self.key.reveal(),
        )
    }
}

fn state(state: PartitionState) -> &'static str {
    match state {
        PartitionState::Carved => "carved",
        PartitionState::Offered => "offered",
        PartitionState::Lent => "lent",
        PartitionState::Scrubbing => "scrubbing",
        PartitionState::Withdrawn => "withdrawn",
    }
}

fn guest(partition: &PartitionView) -> String {
    match &partition.guest_hung {
        Some(hung) => {
            format!("{}, {} since {}", guest_state(&partition.guest), silence(hung.how), hung.since)
        }
        None => guest_state(&partition.guest),
    }
}

fn silence(how: HungHow) -> &'static str {
    match how {
        HungHow::NotCalled => "its job runner has not called",
        HungHow::NotHeard => "hangs: not heard",
    }
}

fn guest_state(guest: &GuestState) -> String {
    match guest {
        GuestState::Absent => "absent".to_owned(),
        GuestState::Prepared => "prepared".to_owned(),
        GuestState::Booting { image } => format!("booting {image}"),
        GuestState::Running { image } => format!("running {image}"),
        GuestState::Off { how } => format!("off: {}", tag(how, "how")),
    }
}

/// The wire's own word for a state, for people too.
fn tag(value: &impl Serialize, field: &str) -> String {
    let text =
        serde_json::to_value(value).ok().and_then(|value| Some(value.get(field)?.as_str()?.to_owned()));
    text.unwrap_or_default().replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::agent::GuestEnd;

    #[test]
    fn a_guest_that_ended_says_how() {
        assert_eq!(guest_state(&GuestState::Off { how: GuestEnd::TripleFault }), "off: triple fault");
    }
}
