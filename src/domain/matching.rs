//! Whether an offer satisfies a request: the one predicate of search and commit [0034, 0080–0082].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{money::Currency, network::Network, qualities::WHOLE_CPU_PERCENT, terms::Terms};

/// What a borrower asks for; what is not stated is not asked, but that a CPU is a whole one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Conditions {
    pub min_cpus: u32,
    /// Least part of each CPU's time, in percent; none: whole cores only.
    pub min_cpu_share_percent: Option<u8>,
    /// How fast each CPU must be, as offers state it; 0: whether anything is promised does not matter.
    pub min_performance: u32,
    pub min_memory_mib: u64,
    pub min_disk_mib: u64,
    /// What the disk must carry at least; 0: whether anything is promised does not matter.
    pub min_disk_mib_per_s: u32,
    /// Name of an OS image that the host must be able to start.
    pub os_image: Option<String>,
    /// Part of the CPU's model name, in any case.
    pub cpu_model: Option<String>,
    /// Its memory must be of huge pages.
    pub huge_pages: bool,
    /// All its CPUs and memory must lie on one NUMA node.
    pub one_numa_node: bool,
    /// The least that the guest must reach; `none`: whether it has a network does not matter.
    pub network: Network,
    /// Labels that it must have, with these values.
    pub labels: BTreeMap<String, String>,
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
    CpuShare,
    Performance,
    Memory,
    Disk,
    DiskRate,
    OsImage,
    CpuModel,
    HugePages,
    NumaNodes,
    Network,
    Labels,
    Price,
    Currency,
}

impl Condition {
    /// Those that are judged fastest come first.
    pub const ALL: [Self; 14] = [
        Self::Currency,
        Self::Cpus,
        Self::Memory,
        Self::Disk,
        Self::Price,
        Self::CpuShare,
        Self::Performance,
        Self::DiskRate,
        Self::HugePages,
        Self::NumaNodes,
        Self::Network,
        Self::OsImage,
        Self::Labels,
        Self::CpuModel,
    ];
}

impl Conditions {
    /// Whether `terms` meet one of the conditions.
    ///
    /// Where an image server has the OS, whoever asks leaves `os_image` out [0164]: nothing else depends on it.
    pub fn met_by(&self, terms: &Terms, condition: Condition) -> bool {
        let (allocation, qualities) = (&terms.allocation, &terms.qualities);
        match condition {
            Condition::Cpus => self.cpus_met_by(allocation.cpus),
            Condition::CpuShare => {
                qualities.cpu_percent() >= self.min_cpu_share_percent.unwrap_or(WHOLE_CPU_PERCENT)
            }
            Condition::Performance => qualities.performance.unwrap_or(0) >= self.min_performance,
            Condition::Memory => self.memory_met_by(allocation.memory_mib),
            Condition::Disk => self.disk_met_by(allocation.disk_mib),
            Condition::DiskRate => qualities.disk_mib_per_s.unwrap_or(0) >= self.min_disk_mib_per_s,
            Condition::OsImage => self.os_image.as_ref().is_none_or(|os| terms.os_images.contains(os)),
            Condition::CpuModel => {
                self.cpu_model.as_ref().is_none_or(|part| contains_in_any_case(&terms.cpu_model, part))
            }
            Condition::HugePages => qualities.huge_pages || !self.huge_pages,
            Condition::NumaNodes => qualities.numa_nodes == Some(1) || !self.one_numa_node,
            Condition::Network => terms.network >= self.network,
            Condition::Labels => {
                self.labels.iter().all(|(name, value)| qualities.labels.get(name) == Some(value))
            }
            Condition::Price => self.price_met_by(terms.price.per_hour_micros),
            Condition::Currency => self.currency.is_none_or(|currency| terms.price.currency == currency),
        }
    }

    /// Whether so many CPUs are enough; so are any more.
    pub fn cpus_met_by(&self, cpus: u32) -> bool {
        cpus >= self.min_cpus
    }

    /// Whether so much memory is enough; so is any more.
    pub fn memory_met_by(&self, memory_mib: u64) -> bool {
        memory_mib >= self.min_memory_mib
    }

    /// Whether so much disk is enough; so is any more.
    pub fn disk_met_by(&self, disk_mib: u64) -> bool {
        disk_mib >= self.min_disk_mib
    }

    /// Whether such a price is low enough; so is any lower.
    pub fn price_met_by(&self, per_hour_micros: i64) -> bool {
        self.max_price_per_hour_micros.is_none_or(|max| per_hour_micros <= max)
    }

    /// The conditions that `terms` do not meet; none: the offer matches.
    pub fn unmet_by(&self, terms: &Terms) -> impl Iterator<Item = Condition> {
        Condition::ALL.into_iter().filter(|condition| !self.met_by(terms, *condition))
    }

