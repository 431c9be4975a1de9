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
    domain::matching::{Condition, Conditions, Explanation},
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
                terms.allocation.cpus.to_string(),
                size(terms.allocation.memory_mib),
                size(terms.allocation.disk_mib),
                terms.network.to_string(),
                price(&terms.price),
                terms.os_images.iter().cloned().collect::<Vec<_>>().join(", "),
                terms.cpu_model.clone(),
            ]
        });
        table(["PARTITION", "CPUS", "MEMORY", "DISK", "NETWORK", "PRICE", "OS IMAGES", "CPU MODEL"], rows)
    }
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
    fn an_empty_market_says_so() {
        assert_eq!(explained(&Explanation::default()), "nothing is on offer and free");
    }
}
