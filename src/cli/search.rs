//! Offers that meet conditions.

use std::process::ExitCode;

use super::{
    CliError,
    args::SearchArguments,
    context::Context,
    report::{Report, price, size, table},
};
use crate::{
    api::registry::{Offer, Search, SearchReply},
    client::RegistryClient,
    domain::{
        matching::{Condition, Conditions, Explanation},
        qualities::Qualities,
        terms::Terms,
    },
};

pub(super) async fn search(context: &Context, arguments: &SearchArguments) -> Result<ExitCode, CliError> {
    let search = Search {
        conditions: arguments.conditions.conditions(arguments.image.as_deref()),
        limit: Some(arguments.limit),
        cursor: None,
    };
    context.print(&context.registry()?.search(&search).await?)?;
    Ok(ExitCode::SUCCESS)
}

/// The cheapest offers that meet `conditions`; none is an error that says why.
pub(super) async fn offers(
    registry: &RegistryClient,
    conditions: Conditions,
) -> Result<Vec<Offer>, CliError> {
    let found = registry.search(&Search { conditions, ..Search::default() }).await?;
    if found.offers.is_empty() {
        return Err(CliError::NoOffer(explained(&found.explanation.unwrap_or_default())));
    }
    Ok(found.offers)
}

impl Report for SearchReply {
    fn text(&self) -> String {
        if self.offers.is_empty() {
            return format!("No offer: {}.", explained(&self.explanation.clone().unwrap_or_default()));
        }
        let rows = self.offers.iter().map(|offer| {
            let terms = &offer.terms;
            [
                offer.partition.to_string(),
                cpus(terms),
                size(terms.allocation.memory_mib),
                size(terms.allocation.disk_mib),
                terms.network.to_string(),
                price(&terms.price),
                terms.os_images.iter().cloned().collect::<Vec<_>>().join(", "),
                terms.cpu_model.clone(),
                qualities(&terms.qualities),
            ]
        });
        table(
            [
                "PARTITION",
                "CPUS",
                "MEMORY",
                "DISK",
                "NETWORK",
                "PRICE",
                "OS IMAGES",
                "CPU MODEL",
                "QUALITIES",
            ],
            rows,
        )
    }
}

fn cpus(terms: &Terms) -> String {
    let share = terms.qualities.cpu_share_percent.map(|percent| format!(" ({percent}% each)"));
    format!("{}{}", terms.allocation.cpus, share.unwrap_or_default())
}

/// What a host promises beyond sizes.
fn qualities(qualities: &Qualities) -> String {
    let Qualities { cpu_share_percent: _, performance, disk_mib_per_s, huge_pages, numa_nodes, labels } =
        qualities;
    let promises = [
        performance.map(|rounds| format!("{rounds} rounds/s")),
        disk_mib_per_s.map(|rate| format!("disk {rate} MiB/s")),
        huge_pages.then(|| "huge pages".to_owned()),
        (*numa_nodes == Some(1)).then(|| "one NUMA node".to_owned()),
    ];
    let labels = labels.iter().map(|(name, value)| format!("{name}={value}"));
    promises.into_iter().flatten().chain(labels).collect::<Vec<_>>().join(", ")
}

/// Says how many offers fell to which condition.
fn explained(explanation: &Explanation) -> String {
    if explanation.considered == 0 {
        return "nothing is on offer and free".to_owned();
    }
    let fell: Vec<String> = explanation
        .fell_to
        .iter()
        .map(|(condition, count)| format!("{count} {}", lack(*condition)))
        .collect();
    format!("of {} on offer and free, {}", explanation.considered, fell.join(", "))
}

fn lack(condition: Condition) -> &'static str {
    match condition {
        Condition::Cpus => "have too few CPUs",
        Condition::CpuShare => "have too small a share of each CPU",
        Condition::Performance => "promise no CPUs so fast",
        Condition::DiskRate => "promise no disk so fast",
        Condition::HugePages => "promise no huge pages",
        Condition::NumaNodes => "do not promise one NUMA node",
        Condition::Labels => "lack those labels",
        Condition::Memory => "have too little memory",
        Condition::Disk => "have too little disk",
        Condition::OsImage => "cannot start that OS image",
        Condition::CpuModel => "have another CPU model",
        Condition::Network => "have no such network",
        Condition::Price => "cost too much",
        Condition::Currency => "are priced in another currency",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_search_says_what_offers_fell_to() {
        let fell_to = [(Condition::Cpus, 2), (Condition::Price, 1)].into();
        assert_eq!(
            explained(&Explanation { considered: 3, fell_to }),
            "of 3 on offer and free, 2 have too few CPUs, 1 cost too much"
        );
    }

    #[test]
    fn only_what_a_host_promises_is_listed() {
        assert_eq!(qualities(&Qualities::default()), "");
        let labels = [("zone".to_owned(), "eu-1".to_owned())].into();
        let some = Qualities { numa_nodes: Some(1), labels, ..Qualities::default() };
        assert_eq!(qualities(&some), "one NUMA node, zone=eu-1");
    }

    #[test]
    fn an_empty_market_says_so() {
        assert_eq!(explained(&Explanation::default()), "nothing is on offer and free");
    }
}
