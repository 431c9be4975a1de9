//! Whether an offer satisfies a request: the one predicate of search and commit [0034, 0080–0082].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{money::Currency, network::Network, terms::Terms};

/// What a borrower asks for; what is not stated is not asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Conditions {
    pub min_cpus: u32,
    pub min_memory_mib: u64,
    pub min_disk_mib: u64,
    /// Name of an OS image that the host must be able to start.
    pub os_image: Option<String>,
    /// Part of the CPU's model name, in any case.
    pub cpu_model: Option<String>,
    /// The least that the guest must reach; `none`: whether it has a network does not matter.
    pub network: Network,
    /// Most an hour may cost, in millionths of `currency`'s unit.
    pub max_price_per_hour_micros: Option<i64>,
    /// Only offers in this currency.
    pub currency: Option<Currency>,
}

/// One condition, as an empty search explains itself with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    Cpus,
    Memory,
    Disk,
    OsImage,
    CpuModel,
    Network,
    Price,
    Currency,
}

impl Conditions {
    /// The conditions that `terms` do not meet; none: the offer matches.
    pub fn unmet_by(&self, terms: &Terms) -> impl Iterator<Item = Condition> {
        let allocation = &terms.allocation;
        let has_model =
            |model: &String| terms.cpu_model.to_ascii_lowercase().contains(&model.to_ascii_lowercase());
        let met = [
            (Condition::Cpus, allocation.cpus >= self.min_cpus),
            (Condition::Memory, allocation.memory_mib >= self.min_memory_mib),
            (Condition::Disk, allocation.disk_mib >= self.min_disk_mib),
            (Condition::OsImage, self.os_image.as_ref().is_none_or(|os| terms.os_images.contains(os))),
            (Condition::CpuModel, self.cpu_model.as_ref().is_none_or(has_model)),
            (Condition::Network, terms.network >= self.network),
            (
                Condition::Price,
                self.max_price_per_hour_micros.is_none_or(|max| terms.price.per_hour_micros <= max),
            ),
            (Condition::Currency, self.currency.is_none_or(|currency| terms.price.currency == currency)),
        ];
        met.into_iter().filter(|(_, met)| !met).map(|(condition, _)| condition)
    }

    pub fn satisfied_by(&self, terms: &Terms) -> bool {
        self.unmet_by(terms).next().is_none()
    }
}

/// How many offers fell to each condition; an offer that fails several counts for each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Explanation {
    /// Offers looked at: free, and of hosts that were heard of.
    pub considered: u64,
    pub fell_to: BTreeMap<Condition, u64>,
}

impl Explanation {
    /// Counts one offer.
    pub fn count(&mut self, conditions: &Conditions, terms: &Terms) {
        self.considered += 1;
        for condition in conditions.unmet_by(terms) {
            *self.fell_to.entry(condition).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{money::Price, resources::Allocation};

    fn terms() -> Terms {
        Terms {
            allocation: Allocation { cpus: 2, memory_mib: 512, disk_mib: 64 },
            price: Price { per_hour_micros: 40_000, currency: "EUR".parse().unwrap() },
            os_images: ["debian-micro".to_owned()].into(),
            cpu_model: "AMD EPYC 7763".to_owned(),
            network: Network::None,
        }
    }

    #[test]
    fn no_conditions_are_met_by_every_offer() {
        assert!(Conditions::default().satisfied_by(&terms()));
    }

    #[test]
    fn an_offer_that_is_exactly_what_was_asked_matches() {
        let conditions = Conditions {
            min_cpus: 2,
            min_memory_mib: 512,
            min_disk_mib: 64,
            os_image: Some("debian-micro".to_owned()),
            cpu_model: Some("epyc".to_owned()),
            network: Network::None,
            max_price_per_hour_micros: Some(40_000),
            currency: Some("EUR".parse().unwrap()),
        };
        assert!(conditions.satisfied_by(&terms()));
    }

    #[test]
    fn each_condition_that_is_not_met_is_named() {
        let conditions = Conditions {
            min_cpus: 3,
            min_memory_mib: 513,
            min_disk_mib: 65,
            os_image: Some("other".to_owned()),
            cpu_model: Some("xeon".to_owned()),
            network: Network::Nat,
            max_price_per_hour_micros: Some(39_999),
            currency: Some("USD".parse().unwrap()),
        };
        assert_eq!(conditions.unmet_by(&terms()).count(), 8);
    }

    #[test]
    fn a_partition_with_a_network_also_does_for_whom_one_does_not_matter() {
        let connected = Terms { network: Network::Nat, ..terms() };
        let wanted = Conditions { network: Network::Nat, ..Conditions::default() };
        assert!(wanted.satisfied_by(&connected) && Conditions::default().satisfied_by(&connected));
        assert_eq!(wanted.unmet_by(&terms()).collect::<Vec<_>>(), [Condition::Network]);
    }

    #[test]
    fn an_explanation_counts_an_offer_for_each_condition_it_fell_to() {
        let conditions = Conditions { min_cpus: 3, min_memory_mib: 9999, ..Conditions::default() };
        let mut explanation = Explanation::default();
        explanation.count(&conditions, &terms());
        explanation.count(&conditions, &terms());
        assert_eq!(explanation.considered, 2);
        assert_eq!(explanation.fell_to, [(Condition::Cpus, 2), (Condition::Memory, 2)].into());
    }
}
