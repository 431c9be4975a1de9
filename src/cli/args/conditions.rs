//! What a partition must have, as it is typed.

use clap::Args;

use super::{Size, Variable};
use crate::domain::{
    matching::Conditions,
    money::{Amount, Currency},
    network::Network,
};

/// What a partition must have; what is not stated is not asked, but that its CPUs are whole cores.
#[derive(Debug, Clone, Default, Args)]
pub struct ConditionArguments {
    /// At least so many CPUs
    #[arg(long, default_value_t = 1)]
    pub cpus: u32,
    /// At least this part of each CPU's time, in percent; whole cores where not stated
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub cpu_share: Option<u8>,
    /// CPUs at least so fast, in rounds a second as offers state them and `sublet doctor` measures
    #[arg(long, value_name = "ROUNDS", default_value_t = 0)]
    pub min_performance: u32,
    /// At least so much memory, for example 512MiB or 2GiB
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// At least so much disk
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<Size>,
    /// A disk that carries at least so much a second, for example 200MiB
    #[arg(long, value_name = "SIZE")]
    pub disk_rate: Option<Size>,
    /// Part of the CPU's model name
    #[arg(long, value_name = "TEXT")]
    pub cpu_model: Option<String>,
    /// Memory of huge pages
    #[arg(long)]
    pub huge_pages: bool,
    /// CPUs and memory on one NUMA node
    #[arg(long)]
    pub one_numa_node: bool,
    /// A label that the lender has put on it; may be given several times
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub labels: Vec<Variable>,
    /// The least that the guest must reach: nat is the internet
    #[arg(long, value_name = "NETWORK", default_value = "none")]
    pub network: Network,
    /// Most an hour may cost, for example 0.05EUR
    #[arg(long, value_name = "PRICE")]
    pub max_price: Option<Amount>,
    /// Only offers in this currency
    #[arg(long, value_name = "CODE", conflicts_with = "max_price")]
    pub currency: Option<Currency>,
}

impl ConditionArguments {
    /// As the registry takes them; `image` is the OS image that the host must be able to start.
    pub fn conditions(&self, image: Option<&str>) -> Conditions {
        Conditions {
            min_cpus: self.cpus,
            min_cpu_share_percent: self.cpu_share,
            min_performance: self.min_performance,
            min_memory_mib: self.memory.map_or(0, |size| size.mib),
            min_disk_mib: self.disk.map_or(0, |size| size.mib),
            min_disk_mib_per_s: self.disk_rate.map_or(0, |size| u32::try_from(size.mib).unwrap_or(u32::MAX)),
            os_image: image.map(str::to_owned),
            cpu_model: self.cpu_model.clone(),
            huge_pages: self.huge_pages,
            one_numa_node: self.one_numa_node,
            labels: self.labels.iter().map(|label| (label.name.clone(), label.value.clone())).collect(),
            network: self.network,
            max_price_per_hour_micros: self.max_price.map(|price| price.micros.0),
            currency: self.max_price.map(|price| price.currency).or(self.currency),
        }
    }
}