    pub fn satisfied_by(&self, terms: &Terms) -> bool {
        self.unmet_by(terms).next().is_none()
    }
}

fn contains_in_any_case(text: &str, part: &str) -> bool {
    let (text, part) = (text.as_bytes(), part.as_bytes());
    part.is_empty() || text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
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
            self.fell(condition, 1);
        }
    }

    /// So many more fell to `condition`.
    pub fn fell(&mut self, condition: Condition, count: u64) {
        if count > 0 {
            *self.fell_to.entry(condition).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{money::Price, qualities::Qualities, resources::Allocation};

    fn terms() -> Terms {
        Terms {
            allocation: Allocation { cpus: 2, memory_mib: 512, disk_mib: 64 },
            price: Price { per_hour_micros: 40_000, currency: "EUR".parse().unwrap() },
            os_images: ["debian-micro".to_owned()].into(),
            cpu_model: "AMD EPYC 7763".to_owned(),
            network: Network::None,
            qualities: Qualities {
                performance: Some(800),
                disk_mib_per_s: Some(100),
                huge_pages: true,
                numa_nodes: Some(1),
                labels: [("zone".to_owned(), "eu-1".to_owned()), ("rack".to_owned(), "7".to_owned())].into(),
                ..Qualities::default()
            },
            lending: Default::default(),
        }
    }

    /// All that there is to ask for, and `terms` just have.
    fn all() -> Conditions {
        Conditions {
            min_cpus: 2,
            min_cpu_share_percent: Some(100),
            min_performance: 800,
            min_memory_mib: 512,
            min_disk_mib: 64,
            min_disk_mib_per_s: 100,
            os_image: Some("debian-micro".to_owned()),
            cpu_model: Some("epyc".to_owned()),
            huge_pages: true,
            one_numa_node: true,
            network: Network::None,
            labels: [("zone".to_owned(), "eu-1".to_owned())].into(),
            max_price_per_hour_micros: Some(40_000),
            currency: Some("EUR".parse().unwrap()),
        }
    }

    #[test]
    fn no_conditions_are_met_by_every_offer_of_whole_cores() {
        assert!(Conditions::default().satisfied_by(&terms()));
    }

    #[test]
    fn an_offer_that_is_exactly_what_was_asked_matches() {
        assert!(all().satisfied_by(&terms()));
    }

    #[test]
    fn each_condition_that_is_not_met_is_named() {
        let conditions = Conditions {
            min_cpus: 3,
            min_performance: 801,
            min_memory_mib: 513,
            min_disk_mib: 65,
            min_disk_mib_per_s: 101,
            os_image: Some("other".to_owned()),
            cpu_model: Some("xeon".to_owned()),
            network: Network::Nat,
            labels: [("zone".to_owned(), "eu-2".to_owned())].into(),
            max_price_per_hour_micros: Some(39_999),
            currency: Some("USD".parse().unwrap()),
            ..all()
        };
        let less = Qualities {
            cpu_share_percent: Some(99),
            huge_pages: false,
            numa_nodes: None,
            ..terms().qualities
        };
        let unmet = conditions.unmet_by(&Terms { qualities: less, ..terms() }).collect::<Vec<_>>();
        assert_eq!(unmet, Condition::ALL);
    }

    #[test]
    fn a_share_of_a_cpu_is_for_whom_asks_for_no_more() {
        let share = Qualities { cpu_share_percent: Some(50), ..Qualities::default() };
        let share = Terms { qualities: share, ..terms() };
        let asked = |percent| Conditions { min_cpu_share_percent: percent, ..Conditions::default() };
        assert!(asked(Some(50)).satisfied_by(&share) && asked(Some(50)).satisfied_by(&terms()));
        for more in [None, Some(51), Some(100)] {
            assert_eq!(asked(more).unmet_by(&share).collect::<Vec<_>>(), [Condition::CpuShare]);
        }
    }

    #[test]
    fn what_a_host_does_not_promise_meets_no_condition() {
        let silent = Terms { qualities: Qualities::default(), ..terms() };
        let unmet = [
            Condition::Performance,
            Condition::DiskRate,
            Condition::HugePages,
            Condition::NumaNodes,
            Condition::Labels,
        ];
        assert_eq!(all().unmet_by(&silent).collect::<Vec<_>>(), unmet);
    }

    #[test]
    fn a_model_is_found_by_any_part_of_its_name() {
        let asked = |part: &str| Conditions { cpu_model: Some(part.to_owned()), ..Conditions::default() };
        for part in ["", "AMD", "epyc 7763", "63"] {
            assert!(asked(part).satisfied_by(&terms()), "{part:?}");
        }
        assert!(!asked("AMD EPYC 7763 and more").satisfied_by(&terms()));
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
